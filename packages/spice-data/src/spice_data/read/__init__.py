"""Readers of SPICE's HDF5 layout, extended XYZ and other files that ASE reads."""

from spice_data.read._inspect import Report, inspect
from spice_data.read.atoms import Labels, from_ase, to_ase
from spice_data.read.frames import read_atoms, read_frames
from spice_data.read.molecule import Molecule
from spice_data.read.spice import SpiceFile, open
from spice_data.read.xyz import write_xyz

__all__ = [
    "Labels",
    "Molecule",
    "Report",
    "SpiceFile",
    "from_ase",
    "inspect",
    "open",
    "read_atoms",
    "read_frames",
    "to_ase",
    "write_xyz",
]
