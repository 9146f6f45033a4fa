"""Layout of a store: an HDF5 file of flat columns, each written in contiguous, page-aligned pieces.

A store is written by streaming: whenever enough frames are at hand, one more piece of every column goes into the
group ``0``, ``1``, ... of the file. The pieces of a column, one after another, are the column. The place of every
piece is in the metadata, so that a row is read with one ``pread``: no HDF5 call, no memory map, the same from any
forked or spawned process.

======================  =================  ============================================================
column                  shape, dtype       contents
======================  =================  ============================================================
positions               (A, 3) f4 or f8    all atoms of all frames, frame after frame
forces                  (A, 3) f4 or f8    the same for forces (minus the gradient); NaN where absent
atomic_numbers          (A,) u1            the same for atomic numbers
frames                  (F,) FRAME         first row and number of atoms, energies, weight, molecule, subset
cells                   (F,) CELL          cell, periodic axes and stress; absent from pieces without any
molecules               (M,) MOLECULE      position of name and SMILES in text, charge, frames
text                    (T,) u1            names and SMILES, UTF-8, one after another
======================  =================  ============================================================

Root attributes: format, format_version, length_units, energy_units, force_units. The dataset ``metadata`` is one
string of JSON: pieces, checksums (CRC-32 of each column), subsets, statistics, provenance.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

FORMAT = "spice-data-store"
VERSION = 2
PAGE = 4096

FRAME = np.dtype(
    [
        ("start", "<i8"),
        ("energy", "<f8"),
        ("formation_energy", "<f8"),
        ("weight", "<f8"),
        ("atoms", "<i4"),
        ("molecule", "<i4"),
        ("source_frame", "<i4"),
        ("subset", "<i4"),
    ]
)
"""One frame: its first atom row, energies, weight, number of atoms, molecule, index in its source group, subset."""

CELL = np.dtype([("cell", "<f8", (3, 3)), ("stress", "<f8", (3, 3)), ("pbc", "?", (3,))])
"""Cell (Å), stress (eV/Å³, NaN where absent) and periodic axes of one frame."""

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
"""One molecule: start of name and SMILES in ``text``, its frames, lengths in bytes, total charge."""


class Units(NamedTuple):
    """Names of the units (``spice_data.units``) and dtype of positions and forces."""

    length: str = "angstrom"
    energy: str = "eV"
    force: str = "eV/angstrom"
    dtype: str = "f8"


def dtypes(units: Units) -> dict[str, tuple[np.dtype, tuple[int, ...]]]:
    """Return dtype and shape of a row of each column."""
    floats, byte = np.dtype(units.dtype).newbyteorder("<"), np.dtype("u1")
    return {
        "positions": (floats, (3,)),
        "forces": (floats, (3,)),
        "atomic_numbers": (byte, ()),
        "frames": (FRAME, ()),
        "cells": (CELL, ()),
        "molecules": (MOLECULE, ()),
        "text": (byte, ()),
    }
