"""The store's layout: an HDF5 file of flat, page-aligned, contiguous datasets.

Every array is contiguous and starts on a page, so that its rows lie at a known byte of the file and are
read with one ``pread`` each: no HDF5 machinery, no memory map, the same from any forked or spawned process.

======================  =================  ============================================================
dataset                 shape, dtype       contents
======================  =================  ============================================================
positions               (A, 3) f4 or f8    all atoms of all frames, frame after frame; attribute units
forces                  (A, 3) f4 or f8    the same for forces (minus the gradient); attribute units
atomic_numbers          (A,) u1            the same for atomic numbers
frames                  (F,) FRAME         first row and number of atoms, energies, molecule, subset
molecules               (M,) MOLECULE      where name and SMILES lie in text, charge, frames
text                    (T,) u1            names and SMILES, UTF-8, one after another
metadata                one string         JSON: subsets, statistics, checksums (CRC-32), provenance
======================  =================  ============================================================

Root attributes: format, format_version, energy_units.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import h5py
import numpy as np

FORMAT = "spice-data-store"
VERSION = 1
PAGE = 4096
COLUMNS = ("positions", "forces", "atomic_numbers", "frames", "molecules", "text")

FRAME = np.dtype(
    [
        ("start", "<i8"),
        ("energy", "<f8"),
        ("formation_energy", "<f8"),
        ("atoms", "<i4"),
        ("molecule", "<i4"),
        ("source_frame", "<i4"),
        ("subset", "<i4"),
    ]
)
"""One frame: its first atom row, energies, number of atoms, molecule, index in its source group, subset."""

MOLECULE = np.dtype(
    [
        ("text", "<i8"),
        ("first_frame", "<i8"),
        ("frames", "<i4"),
        ("name_bytes", "<i4"),
        ("smiles_bytes", "<i4"),
        ("charge", "<i4"),
    ]
)
"""One molecule: where name and SMILES start in ``text``, its frames, lengths in bytes, total charge."""


class Totals(NamedTuple):
    """Sizes of a store: frames F, atoms A over all frames, molecules M, bytes of text T."""

    frames: int
    atoms: int
    molecules: int
    text: int

    def bytes(self, dtype: np.dtype) -> int:
        """Size of such a store with positions and forces of ``dtype``, to within a few pages."""
        atom = 6 * np.dtype(dtype).itemsize + 1
        rows = self.frames * FRAME.itemsize + self.molecules * MOLECULE.itemsize
        return self.atoms * atom + rows + self.text + 16 * PAGE


class Column(NamedTuple):
    """Where one dataset lies: byte offset in the file, dtype, shape and bytes of a row, number of rows."""

    offset: int
    dtype: np.dtype
    row: tuple[int, ...]
    row_bytes: int
    rows: int


def columns_of(file: h5py.File) -> dict[str, Column]:
    """Where each dataset of a store lies."""
    columns = {}
    for name in COLUMNS:
        dataset = file[name]
        offset = dataset.id.get_offset() if dataset.size else 0
        row = dataset.shape[1:]
        columns[name] = Column(
            offset, dataset.dtype, row, dataset.dtype.itemsize * math.prod(row), len(dataset)
        )
    return columns


def create(path: Path, totals: Totals, dtype: np.dtype, units: tuple[str, str, str]) -> dict[str, Column]:
    """Create an empty store with room for ``totals``, space not yet written; where its datasets lie.

    Parameters
    ----------
    path : Path
        Overwritten if it exists.
    totals : Totals
        The sizes.
    dtype : float32 or float64
        Of positions and forces.
    units : (str, str, str)
        Of length, energy and force.
    """
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    floats = np.dtype(dtype).newbyteorder("<")
    with h5py.File(path, "w", alignment_threshold=1, alignment_interval=PAGE) as file:
        for name, kind, shape in (
            ("positions", floats, (totals.atoms, 3)),
            ("forces", floats, (totals.atoms, 3)),
            ("atomic_numbers", np.dtype("u1"), (totals.atoms,)),
            ("frames", FRAME, (totals.frames,)),
            ("molecules", MOLECULE, (totals.molecules,)),
            ("text", np.dtype("u1"), (totals.text,)),
        ):
            file.create_dataset(name, shape, kind, dcpl=early)
        file["positions"].attrs["units"] = units[0]
        file.attrs["energy_units"] = units[1]
        file["forces"].attrs["units"] = units[2]
    with h5py.File(path, "r") as file:
        return columns_of(file)
