"""Data for training interatomic potentials: download, check, filter, split and stream SPICE 2 and ASE inputs."""

from spice_data.errors import DataError
from spice_data.example import example_path
from spice_data.read import (
    Labels,
    Molecule,
    SpiceFile,
    from_ase,
    inspect,
    open,
    read_atoms,
    read_frames,
    to_ase,
    write_xyz,
)
from spice_data.records import Batch, Frame
from spice_data.selection import Selection, select
from spice_data.store import Split, Store, StoreWriter, convert, split

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "DataError",
    "Frame",
    "Labels",
    "Molecule",
    "Selection",
    "SpiceFile",
    "Split",
    "Store",
    "StoreWriter",
    "convert",
    "example_path",
    "from_ase",
    "inspect",
    "open",
    "read_atoms",
    "read_frames",
    "select",
    "split",
    "to_ase",
    "write_xyz",
]
