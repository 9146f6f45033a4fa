"""What a store hands out: one frame, a batch of frames, what it knows of a molecule."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Frame(NamedTuple):
    """One conformation.

    Attributes
    ----------
    positions : (N, 3) float64
        Å.
    numbers : (N,) int64
        Atomic numbers.
    energy : float
        Total energy, eV.
    forces : (N, 3) float64
        eV/Å.
    formation_energy : float
        Energy of formation from isolated atoms, eV; NaN where the source has none.
    subset, name : str
        Subset, and name of the group or molecule in the source.
    molecule : int
        Index of the molecule in the store.
    source_frame : int
        Index of the conformation in its group in the source.
    smiles : str
        SMILES with map numbers; empty where the source has none.
    charge : int
        Total charge.
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    energy: float
    forces: NDArray[np.float64]
    formation_energy: float
    subset: str
    name: str
    molecule: int
    source_frame: int
    smiles: str = ""
    charge: int = 0


class Batch(NamedTuple):
    """Several frames, their atoms one after another.

    Attributes
    ----------
    positions, forces : (A, 3) float64
        Å and eV/Å.
    numbers : (A,) int64
        Atomic numbers.
    offsets : (B + 1,) int64
        Atoms of frame b are rows ``offsets[b]:offsets[b + 1]``.
    energies, formation_energies : (B,) float64
        eV.
    subsets, molecules : (B,) int64
        Index into ``Store.subsets``, and index of the molecule.
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    formation_energies: NDArray[np.float64]
    subsets: NDArray[np.int64]
    molecules: NDArray[np.int64]


class MoleculeInfo(NamedTuple):
    """What a store knows of one molecule: its name, SMILES, total charge and range of frames."""

    name: str
    smiles: str
    charge: int
    first_frame: int
    frames: int
