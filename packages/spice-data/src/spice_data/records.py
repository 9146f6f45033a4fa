"""Frames, batches and blocks of frames, and molecules of a store."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from spice_data.elements import NUMBERS

HIGHEST = len(NUMBERS)

NO_CELL = np.zeros((3, 3))
NO_CELL.setflags(write=False)
APERIODIC = np.zeros(3, np.bool_)
APERIODIC.setflags(write=False)
NO_STRESS = np.full((3, 3), np.nan)
NO_STRESS.setflags(write=False)


class Frame(NamedTuple):
    """One labeled configuration; a label that is absent is NaN throughout.

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
        Index of the conformation in its group in the source; -1 to have a writer count.
    smiles : str
        SMILES with map numbers; empty where the source has none.
    charge : int
        Total charge.
    cell : (3, 3) float64
        Rows are lattice vectors, Å; zero where there is none.
    pbc : (3,) bool
        Periodic axes.
    stress : (3, 3) float64
        eV/Å³, positive under tension.
    weight : float
        Weight in a loss.
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    energy: float
    forces: NDArray[np.float64]
    formation_energy: float = float("nan")
    subset: str = ""
    name: str = ""
    molecule: int = 0
    source_frame: int = -1
    smiles: str = ""
    charge: int = 0
    cell: NDArray[np.float64] = NO_CELL
    pbc: NDArray[np.bool_] = APERIODIC
    stress: NDArray[np.float64] = NO_STRESS
    weight: float = 1.0


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
    cells, stresses : (B, 3, 3) float64
        Å and eV/Å³; zero and NaN where there is none.
    pbc : (B, 3) bool
        Periodic axes.
    weights : (B,) float64
        Weights in a loss.
    """

    positions: NDArray[np.float64]
    numbers: NDArray[np.int64]
    offsets: NDArray[np.int64]
    energies: NDArray[np.float64]
    forces: NDArray[np.float64]
    formation_energies: NDArray[np.float64]
    subsets: NDArray[np.int64]
    molecules: NDArray[np.int64]
    cells: NDArray[np.float64]
    stresses: NDArray[np.float64]
    pbc: NDArray[np.bool_]
    weights: NDArray[np.float64]


class MoleculeInfo(NamedTuple):
    """Name, SMILES, total charge and range of frames of one molecule of a store."""

    name: str
    smiles: str
    charge: int
    first_frame: int
    frames: int


class Block(NamedTuple):
    """Some frames of one molecule, in a source's units (cells and stresses in Å and eV/Å³).

    Attributes
    ----------
    name, subset, smiles : str
        Of the molecule.
    charge : int
        Its total charge.
    numbers : (N,) int64
        Atomic numbers.
    positions, forces : (M, N, 3)
        Forces are minus the gradient.
    energies, formation_energies : (M,) float64
        NaN where absent.
    frames : (M,) int64
        Index of each frame in the source's molecule; -1 to have the writer count.
    cells, stresses : (M, 3, 3) float64, optional
        Of periodic frames.
    pbc : (M, 3) bool, optional
        Periodic axes.
    weights : (M,) float64, optional
        One by default.
    """

    name: str
    subset: str
    smiles: str
    charge: int
    numbers: NDArray[np.int64]
    positions: NDArray[np.floating]
    forces: NDArray[np.floating]
    energies: NDArray[np.float64]
    formation_energies: NDArray[np.float64]
    frames: NDArray[np.int64]
    cells: NDArray[np.float64] | None = None
    stresses: NDArray[np.float64] | None = None
    pbc: NDArray[np.bool_] | None = None
    weights: NDArray[np.float64] | None = None


def check_block(block: Block) -> None:
    """Raise ``ValueError`` naming the field of a frame that cannot be stored."""
    m, n = len(block.energies), len(block.numbers)
    if n == 0 or not (1 <= block.numbers.min() and block.numbers.max() <= HIGHEST):
        raise ValueError(f"numbers must be atomic numbers from 1 to {HIGHEST}, got {block.numbers.tolist()}")
    for name in ("positions", "forces"):
        values = getattr(block, name)
        if values.shape != (m, n, 3):
            raise ValueError(f"{name} must have shape {(m, n, 3)}, got {values.shape}")
    for name in ("positions", "cells", "weights"):
        values = getattr(block, name)
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"{name} must be finite, got {values[~np.isfinite(values)][0]}")
    for name in ("energies", "forces", "stresses"):
        values = getattr(block, name)
        if values is not None and np.isinf(values).any():
            raise ValueError(f"{name} must be finite, or NaN where absent, got infinity")
        if values is not None and np.isnan(values).any():
            absent = np.isnan(values.reshape(m, -1))
            if (absent.any(axis=1) != absent.all(axis=1)).any():
                raise ValueError(f"{name} must be NaN for a whole frame or not at all, got NaN among numbers")
