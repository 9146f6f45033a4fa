"""First pass over the frames: validation, edge counts and statistics, in parallel and resumable."""

from __future__ import annotations

import collections
import hashlib
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from mlip_train.config.data import SourceConfig
from mlip_train.data.columns import ColumnWriter, Layout
from mlip_train.data.edges import FrameError, Lists, measure
from mlip_train.data.frames import Array, type_lookup
from mlip_train.data.sources import Source
from spice_data import Store

CHUNK = 256
"""Frames per job."""
AHEAD = 3
"""Jobs per worker that wait for their turn."""


class Job(NamedTuple):
    """Some frames of a store, and what to measure them with."""

    number: int
    config: SourceConfig
    path: str
    digest: str
    rows: NDArray[np.int64]
    names: tuple[str, ...]
    cutoffs: Array
    keep_edges: bool


def first_pass(
    folder: Path,
    layout: Layout,
    sources: Sequence[Source],
    names: tuple[str, ...],
    cutoffs: torch.Tensor,
    workers: int,
    progress: bool,
) -> None:
    """Write the columns of all frames to a folder, from where an interrupted pass ended."""
    keep_edges = "center" in layout
    jobs = (
        Job(i, s.config, str(s.store.path), digest, s.rows[a : a + CHUNK], names, cutoffs.numpy(), keep_edges)
        for i, (s, digest) in enumerate((s, s.store.digest) for s in sources)
        for a in range(0, len(s.rows), CHUNK)
    )
    total = sum(len(source.rows) for source in sources)
    with (
        ColumnWriter(folder, layout) as writer,
        tqdm(desc="frames", total=total, disable=not progress, unit_scale=True, leave=False) as bar,
    ):
        bar.update(writer.rows["row"])
        for columns, subsets in _results(itertools.islice(jobs, writer.chunks, None), workers):
            writer.add(columns, subsets)
            bar.update(len(subsets))


def _results(jobs: Iterator[Job], workers: int) -> Iterator[tuple[dict[str, Any], list[str]]]:
    """Run jobs in order, here or in workers.

    Raises
    ------
    ValueError
        If a worker dies, as they do in a script without a main guard.
    """
    if workers == 0:
        yield from map(_measured, jobs)
        return
    pending: collections.deque[Future[tuple[dict[str, Any], list[str]]]] = collections.deque()
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        try:
            for job in jobs:
                pending.append(pool.submit(_measured, job))
                if len(pending) > AHEAD * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool:
            raise ValueError(
                "data.workers must be 0, or the script must start its training under "
                'if __name__ == "__main__":, got a worker process that died (or memory ran out)'
            ) from None


@lru_cache(maxsize=64)
def _store(path: str, digest: str) -> Store:
    """Open a store once per process and contents."""
    return Store(path)


def _measured(job: Job) -> tuple[dict[str, Any], list[str]]:
    """Return the columns of some frames of a store, and the subset of each."""
    store = _store(job.path, job.digest)
    frames = store.batch(job.rows)
    try:
        columns, lists = measure(
            frames, job.rows, type_lookup(job.names), job.names, torch.from_numpy(job.cutoffs), job.keep_edges
        )
    except FrameError as e:
        raise Source(job.config, store, job.rows).error(int(job.rows[e.frame]), str(e)) from None
    subsets = [store.subsets[s] for s in frames.subsets.tolist()]
    factors = np.array([job.config.weights.get(name, 1.0) for name in subsets])
    columns |= {
        "weight": frames.weights * job.config.weight * factors,
        "group": np.array([_hash(store.molecule(m).name) for m in frames.molecules.tolist()], np.uint64),
        "source": np.full(len(job.rows), job.number),
        "row": job.rows,
    }
    if lists is not None:
        columns |= _local(lists, frames.offsets)
    return columns, [job.config.subset or name for name in subsets]


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _local(lists: Lists, offsets: NDArray[np.int64]) -> dict[str, Array]:
    """Return neighbor lists with atoms numbered within each frame."""
    first = offsets[np.searchsorted(offsets, lists.center, "right") - 1]
    return {"center": lists.center - first, "neighbor": lists.neighbor - first, "shifts": lists.shifts}
