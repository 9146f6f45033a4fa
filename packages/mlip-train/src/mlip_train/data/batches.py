"""Batches of frames as tensors."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from localgraph import gather
from mlip_train.data.edges import Lists, neighbor_lists
from mlip_train.data.frames import FrameTable, type_lookup
from spice_data import Batch as Frames

Indices = NDArray[np.int64]


class Batch(NamedTuple):
    """Frames of one micro-batch; only the sizes E, N and F change from batch to batch.

    Edge vectors are made where they are needed, in the compiled step or on the GPU: an edge travels as 14 bytes. Labels
    that are missing are 0 with weight 0. ``norms`` are the sums of weights over the whole global batch (every process,
    every accumulated micro-batch), so that losses of its parts add up to the loss of the whole.

    Attributes
    ----------
    positions : Tensor, (N, 3) float64
        Å.
    edges : Tensor, (2, E) int32
        ``[center; neighbor]``, sorted by center.
    shifts : Tensor, (E, 3) int16
        Lattice translation of the neighbor, in cell vectors.
    cells : Tensor, (F, 3, 3) float64
        Rows are lattice vectors, Å.
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

    positions: Tensor
    edges: Tensor
    shifts: Tensor
    cells: Tensor
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

    @property
    def edge_index(self) -> Tensor:
        """``[center; neighbor]`` as models take it, (2, E) int64."""
        return self.edges.to(torch.int64)

    @property
    def edge_vectors(self) -> Tensor:
        """r = x_neighbor − x_center + shifts · cell, (E, 3) float64, Å."""
        center, neighbor = self.edge_index.unbind(0)
        cells = gather(self.cells, gather(self.frame, center))
        across = (self.shifts.to(self.cells.dtype)[:, :, None] * cells).sum(1)
        return gather(self.positions, neighbor) - gather(self.positions, center) + across

    def to(self, device: torch.device | str, **options: Any) -> Batch:
        """Return the batch on another device."""
        return Batch(*(t.to(device, **options) for t in self))


def collate(
    table: FrameTable, rows: Indices, norms: NDArray[np.float64] | None = None, filler: bool = False
) -> Batch:
    """Read some frames of a table from their stores and build their neighbor lists unless they are cached.

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
    a, atoms, frames = table.arrays, table.atom_counts[rows], _read(table, rows)
    types = type_lookup(table.type_names)[frames.numbers]
    lists = _lists(table, rows, frames, types)
    energy = np.asarray(a["energy"][rows])
    periodic = np.all(frames.pbc, axis=1).reshape(-1, 1, 1)  # a stress needs three axes
    stress = np.where(periodic, frames.stresses, np.nan)
    weight = np.asarray(a["weight"][rows]) * (0.0 if filler else 1.0)
    frame = np.repeat(np.arange(len(rows)), atoms)
    energy_weight = weight * np.isfinite(energy)
    force_weight = weight[frame] * np.isfinite(frames.forces[:, 0])
    stress_weight = weight * np.isfinite(stress[:, 0, 0])
    if norms is None:
        norms = np.array([energy_weight.sum(), 3 * force_weight.sum(), 9 * stress_weight.sum()])
    volume = np.abs(np.linalg.det(frames.cells))

    def tensor(array: Any, dtype: torch.dtype = torch.float64) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(dtype)

    return Batch(
        positions=tensor(frames.positions),
        edges=torch.from_numpy(np.stack([lists.center, lists.neighbor], dtype=np.int32, casting="unsafe")),
        shifts=tensor(lists.shifts, torch.int16),
        cells=tensor(frames.cells),
        types=tensor(types, torch.int64),
        frame=tensor(frame, torch.int64),
        atoms=tensor(atoms),
        volume=tensor(np.where(volume > 0, volume, 1.0)),
        energy=tensor(np.nan_to_num(energy)),
        forces=tensor(np.nan_to_num(frames.forces)),
        stress=tensor(np.nan_to_num(stress)),
        energy_weight=tensor(energy_weight),
        force_weight=tensor(force_weight),
        stress_weight=tensor(stress_weight),
        norms=tensor(norms),
        subset=tensor(a["subset"][rows], torch.int64),
        row=tensor(np.full(len(rows), -1) if filler else rows, torch.int64),
    )


def _read(table: FrameTable, rows: Indices) -> Frames:
    """Read frames in this order, from one store or several."""
    source, row = table.arrays["source"][rows], table.arrays["row"][rows]
    present = np.unique(source)
    if len(present) == 1:
        return table.sources[int(present[0])].store.batch(row)
    parts = [table.sources[int(s)].store.batch(row[source == s]) for s in present]
    counts = np.concatenate([np.diff(part.offsets) for part in parts])
    order = np.argsort(np.concatenate([np.flatnonzero(source == s) for s in present]))
    atoms = _ranges((np.cumsum(counts) - counts)[order], counts[order])
    joined = {name: np.concatenate([getattr(part, name) for part in parts]) for name in Frames._fields}
    per_atom = ("positions", "numbers", "forces")
    chosen = {
        name: array[atoms if name in per_atom else order]
        for name, array in joined.items()
        if name != "offsets"
    }
    return Frames(offsets=np.concatenate([[0], np.cumsum(counts[order])]), **chosen)


def _lists(table: FrameTable, rows: Indices, frames: Frames, types: NDArray[np.int64]) -> Lists:
    if table.edges is None:
        return neighbor_lists(frames, types, table.cutoffs)
    start, *cached = table.edges
    counts = table.edge_counts[rows]
    parts = [slice(a, a + n) for a, n in zip(start[rows].tolist(), counts.tolist(), strict=True)]
    center, neighbor, shifts = (np.concatenate([column[part] for part in parts]) for column in cached)
    first = np.repeat(frames.offsets[:-1].astype(np.int32), counts)
    return Lists(center + first, neighbor + first, shifts)


def _ranges(start: Indices, count: Indices) -> Indices:
    total = int(count.sum())
    if not total:
        return np.zeros(0, dtype=np.int64)
    return np.repeat(start - (np.cumsum(count) - count), count) + np.arange(total)
