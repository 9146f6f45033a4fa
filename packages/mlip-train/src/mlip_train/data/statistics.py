"""Model constants estimated from the training set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlip_train.config.data import StatisticsConfig
from mlip_train.data.frames import FrameTable

BLOCK = 4096


class Statistics(NamedTuple):
    """Summary of a table of frames.

    Attributes
    ----------
    frames, atoms, edges : int
        Counts.
    avg_num_neighbors : float
        Edges per atom.
    energy_shifts : (T,) float64
        Energy of each element, eV.
    energy_std : float
        Standard deviation of the energy per atom after these shifts, eV.
    force_rms : float
        Root mean square of a force component, eV/Å.
    """

    frames: int
    atoms: int
    edges: int
    avg_num_neighbors: float
    energy_shifts: NDArray[np.float64]
    energy_std: float
    force_rms: float

    def plain(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return self._asdict() | {"energy_shifts": self.energy_shifts.tolist()}


def compositions(table: FrameTable, frames: NDArray[np.int64]) -> NDArray[np.float64]:
    """Atoms of each type in each of the frames, (F, T)."""
    counts: NDArray[np.float64] = table.arrays["composition"][frames].astype(np.float64)
    return counts


def gather_statistics(
    table: FrameTable, config: StatisticsConfig, frames: NDArray[np.int64] | None = None
) -> Statistics:
    """Sum the columns of a table block by block.

    Raises
    ------
    ValueError
        With ``energy_shifts: isolated`` where an element has no frame of one atom without neighbors.
    """
    frames = np.arange(len(table)) if frames is None else frames
    n_types = len(table.type_names)
    atoms = int(table.atom_counts[frames].sum())
    edges = int(table.edge_counts[frames].sum())
    shifts = _shifts(table, config, frames, n_types)
    total = squares = residual = residual2 = labeled = 0.0
    for block in _blocks(frames):
        known = block[np.isfinite(table.arrays["force_squares"][block])]
        squares += float(table.arrays["force_squares"][known].sum())
        total += 3 * int(table.atom_counts[known].sum())
        energy = table.arrays["energy"][block]
        has = np.isfinite(energy)
        rest = (energy - compositions(table, block) @ shifts)[has] / np.maximum(
            table.atom_counts[block][has], 1
        )
        residual += float(rest.sum())
        residual2 += float((rest * rest).sum())
        labeled += len(rest)
    mean = residual / max(labeled, 1.0)
    return Statistics(
        frames=len(frames),
        atoms=atoms,
        edges=edges,
        avg_num_neighbors=max(edges / max(atoms, 1), 1.0e-3),
        energy_shifts=shifts,
        energy_std=float(np.sqrt(max(residual2 / max(labeled, 1.0) - mean * mean, 0.0))),
        force_rms=float(np.sqrt(squares / total)) if total else 0.0,
    )


def _blocks(frames: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(frames), BLOCK):
        yield frames[start : start + BLOCK]


def _shifts(
    table: FrameTable, config: StatisticsConfig, frames: NDArray[np.int64], n_types: int
) -> NDArray[np.float64]:
    frames = frames[np.isfinite(table.arrays["energy"][frames])]
    energy = table.arrays["energy"][frames]
    counts = np.maximum(table.atom_counts[frames], 1)
    if config.energy_shifts == "mean":
        return np.full(n_types, float((energy / counts).mean()) if len(frames) else 0.0)
    if config.energy_shifts == "isolated":
        found = np.full(n_types, np.nan)
        for f in frames[table.isolated[frames]]:
            found[int(table.arrays["composition"][f].argmax())] = table.arrays["energy"][f]
        missing = [table.type_names[t] for t in np.flatnonzero(np.isnan(found))]
        if missing:
            raise ValueError(
                f"statistics.energy_shifts must be 'fit' or 'mean' unless each element has a frame of one atom without "
                f"neighbors, got 'isolated' and none of {missing}"
            )
        return found
    return fit_energies(table, frames, config.ridge)


def fit_energies(table: FrameTable, frames: NDArray[np.int64], ridge: float) -> NDArray[np.float64]:
    """Per-element energies μ that minimize Σ_f (n_f·μ − E_f)²/N_f² + λ Σ_t (μ_t − ē)².

    Parameters
    ----------
    table : FrameTable
        Frames f with n_f atoms of each type, N_f in all, and energy E_f, eV.
    frames : (F,) int64
        Which of them; all must have an energy.
    ridge : float
        λ. With one composition only, the pull towards the mean energy per atom ē is what fixes μ.

    Returns
    -------
    (T,) float64
        eV. An element that occurs nowhere gets ē.
    """
    if not len(frames):
        return np.zeros(len(table.type_names))
    energy, atoms = table.arrays["energy"][frames], np.maximum(table.atom_counts[frames], 1)
    mean = float((energy / atoms).mean())
    return mean + fit_corrections(table, frames, energy - mean * atoms, ridge)


def fit_corrections(
    table: FrameTable,
    frames: NDArray[np.int64],
    rest: NDArray[np.float64],
    ridge: float,
    types: Sequence[int] | None = None,
) -> NDArray[np.float64]:
    """Per-element energies δ that minimize Σ_f (n_f·δ − R_f)²/N_f² + λ Σ_t δ_t².

    Parameters
    ----------
    table : FrameTable
        Frames f with n_f atoms of each type, N_f in all.
    frames : (F,) int64
        Which of them.
    rest : (F,) float64
        What is to be explained of each, R_f, eV.
    ridge : float
        λ.
    types : sequence of int, optional
        Types that δ is free for; by default all. It is 0 for the others.

    Returns
    -------
    (T,) float64
        eV. Normal equations are summed block by block.
    """
    n_types = len(table.type_names)
    free = np.arange(n_types) if types is None else np.asarray(types)
    a, b = ridge * np.eye(len(free)), np.zeros(len(free))
    for start in range(0, len(frames), BLOCK):
        n = compositions(table, frames[start : start + BLOCK])
        atoms = np.maximum(n.sum(1), 1.0)
        x = n[:, free] / atoms[:, None]
        a += x.T @ x
        b += x.T @ (rest[start : start + BLOCK] / atoms)
    found = np.zeros(n_types)
    found[free] = np.linalg.lstsq(a, b, rcond=1e-12)[0]
    return found
