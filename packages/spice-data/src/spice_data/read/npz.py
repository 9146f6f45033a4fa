"""Frames of NumPy archives such as those of MD17 and rMD17: arrays over frames beside the elements."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from spice_data.errors import DataError

if TYPE_CHECKING:
    from ase import Atoms

GEOMETRY = {
    "positions": ("positions", "coordinates", "coords", "pos", "R"),
    "numbers": ("numbers", "atomic_numbers", "nuclear_charges", "Z", "z"),
    "cell": ("cell", "cells", "lattice"),
    "pbc": ("pbc",),
}
"""Keys of positions (F, N, 3), elements (N,) or (F, N), cells (3, 3) or (F, 3, 3), and periodic axes (3,) or (F, 3)."""


def npz_frames(path: Path) -> Iterator[Atoms]:
    """Yield the frames of an archive; arrays over frames go to info, those over frames and atoms to arrays, by key.

    Elements of 0 fill up frames of fewer atoms. The archive is read whole.

    Raises
    ------
    DataError
        If it is none, or has no positions and elements of fitting shapes.
    """
    from ase import Atoms

    try:
        with np.load(path, allow_pickle=False) as archive:
            data = {key: archive[key] for key in archive.files}
    except (OSError, ValueError, zipfile.BadZipFile) as e:
        raise DataError(path, "be a NumPy archive without objects", e) from None
    found = {name: next((k for k in keys if k in data), None) for name, keys in GEOMETRY.items()}
    for name in ("positions", "numbers"):
        if found[name] is None:
            raise DataError(path, f"have {name} under one of {list(GEOMETRY[name])}", sorted(data))
    x, z = data.pop(str(found["positions"])), data.pop(str(found["numbers"]))
    count, shape = len(x), x.shape
    if x.ndim != 3 or shape[2] != 3 or z.shape not in (shape[1:2], shape[:2]):
        raise DataError(
            path, "have positions (F, N, 3) and elements (N,) or (F, N)", f"{shape} and {z.shape}"
        )
    boxes: dict[str, Any] = {name: data.pop(str(found[name]), None) for name in ("cell", "pbc")}
    for i in range(count):
        numbers = z[i] if z.ndim == 2 else z
        real = numbers > 0
        box = {
            k: v if v.ndim == (2 if k == "cell" else 1) else v[i] for k, v in boxes.items() if v is not None
        }
        atoms = Atoms(numbers[real], x[i][real], **({"pbc": "cell" in box} | box))
        for key, values in data.items():
            if values.shape[:2] == shape[:2] and values.ndim > 1:
                atoms.arrays[key] = values[i][real]
            elif values.shape[:1] == (count,):
                atoms.info[key] = values[i]
        yield atoms
