"""The SPICE test set: its four parts, and the error measure of its benchmark."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import ArrayLike

from spice_data.read.spice import SpiceFile

LARGE = 60


def category(name: str, n_atoms: int, smiles: str) -> str:
    """Return the part of the SPICE test set that a group belongs to.

    Dimers have two components; pentapeptides are named by five residues with dashes; the ligands of the set
    have 40–50 atoms (small) or 70–80 (large).

    Examples
    --------
    >>> category("ALA-GLY-PHE-SER-VAL", 80, "CC"), category("1ABC", 45, "CC")
    ('pentapeptides', 'small ligands')
    """
    if "." in smiles or " " in name:
        return "dimers"
    if "-" in name:
        return "pentapeptides"
    return "large ligands" if n_atoms >= LARGE else "small ligands"


def open_test_set(path: str | os.PathLike[str]) -> SpiceFile:
    """Open ``SPICE-test.hdf5``: the part is the subset of groups that store none."""
    return SpiceFile(path, subset_of=category)


def pairwise_energy_error(reference: ArrayLike, predicted: ArrayLike) -> float:
    """Return the mean absolute error of the energy differences between all pairs of conformations of one molecule.

    The measure of the SPICE test set: independent of any constant per molecule.

    Parameters
    ----------
    reference, predicted : (M,) array_like
        Energies of the conformations, M ≥ 2, any one unit.

    Returns
    -------
    float
        In that unit.

    Raises
    ------
    ValueError
        If the shapes are not equal (M,) with M ≥ 2.

    Examples
    --------
    >>> pairwise_energy_error([0.0, 1.0, 3.0], [7.0, 8.0, 10.5])
    0.3333333333333333
    """
    a, b = np.asarray(reference, np.float64), np.asarray(predicted, np.float64)
    if a.ndim != 1 or a.shape != b.shape or len(a) < 2:
        raise ValueError(
            f"reference and predicted must have equal shapes (M,) with M ≥ 2, got {a.shape} and {b.shape}"
        )
    error = np.sort(b - a)
    m = len(error)
    return float(((2 * np.arange(m) - m + 1) * error).sum() / (m * (m - 1) / 2))
