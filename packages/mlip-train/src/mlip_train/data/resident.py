"""Frames with labels and neighbor lists on the training device, where a batch is a gather."""

from __future__ import annotations

import os
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from mlip_train.data.batches import Batch, Indices
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import Collated, as_it_is
from mlip_train.data.plan import MicroBatch, Plan

CHUNK = 256
"""Frames that are read at a time."""
PART = 0.6
"""Part of the free memory of a device that frames may take; the rest is for the steps."""
ATOM, EDGE, FRAME = 58, 6, 224
"""Bytes of an atom, of an edge without its two atoms, and of a frame."""
PER_ATOM = ("positions", "types", "forces", "force_weight")
PER_FRAME = ("cells", "atoms", "volume", "energy", "stress", "energy_weight", "stress_weight", "subset")


class Request(NamedTuple):
    """A micro-batch of a part of the data that is to be gathered on the device."""

    part: str
    batch: MicroBatch


class Resident:
    """All frames of a table on a device.

    Neighbor lists are built once, by the processes of the loader, and kept with atoms numbered within each frame.

    Parameters
    ----------
    table : FrameTable
        Frames.
    device : torch.device
        Where they are put.
    workers : int
        Processes that read them.
    progress : bool
        Show a progress bar.

    Raises
    ------
    ValueError
        If they take more than ``PART`` of the free memory of the device.
    """

    def __init__(self, table: FrameTable, device: torch.device, workers: int = 0, progress: bool = False):
        check_memory(table, device)
        self.table, self.device = table, device
        self._totals = int(table.atom_counts.sum()), int(table.edge_counts.sum()), len(table)
        self._narrow = torch.int16 if _is_narrow(table) else torch.int32
        self._starts = [
            torch.from_numpy(np.cumsum(counts) - counts).to(device)
            for counts in (table.atom_counts, table.edge_counts)
        ]
        self._counts = [
            torch.from_numpy(np.array(counts)).to(device) for counts in (table.atom_counts, table.edge_counts)
        ]
        self._columns: dict[str, Tensor] = {}
        rows = np.arange(len(table))
        chunks = [MicroBatch(rows[a : a + CHUNK], np.zeros(3), False) for a in range(0, len(rows), CHUNK)]
        loader = DataLoader(
            Collated(table), batch_size=None, sampler=chunks, num_workers=workers, collate_fn=as_it_is
        )
        bar = tqdm(desc=f"frames on {device}", total=len(rows), disable=not progress, leave=False)
        first = np.zeros(3, np.int64)
        with bar:
            for batch in loader:
                first += self._put(batch, first)
                bar.update(len(batch.row))

    def _put(self, batch: Batch, first: NDArray[np.int64]) -> tuple[int, int, int]:
        """Put collated frames behind the ``first`` atoms, edges and frames; return how many of each there are."""
        counts = batch.atoms.to(torch.int64)
        start = (counts.cumsum(0) - counts)[batch.frame]
        edges = batch.edges - start[batch.edges[0].long()].to(torch.int32)
        rows: dict[str, tuple[int, Tensor]] = {name: (0, getattr(batch, name)) for name in PER_ATOM}
        rows["types"] = 0, batch.types.to(torch.int16)
        rows |= {
            "centers": (1, edges[0].to(self._narrow)),
            "neighbors": (1, edges[1].to(self._narrow)),
        }
        rows["shifts"] = 1, batch.shifts
        rows |= {name: (2, getattr(batch, name)) for name in PER_FRAME}
        for name, (kind, values) in rows.items():
            if name not in self._columns:
                shape = (self._totals[kind], *values.shape[1:])
                self._columns[name] = torch.empty(shape, dtype=values.dtype, device=self.device)
            self._columns[name][int(first[kind]) : int(first[kind]) + len(values)] = values.to(self.device)
        return len(batch.types), batch.edges.shape[1], len(batch.row)

    def batch(self, rows: Indices, norms: NDArray[np.float64], filler: bool = False) -> Batch:
        """Return what :func:`mlip_train.data.batches.collate` would, from the device alone.

        Sizes are known on the host; nothing is read from the device.
        """
        table, c = self.table, self._columns
        index = to_device(torch.from_numpy(rows), self.device)
        frame, first, atom = self._ranges(0, index, int(table.atom_counts[rows].sum()))
        place, _, edge = self._ranges(1, index, int(table.edge_counts[rows].sum()))
        begin = first[place]
        chosen = {name: c[name][atom] for name in PER_ATOM} | {name: c[name][index] for name in PER_FRAME}
        if filler:
            for name in ("energy_weight", "force_weight", "stress_weight"):
                chosen[name] = chosen[name] * 0.0
        chosen["types"] = chosen["types"].to(torch.int64)
        return Batch(
            edges=torch.stack([c["centers"][edge] + begin, c["neighbors"][edge] + begin]).to(torch.int32),
            shifts=c["shifts"][edge],
            frame=frame,
            norms=to_device(torch.from_numpy(norms), self.device),
            row=torch.full_like(index, -1) if filler else index,
            **chosen,
        )

    def _ranges(self, kind: int, index: Tensor, total: int) -> tuple[Tensor, Tensor, Tensor]:
        """Return the frame of each of ``total`` atoms or edges, the first of each frame, and places in the columns."""
        counts = self._counts[kind][index]
        first = counts.cumsum(0) - counts
        frames = torch.arange(len(index), device=self.device)
        frame = torch.repeat_interleave(frames, counts, output_size=total)
        place = torch.arange(total, device=self.device) + (self._starts[kind][index] - first)[frame]
        return frame, first, place


def to_device(values: Tensor, device: torch.device) -> Tensor:
    """Copy a small tensor of the host; to a GPU from page-locked memory, without waiting."""
    if device.type != "cuda":
        return values.to(device)
    return values.pin_memory().to(device, non_blocking=True)


def _is_narrow(table: FrameTable) -> bool:
    return int(table.atom_counts.max()) <= torch.iinfo(torch.int16).max


def bytes_of(table: FrameTable) -> int:
    """Return the memory that the frames of a table take on a device."""
    edge = EDGE + (4 if _is_narrow(table) else 8)
    return ATOM * int(table.atom_counts.sum()) + edge * int(table.edge_counts.sum()) + FRAME * len(table)


def free_memory(device: torch.device) -> int:
    """Return the free bytes of a device."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def check_memory(table: FrameTable, device: torch.device) -> None:
    """Require that the frames of a table fit on a device.

    Raises
    ------
    ValueError
        With what they need and what is free.
    """
    needed, free = bytes_of(table), free_memory(device)
    if needed > PART * free:
        raise ValueError(
            f"data.resident must be false where frames take more than {PART:.0%} of the free memory of {device} "
            f"({free / 2**30:.3g} GiB), got {len(table)} frames of {needed / 2**30:.3g} GiB"
        )


class _Rows(Dataset[Request]):
    """Micro-batches as they are planned."""

    def __init__(self, part: str):
        self.part = part

    def __getitem__(self, index: MicroBatch) -> Request:
        return Request(self.part, index)


def request_loader(plan: Plan, part: str) -> DataLoader[Request]:
    """Build a loader of the micro-batches of a plan, to be gathered by :meth:`Resident.batch`."""
    return DataLoader(_Rows(part), batch_size=None, sampler=plan, collate_fn=as_it_is)
