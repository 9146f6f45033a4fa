"""Filters: named predicates of molecules and their frames."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from spice_data.elements import atomic_number
from spice_data.read.molecule import Molecule

BLOCK_BYTES = 16 << 20


class Filter(Protocol):
    """Protocol of a filter: keeps all frames of a molecule, none, or those of a mask (M,)."""

    @property
    def name(self) -> str:
        """Short description with the parameters."""
        ...

    def __call__(self, molecule: Molecule) -> bool | NDArray[np.bool_]:
        """Return ``True`` or ``False`` for every frame, or a boolean mask (M,)."""
        ...


def blocks(molecule: Molecule) -> Iterator[tuple[int, int]]:
    """Yield frame ranges of ``molecule`` of bounded size in memory."""
    step = max(1, BLOCK_BYTES // (24 * molecule.n_atoms))
    for start in range(0, molecule.n_frames, step):
        yield start, min(start + step, molecule.n_frames)


def _mask(molecule: Molecule, keep: Callable[[int, int], NDArray[np.bool_]]) -> NDArray[np.bool_]:
    parts = [keep(start, stop) for start, stop in blocks(molecule)]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


@dataclass(frozen=True)
class Neutral:
    """Keep molecules whose formal charges sum to zero, as Tan et al. do (arXiv 2504.16068)."""

    name: str = "neutral"

    def __call__(self, molecule: Molecule) -> bool:
        """Return whether the total charge is zero."""
        return molecule.charge == 0


@dataclass(frozen=True)
class NeutralAtoms:
    """Keep molecules without any charged atom: no ions, zwitterions or charge-separated groups."""

    name: str = "neutral-atoms"

    def __call__(self, molecule: Molecule) -> bool:
        """Return whether every formal charge is zero."""
        return not any(molecule.formal_charges)


@dataclass(frozen=True)
class MaxForce:
    """Keep frames in which no Cartesian component of the gradient exceeds ``limit`` (eV/Å) in magnitude."""

    limit: float

    def __post_init__(self) -> None:
        if not self.limit > 0:
            raise ValueError(f"limit must be a force above 0 eV/Å, got {self.limit!r}")

    @property
    def name(self) -> str:
        """Short description with the parameters."""
        return f"max-force {self.limit:g} eV/Å"

    def __call__(self, molecule: Molecule) -> NDArray[np.bool_]:
        """Return the mask of the frames within the limit."""
        return _mask(
            molecule, lambda a, b: np.abs(molecule.forces(a, b)).max(axis=(1, 2), initial=0.0) <= self.limit
        )


@dataclass(frozen=True)
class NoIsolatedAtoms:
    """Keep frames in which every atom has another atom nearer than ``cutoff`` (Å).

    A strictly local potential of that cutoff has no edge at an isolated atom. At 6 Å arXiv 2504.16068 drops
    the 192 ion-pair frames of SPICE 2 that lie at 6 Å and beyond.
    """

    cutoff: float

    def __post_init__(self) -> None:
        if not self.cutoff > 0:
            raise ValueError(f"cutoff must be a distance above 0 Å, got {self.cutoff!r}")

    @property
    def name(self) -> str:
        """Short description with the parameters."""
        return f"no-isolated-atoms {self.cutoff:g} Å"

    def _keep(self, positions: NDArray[np.float64]) -> NDArray[np.bool_]:
        keep = np.ones(len(positions), bool)
        for m, x in enumerate(positions):
            squared = ((x[:, None] - x[None]) ** 2).sum(axis=-1)
            np.fill_diagonal(squared, np.inf)
            keep[m] = squared.min(axis=1).max() < self.cutoff**2
        return keep

    def __call__(self, molecule: Molecule) -> NDArray[np.bool_]:
        """Return the mask of the frames without isolated atoms."""
        return _mask(molecule, lambda a, b: self._keep(molecule.positions(a, b)))


@dataclass(frozen=True)
class Subsets:
    """Keep the subsets that match any of ``patterns`` (shell style: ``"SPICE Dipeptides*"``)."""

    patterns: tuple[str, ...]

    @property
    def name(self) -> str:
        """Short description with the parameters."""
        return "subsets " + " | ".join(self.patterns)

    def __call__(self, molecule: Molecule) -> bool:
        """Return whether the molecule's subset matches."""
        return any(fnmatchcase(molecule.subset, p) for p in self.patterns)


@dataclass(frozen=True)
class Elements:
    """Keep molecules made only of the elements ``symbols``."""

    symbols: tuple[str, ...]

    def __post_init__(self) -> None:
        for symbol in self.symbols:
            atomic_number(symbol)

    @property
    def name(self) -> str:
        """Short description with the parameters."""
        return "elements " + " ".join(self.symbols)

    def __call__(self, molecule: Molecule) -> bool:
        """Return whether every atom is one of the elements."""
        return bool(np.isin(molecule.numbers, [atomic_number(s) for s in self.symbols]).all())
