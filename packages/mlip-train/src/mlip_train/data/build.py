"""First pass over the frames: validation, edge counts and statistics, in parallel, resumable and cached."""

from __future__ import annotations

import collections
import hashlib
import itertools
import json
import multiprocessing
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from numpy.typing import NDArray
from tqdm import tqdm

from mlip_train.config.data import SourceConfig
from mlip_train.data.columns import ColumnWriter, DamagedTable, Layout, open_columns
from mlip_train.data.edges import FrameError, Lists, measure
from mlip_train.data.frames import ROWS, Array, Edges, FrameTable, type_lookup
from mlip_train.data.sources import Source, open_sources
from spice_data import Store
from spice_data.files import exclusive

VERSION = 4
CHUNK = 256
"""Frames per job."""
AHEAD = 3
"""Jobs per worker that wait for their turn."""
EDGES: Layout = {"center": ("i4", ()), "neighbor": ("i4", ()), "shifts": ("i2", (3,))}


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


def elements_in(sources: Sequence[Source]) -> tuple[str, ...]:
    """Element symbols that occur in the sources, by atomic number.

    Raises
    ------
    ValueError
        If there is no frame.
    """
    seen = set().union(*(source.elements() for source in sources))
    if not seen:
        raise ValueError(f"data must contain at least one frame, got none from {_paths(sources)}")
    return tuple(chemical_symbols[z] for z in sorted(seen))


def _paths(sources: Sequence[Source]) -> list[str]:
    return [source.config.path for source in sources]


def build_table(
    sources: Sequence[SourceConfig] | Sequence[Source],
    type_names: Sequence[str],
    cutoffs: torch.Tensor,
    cache: str | Path,
    workers: int = 0,
    isolated: str = "error",
    progress: bool = False,
    keep_edges: bool = False,
) -> FrameTable:
    """Validate and count the frames of sources in one pass, or map the result of an earlier pass into memory.

    Parameters
    ----------
    sources : sequence of SourceConfig or of Source
        Files; see :func:`mlip_train.data.sources.open_sources`. Contents, options, ``type_names`` and ``cutoffs`` are
        the key of the cache.
    type_names : sequence of str
        Element symbols of the model.
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å.
    cache : path
        Folder of stores and tables. An interrupted pass is continued.
    workers : int
        Processes that validate frames; 0 does it here.
    isolated : {"error", "atoms", "keep"}
        Frames that have no edge are an error, are one if they have more than one atom, or are kept.
    progress : bool
        Show a progress bar.
    keep_edges : bool
        Keep neighbor lists on disk, 14 bytes an edge, instead of building them for every batch.

    Raises
    ------
    DataError
        For an element that is not in ``type_names``, a cell that does not span its periodic axes, atoms on top of each
        other, and a frame without edges, with file and frame index.
    FileNotFoundError, ValueError
        See :func:`mlip_train.data.sources.open_sources`; for type names that are no element symbols, and if there is
        no frame at all.
    """
    if unknown := [name for name in type_names if name not in atomic_numbers]:
        raise ValueError(f"type_names must be element symbols, got {unknown}")
    opened = [s if isinstance(s, Source) else open_sources([s], cache, workers, progress)[0] for s in sources]
    if not any(len(source.rows) for source in opened):
        raise ValueError(f"data must contain at least one frame, got none from {_paths(opened)}")
    names = tuple(type_names)
    key = [VERSION, [_identity(s) for s in opened], names, cutoffs.tolist(), keep_edges]
    hashed = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    folder = Path(cache) / hashed[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    layout: Layout = {name: (kind, ()) for name, kind in ROWS.items()}
    layout |= {"composition": ("i4", (len(names),))} | (EDGES if keep_edges else {})
    with exclusive(folder, wait=True):
        found = _cached(folder, layout)
        if found is None:
            _first_pass(folder, layout, opened, names, cutoffs, workers, progress)
            found = open_columns(folder, layout)
    arrays, subsets = found
    edges = None
    if keep_edges:
        start = np.concatenate([[0], np.cumsum(arrays["edge_count"], dtype=np.int64)])
        edges = Edges(start, *(arrays.pop(name) for name in EDGES))
    table = FrameTable(arrays, tuple(opened), subsets, names, cutoffs, edges)
    _check_isolated(table, isolated)
    return table


def _identity(source: Source) -> list[str]:
    """Contents, frames and options of a source."""
    return [source.store.digest, hashlib.sha256(source.rows.tobytes()).hexdigest(), repr(source.config)]


def _cached(folder: Path, layout: Layout) -> tuple[dict[str, Array], tuple[str, ...]] | None:
    """Open the columns written before; damaged ones are removed."""
    if not folder.exists():
        return None
    try:
        return open_columns(folder, layout)
    except DamagedTable as e:
        warnings.warn(f"{folder}: {e}; the cached frames are built again", stacklevel=3)
        shutil.rmtree(folder)
        return None


def _check_isolated(table: FrameTable, isolated: str) -> None:
    if isolated == "keep":
        return
    single = table.isolated if isolated == "atoms" else np.zeros(len(table), bool)
    empty = np.flatnonzero((table.edge_counts == 0) & ~single)
    if len(empty):
        raise table.error(
            int(empty[0]),
            f"positions must give at least one neighbor within the cutoff of {float(table.cutoffs.max())} Å, got none "
            f"({len(empty)} such frames; data.isolated: keep admits them)",
        )


def _first_pass(
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
