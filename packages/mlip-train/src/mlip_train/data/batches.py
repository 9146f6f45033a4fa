"""Batches of frames as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_train.data.frames import FrameTable

Indices = NDArray[np.int64]


class Batch(NamedTuple):
    """Frames of one micro-batch; only the sizes E, N and F change from batch to batch.

    Labels that are missing are 0 with weight 0. ``norms`` are the sums of weights over the whole global batch (every
    process, every accumulated micro-batch), so that losses of its parts add up to the loss of the whole.

    Attributes
    ----------
    edge_vectors : Tensor, (E, 3) float64
        Å.
    edge_index : Tensor, (2, E) int64
        ``[center; neighbor]``, sorted by center.
    types, frame : Tensor, (N,) int64
        Type of each atom and its frame within the batch.
    atoms, volume, energy : Tensor, (F,) float64
        Atoms per frame; Å³ (1 where there is none); eV.
    forces, stress : Tensor, (N, 3) and (F, 3, 3) float64
        eV/Å and eV/Å³.
    energy_weight, stress_weight, force_weight : Tensor, (F,), (F,) and (N,) float64
        Weights in the loss.
    norms : Tensor, (3,) float64
        Σ energy_weight, 3 Σ force_weight, 9 Σ stress_weight over the global batch.
    subset, row : Tensor, (F,) int64
        Subset number, and row in the table (−1 for a frame that only fills up the batch).
    """

    edge_vectors: Tensor
    edge_index: Tensor
    types: Tensor
    frame: Tensor
    atoms: Tensor
    volume: Tensor
    energy: Tensor
    forces: Tensor
    stress: Tensor
    energy_weight: Tensor
    force_weight: Tensor
    stress_weight: Tensor
    norms: Tensor
    subset: Tensor
    row: Tensor

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """Return the batch on another device."""
        return Batch(*(t.to(device, **options) for t in self))


class Labels(NamedTuple):
    """Sums of loss weights of each frame: energy, force components, stress components, (F,) each."""

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def label_weights(table: FrameTable) -> Labels:
    """Return the weight of each frame in each term of the loss; 0 where the label is missing."""
    weight = np.asarray(table.arrays["weight"])
    first = np.minimum(table.atom_start[:-1], max(len(table.arrays["types"]) - 1, 0))
    has_forces = (
        np.isfinite(np.asarray(table.arrays["forces"][first, 0])) if len(first) else np.zeros(0, bool)
    )
    return Labels(
        weight * np.isfinite(table.arrays["energy"]),
        3.0 * weight * has_forces * table.atom_counts,
        9.0 * weight * np.isfinite(table.arrays["stress"][:, 0, 0]),
    )


def collate(
    table: FrameTable, rows: Indices, norms: NDArray[np.float64] | None = None, filler: bool = False
) -> Batch:
    """Tensors of some frames of a table.

    Parameters
    ----------
    table : FrameTable
        Frames.
    rows : (F,) int64
        Which of them, in which order.
    norms : (3,) float64, optional
        See :class:`Batch`; by default those of these frames.
    filler : bool
        Give every weight the value 0: the batch only keeps a process in step with the others.
    """
    a, atoms = table.arrays, table.atom_counts[rows]
    edges = table.edge_counts[rows]
    atom_rows = _ranges(table.atom_start[rows], atoms)
    edge_rows = _ranges(table.edge_start[rows], edges)
    first_atom = np.cumsum(atoms) - atoms
    edge_frame = np.repeat(np.arange(len(rows)), edges)
    center = a["center"][edge_rows] + first_atom[edge_frame]
    neighbor = a["neighbor"][edge_rows] + first_atom[edge_frame]
    x, cell = a["positions"][atom_rows], np.asarray(a["cell"][rows])
    vectors = x[neighbor] - x[center] + np.einsum("ei,eij->ej", a["shifts"][edge_rows], cell[edge_frame])
    forces, stress, energy = (
        a["forces"][atom_rows],
        np.asarray(a["stress"][rows]),
        np.asarray(a["energy"][rows]),
    )
    weight = np.asarray(a["weight"][rows]) * (0.0 if filler else 1.0)
    frame = np.repeat(np.arange(len(rows)), atoms)
    energy_weight = weight * np.isfinite(energy)
    force_weight = weight[frame] * np.isfinite(forces[:, 0])
    stress_weight = weight * np.isfinite(stress[:, 0, 0])
    if norms is None:
        norms = np.array([energy_weight.sum(), 3 * force_weight.sum(), 9 * stress_weight.sum()])
    volume = np.abs(np.linalg.det(cell))

    def tensor(array: Any, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    return Batch(
        edge_vectors=tensor(vectors.reshape(-1, 3)),
        edge_index=tensor(np.stack([center, neighbor]), torch.int64),
        types=tensor(a["types"][atom_rows], torch.int64),
        frame=tensor(frame, torch.int64),
        atoms=tensor(atoms),
        volume=tensor(np.where(volume > 0, volume, 1.0)),
        energy=tensor(np.nan_to_num(energy)),
        forces=tensor(np.nan_to_num(forces)),
        stress=tensor(np.nan_to_num(stress)),
        energy_weight=tensor(energy_weight),
        force_weight=tensor(force_weight),
        stress_weight=tensor(stress_weight),
        norms=tensor(norms),
        subset=tensor(a["subset"][rows], torch.int64),
        row=tensor(np.full(len(rows), -1) if filler else rows, torch.int64),
    )


def _ranges(start: Indices, count: Indices) -> Indices:
    total = int(count.sum())
    if not total:
        return np.zeros(0, dtype=np.int64)
    return np.repeat(start - (np.cumsum(count) - count), count) + np.arange(total)
