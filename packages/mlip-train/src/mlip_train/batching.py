"""From frames to batches: which frames share a micro-batch, and their arrays as tensors."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mlip_train.config import BatchConfig
from mlip_train.frames import DataError
from mlip_train.table import FrameTable

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
        """The same batch on another device."""
        return Batch(*(t.to(device, **options) for t in self))


class Labels(NamedTuple):
    """Sums of loss weights of each frame: energy, force components, stress components, (F,) each."""

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def label_weights(table: FrameTable) -> Labels:
    """Weight each frame brings to each term of the loss; 0 where the label is missing."""
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


def plan(
    atoms: Indices,
    edges: Indices,
    config: BatchConfig,
    generator: np.random.Generator | None,
    scale: float = 1.0,
) -> list[Indices]:
    """Divide frames into micro-batches within the budgets.

    Parameters
    ----------
    atoms, edges : (F,) int64
        Sizes of the frames.
    config : BatchConfig
        Budgets and buckets.
    generator : numpy Generator or None
        Draws the order; ``None`` keeps the frames in order (evaluation).
    scale : float
        Multiplies the budgets.

    Returns
    -------
    list of (n,) int64
        Every frame exactly once.

    Raises
    ------
    ValueError
        If no budget is given, or one frame alone exceeds one.
    """
    sizes = {"frames": np.ones_like(atoms), "atoms": atoms, "edges": edges}
    budgets = {k: getattr(config, k) for k in sizes if getattr(config, k) is not None}
    if not budgets:
        raise ValueError("batch: required a budget, one of frames, atoms or edges; got none")
    for name, budget in budgets.items():
        if len(atoms) and sizes[name].max() > budget:
            worst = int(sizes[name].argmax())
            raise ValueError(
                f"batch.{name}: required a budget that holds the largest frame ({int(sizes[name][worst])} {name}, row "
                f"{worst}), got {budget}"
            )
    limits = {
        name: max(budget * scale, float(sizes[name].max(initial=0))) for name, budget in budgets.items()
    }
    order = np.arange(len(atoms))
    if generator is not None:
        generator.shuffle(order)
        if config.buckets and len(order):
            mean = max(min(limits[n] / max(sizes[n].mean(), 1e-9) for n in limits), 1.0)
            width = max(int(mean * config.buckets), 1)
            blocks = [order[i : i + width] for i in range(0, len(order), width)]
            order = np.concatenate([b[np.argsort(edges[b], kind="stable")] for b in blocks])
    batches: list[Indices] = []
    start = 0
    filled = dict.fromkeys(limits, 0.0)
    for at, f in enumerate(order):
        if at > start and any(filled[n] + sizes[n][f] > limits[n] for n in limits):
            batches.append(order[start:at])
            start, filled = at, dict.fromkeys(limits, 0.0)
        for n in limits:
            filled[n] += float(sizes[n][f])
    if start < len(order):
        batches.append(order[start:])
    if generator is not None:
        generator.shuffle(batches)
    return batches


@dataclass
class BatchLoader:
    """The micro-batches of one process and one epoch, and where in the epoch it stands.

    Micro-batches are planned for all processes alike from ``seed`` and ``epoch``, then dealt out in groups of
    ``world · accumulate``, one group per optimizer step. A last group that does not come out even is filled up with
    batches of weight zero, so that every process takes the same number of steps and no frame counts twice.

    Attributes
    ----------
    table : FrameTable
        Frames.
    rows : (F,) int64
        Which of them.
    config : BatchConfig
        Budgets and accumulation.
    seed, epoch : int
        Determine the order.
    shuffle : bool
        False plans in table order, with the budgets scaled by ``config.evaluate`` and without accumulation.
    rank, world : int
        Of this process.
    prefetch : int
        Batches collated ahead in a thread; 0 collates when asked.
    start : int
        Micro-batches of this process to leave out at the beginning of the epoch (resumption).

    Raises
    ------
    DataError
        If no budget is given, or one frame alone exceeds one, naming it.
    """

    table: FrameTable
    rows: Indices
    config: BatchConfig
    seed: int = 0
    epoch: int = 0
    shuffle: bool = True
    rank: int = 0
    world: int = 1
    prefetch: int = 2
    start: int = 0
    consumed: int = 0

    def __post_init__(self) -> None:
        generator = np.random.default_rng([self.seed, self.epoch]) if self.shuffle else None
        scale = 1.0 if self.shuffle else self.config.evaluate
        atoms, edges = self.table.atom_counts[self.rows], self.table.edge_counts[self.rows]
        try:
            self.batches = [self.rows[b] for b in plan(atoms, edges, self.config, generator, scale)]
        except ValueError as e:
            worst = self.rows[int(edges.argmax())] if len(self.rows) else 0
            raise DataError(
                f"{e} (the largest: {self.table.where(int(worst))})" if len(self.rows) else str(e)
            ) from None
        self.group = self.world * (self.config.accumulate if self.shuffle else 1)
        self.labels = label_weights(self.table)

    @property
    def total(self) -> int:
        """Micro-batches of this process in the whole epoch."""
        groups = -(-len(self.batches) // self.group)
        return groups * self.group // self.world

    def __len__(self) -> int:
        return self.total - self.start

    def state_dict(self) -> dict[str, int]:
        """Position in the epoch, as counted by ``consumed``."""
        return {"epoch": self.epoch, "consumed": self.consumed}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue an epoch at the position saved; a state of another epoch is ignored."""
        if state["epoch"] == self.epoch:
            self.start = self.consumed = state["consumed"] if state["consumed"] < self.total else 0

    def __iter__(self) -> Iterator[Batch]:
        numbers = range(self.start, self.total)
        if not self.prefetch:
            return (self._batch(i) for i in numbers)
        return _ahead(self._batch, numbers, self.prefetch)

    def _batch(self, i: int) -> Batch:
        """Micro-batch ``i`` of this process; consecutive ones of a rank belong to consecutive rounds of a group."""
        number = i * self.world + self.rank
        first = number // self.group * self.group
        together = np.concatenate(self.batches[first : first + self.group])
        norms = np.array([part[together].sum() for part in self.labels])
        if number < len(self.batches):
            return collate(self.table, self.batches[number], norms)
        smallest = self.rows[int(np.argmin(self.table.edge_counts[self.rows]))]
        return collate(self.table, np.array([smallest]), norms, filler=True)


def _ahead(make: Callable[[int], Batch], numbers: range, depth: int) -> Iterator[Batch]:
    """Results of ``make`` in order, computed by a thread that stays ``depth`` ahead."""
    results: queue.Queue[Batch | BaseException | None] = queue.Queue(depth)
    stop = threading.Event()

    def put(item: Batch | BaseException | None) -> bool:
        while not stop.is_set():
            try:
                results.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for i in numbers:
                if not put(make(i)):
                    return
            put(None)
        except BaseException as e:
            put(e)

    thread = threading.Thread(target=work, name="mlip-train-prefetch", daemon=True)
    thread.start()
    try:
        while (item := results.get()) is not None:
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stop.set()
        thread.join()
