"""Torch DataLoader of the micro-batches of a plan."""

from __future__ import annotations

from typing import TypeVar

from torch.utils.data import DataLoader, Dataset

from mlip_train.data.batches import Batch, collate
from mlip_train.data.frames import FrameTable
from mlip_train.data.plan import MicroBatch, Plan

T = TypeVar("T")


class Collated(Dataset[Batch]):
    """A table whose items are collated micro-batches."""

    def __init__(self, table: FrameTable):
        self.table = table

    def __getitem__(self, index: MicroBatch) -> Batch:
        return collate(self.table, *index)


def make_loader(plan: Plan, workers: int = 0, pin_memory: bool = False) -> DataLoader[Batch]:
    """Build a loader of the batches of a plan; it may be iterated again after :meth:`Plan.begin`.

    Parameters
    ----------
    plan : Plan
        Which frames; it stays in this process, so that workers need not know about epochs and positions.
    workers : int
        Processes that collate ahead; 0 collates when asked.
    pin_memory : bool
        Put batches into page-locked memory.
    """
    return DataLoader(
        Collated(plan.table),
        batch_size=None,
        sampler=plan,
        num_workers=workers,
        collate_fn=as_it_is,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
    )


def as_it_is(batch: T) -> T:
    """Return what the data set made: batches are collated there."""
    return batch
