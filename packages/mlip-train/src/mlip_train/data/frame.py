"""One labeled frame, and the error for one that cannot be trained on."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class DataError(ValueError):
    """Something in a data file that cannot be trained on; the message names file, frame index and key."""


class Frame(NamedTuple):
    """One labeled configuration; a label that is absent is NaN throughout.

    Attributes
    ----------
    numbers : (N,) int64
        Atomic numbers.
    positions, forces : (N, 3) float64
        Å and eV/Å.
    cell : (3, 3) float64
        Rows are lattice vectors, Å; zero where there is none.
    pbc : (3,) bool
        Periodic axes.
    energy : float
        eV.
    stress : (3, 3) float64
        eV/Å³, positive under tension.
    weight : float
        Weight in the loss.
    subset, file, number : str, str, int
        Name for metrics, and where the frame is from.
    """

    numbers: NDArray[np.int64]
    positions: Floats
    forces: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    energy: float
    stress: Floats
    weight: float
    subset: str
    file: str
    number: int
