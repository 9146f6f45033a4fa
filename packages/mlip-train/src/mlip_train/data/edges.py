"""Neighbor lists and columns of frames, in this process or in workers."""

from __future__ import annotations

import collections
import itertools
import multiprocessing
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers

import localgraph
from mlip_train.data.frame import DataError, Frame
from mlip_train.data.frames import Array

CHUNK = 64
AHEAD = 3
"""Chunks per worker that are read ahead."""
CLOSEST = 1e-3
"""Shortest distance of two atoms, Å: at zero, forces are not defined."""

Job = tuple[list[tuple[int, Frame]], tuple[str, ...], Array]


def columns_of(
    frames: Iterable[tuple[int, Frame]], names: tuple[str, ...], cutoffs: torch.Tensor, workers: int
) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Yield the columns of a table and subset names, chunk by chunk, in order.

    Parameters
    ----------
    frames : iterable of (int, Frame)
        Number of the source, and frame.
    names : tuple of str
        Element symbols of the types.
    cutoffs : Tensor, (T, T) float64
        Å.
    workers : int
        Processes; 0 computes here.

    Raises
    ------
    DataError
        For a frame that cannot be trained on.
    ValueError
        If a worker dies, as they do in a script without a main guard.
    """
    jobs: Iterator[Job] = ((chunk, names, cutoffs.numpy()) for chunk in _batched(frames, CHUNK))
    if workers == 0:
        yield from map(_columns, jobs)
        return
    pending: collections.deque[Future[tuple[dict[str, Any], list[str]]]] = collections.deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for job in jobs:
                pending.append(pool.submit(_columns, job))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                "data.workers must be 0, or the script must start its training under "
                'if __name__ == "__main__":, got a worker process that died (or memory ran out)'
            ) from None


def _batched(frames: Iterable[tuple[int, Frame]], size: int) -> Iterator[list[tuple[int, Frame]]]:
    iterator = iter(frames)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _edges(
    frame: Frame, lookup: Array, names: tuple[str, ...], cutoffs: torch.Tensor
) -> tuple[Array, Array, Array]:
    """Types (N,), edge index (2, E) and shifts (E, 3) of a frame."""
    f = frame
    types: Array = lookup[f.numbers]
    if bool(np.any(types < 0)):
        raise DataError(
            f"{f.file}, frame {f.number}, key 'numbers' must be elements of the model {list(names)}, got atomic "
            f"number {int(f.numbers[np.argmin(types)])}"
        )
    positions, cell = torch.from_numpy(f.positions), torch.from_numpy(f.cell) if f.pbc.any() else None
    try:
        graph = localgraph.neighbors(
            positions, cutoffs, cell, torch.from_numpy(f.pbc), types=torch.from_numpy(types)
        )
    except ValueError as e:
        raise DataError(f"{f.file}, frame {f.number}, {e}") from None
    vectors = localgraph.edge_vectors(positions, graph, cell)
    short = torch.nonzero((vectors * vectors).sum(1) < CLOSEST * CLOSEST)
    if len(short):
        i, j = graph.edge_index[:, int(short[0])].tolist()
        raise DataError(
            f"{f.file}, frame {f.number}, key 'positions' must keep atoms at least {CLOSEST} Å apart, got atoms "
            f"{i} and {j} closer"
        )
    return types, graph.edge_index.numpy(), graph.shifts.numpy()


def _columns(job: Job) -> tuple[dict[str, Any], list[str]]:
    numbered, names, cutoffs = job
    lookup = np.full(128, -1, dtype=np.int64)
    for number, name in enumerate(names):
        lookup[atomic_numbers[name]] = number
    frames = [frame for _, frame in numbered]
    found = [_edges(frame, lookup, names, torch.from_numpy(cutoffs)) for frame in frames]
    index = np.concatenate([edges for _, edges, _ in found], 1)
    columns = {
        "atom_count": [len(types) for types, _, _ in found],
        "edge_count": [edges.shape[1] for _, edges, _ in found],
        "energy": [f.energy for f in frames],
        "cell": [f.cell for f in frames],
        "stress": [f.stress for f in frames],
        "weight": [f.weight for f in frames],
        "file": [source for source, _ in numbered],
        "index": [f.number for f in frames],
        "types": np.concatenate([types for types, _, _ in found]),
        "positions": np.concatenate([f.positions for f in frames]),
        "forces": np.concatenate([f.forces for f in frames]),
        "center": index[0],
        "neighbor": index[1],
        "shifts": np.concatenate([shifts for _, _, shifts in found]),
    }
    return columns, [f.subset for f in frames]
