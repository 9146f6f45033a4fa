"""Loader of one process's micro-batches of an epoch, with a resumable position."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from mlip_train.config.data import BatchConfig
from mlip_train.data.batches import Batch, Indices, collate, label_weights
from mlip_train.data.frames import FrameTable
from mlip_train.data.plan import plan
from mlip_train.data.sources import DataError


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
        If no budget is given, or a single frame exceeds one, naming it.
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
