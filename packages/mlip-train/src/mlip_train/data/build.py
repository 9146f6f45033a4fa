"""Construction of frame tables: reading, validation, neighbor lists and the cache."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import multiprocessing
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols

import localgraph
from localgraph.files import replacing
from mlip_train.config.data import SourceConfig
from mlip_train.data.frames import LAYOUT, Array, FrameTable, open_table
from mlip_train.data.sources import DataError, Frame, Reader

VERSION = 2
CHUNK = 64
CLOSEST = 1e-3
"""Shortest distance of two atoms, Å: at zero, forces are not defined."""


def elements_in(
    sources: Sequence[SourceConfig], cache: str | os.PathLike[str], reader: Reader
) -> tuple[str, ...]:
    """Element symbols that occur in the sources, by atomic number; remembered in ``cache``.

    Parameters
    ----------
    sources : sequence of SourceConfig
        Files.
    cache : path
        Directory of :func:`build_table`.
    reader : Reader
        Given to :func:`build_table` afterwards, it does not parse a file a second time.

    Raises
    ------
    FileNotFoundError, DataError, ValueError
        See :func:`mlip_train.data.sources.read`.
    """
    key = json.dumps({"version": VERSION, "elements": _fingerprint(sources)})
    path = Path(cache) / f"{hashlib.sha256(key.encode()).hexdigest()[:16]}.elements.json"
    if path.exists():
        return tuple(json.loads(path.read_text()))
    seen = set().union(*(reader.elements(source) for source in sources))
    found = tuple(chemical_symbols[z] for z in sorted(seen))
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        file.write(json.dumps(found).encode())
    return found


def _fingerprint(sources: Sequence[SourceConfig]) -> list[list[Any]]:
    """Options, and sizes and times of the files, of each source."""
    return [
        [repr(s), *([str(p.resolve()), p.stat().st_size, p.stat().st_mtime_ns] for p in _files(s))]
        for s in sources
    ]


def _files(source: SourceConfig) -> list[Path]:
    """Return the existing files that determine a source's frames."""
    named = [Path(name) for name in (source.path, source.split) if name is not None]
    return [path for path in named if path.exists()]


def build_table(
    sources: Sequence[SourceConfig],
    type_names: Sequence[str],
    cutoffs: torch.Tensor,
    cache: str | os.PathLike[str],
    workers: int = 0,
    isolated: str = "error",
    reader: Reader | None = None,
) -> FrameTable:
    """Read sources and build their neighbor lists, or map the result of an earlier call into memory.

    Parameters
    ----------
    sources : sequence of SourceConfig
        Files; their contents (by size and time), options, ``type_names`` and ``cutoffs`` are the key of the cache.
    type_names : sequence of str
        Element symbols of the model.
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å.
    cache : path
        Directory of cached tables.
    workers : int
        Processes that build neighbor lists.
    isolated : {"error", "keep"}
        What to do with frames that have no edge.
    reader : Reader or None
        One that may hold the sources' frames already.

    Raises
    ------
    DataError
        For an element that is not in ``type_names``, a cell that does not span its periodic axes, atoms on top of each
        other, and a frame without edges, with file and frame index; and if there is no frame at all.
    FileNotFoundError, ValueError
        See :func:`mlip_train.data.sources.read`; and for type names that are no element symbols.
    """
    if unknown := [name for name in type_names if name not in atomic_numbers]:
        raise ValueError(f"type_names must be element symbols, got {unknown}")
    key = {
        "version": VERSION,
        "sources": _fingerprint(sources),
        "types": list(type_names),
        "cutoffs": cutoffs.tolist(),
    }
    folder = Path(cache) / hashlib.sha256(json.dumps(key).encode()).hexdigest()[:16]
    if not (folder / "table.json").exists():
        frames = itertools.chain.from_iterable(map((reader or Reader()).frames, sources))
        _write(folder, frames, tuple(type_names), cutoffs, workers)
    table = open_table(folder)
    if not len(table):
        raise DataError(f"data must contain at least one frame, got none from {[s.path for s in sources]}")
    if isolated == "error":
        empty = np.flatnonzero(table.edge_counts == 0)
        if len(empty):
            raise DataError(
                f"{table.where(int(empty[0]))}: must have at least one neighbor within the cutoff of "
                f"{float(cutoffs.max())} Å, got none ({len(empty)} such frames; data.isolated: keep admits them)"
            )
    return table


def _write(
    folder: Path, frames: Iterable[Frame], names: tuple[str, ...], cutoffs: torch.Tensor, workers: int
) -> None:
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    subsets: dict[str, int] = {}
    files: dict[str, int] = {}
    rows = dict.fromkeys(LAYOUT, 0)
    try:
        with contextlib.ExitStack() as opened:
            handles = {name: opened.enter_context((part / name).open("wb")) for name in LAYOUT}
            for columns, frame_subsets, frame_files in _chunks(frames, names, cutoffs, workers):
                columns["subset"] = [subsets.setdefault(s, len(subsets)) for s in frame_subsets]
                columns["file"] = [files.setdefault(f, len(files)) for f in frame_files]
                for name, (kind, shape) in LAYOUT.items():
                    array = np.ascontiguousarray(columns[name], dtype=kind).reshape(-1, *shape)
                    handles[name].write(array.tobytes())
                    rows[name] += len(array)
        head = {"rows": rows, "subsets": list(subsets), "files": list(files), "type_names": list(names)}
        (part / "table.json").write_text(json.dumps(head))
        if folder.exists() and not (folder / "table.json").exists():
            shutil.rmtree(folder)
        try:
            os.replace(part, folder)
        except OSError:  # another process was faster; its table is the same
            if not (folder / "table.json").exists():
                raise
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _chunks(
    frames: Iterable[Frame], names: tuple[str, ...], cutoffs: torch.Tensor, workers: int
) -> Iterator[tuple[dict[str, Any], list[str], list[str]]]:
    jobs = ((chunk, names, cutoffs.numpy()) for chunk in _batched(frames, CHUNK))
    if workers == 0:
        yield from map(_columns, jobs)
        return
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        yield from pool.imap(_columns, jobs)


def _batched(frames: Iterable[Frame], size: int) -> Iterator[list[Frame]]:
    iterator = iter(frames)
    while chunk := list(itertools.islice(iterator, size)):
        yield chunk


def _columns(job: tuple[list[Frame], tuple[str, ...], Array]) -> tuple[dict[str, Any], list[str], list[str]]:
    frames, names, cutoffs = job
    lookup = np.full(128, -1, dtype=np.int64)
    for number, name in enumerate(names):
        lookup[atomic_numbers[name]] = number
    table = torch.from_numpy(cutoffs)
    types: list[Array] = []
    edges: list[Array] = []
    shifts: list[Array] = []
    for f in frames:
        t: Array = lookup[f.numbers]
        if bool(np.any(t < 0)):
            raise DataError(
                f"{f.file}, frame {f.number}, key 'numbers' must be elements of the model {list(names)}, got atomic "
                f"number {int(f.numbers[np.argmin(t)])}"
            )
        positions, cell = torch.from_numpy(f.positions), torch.from_numpy(f.cell) if f.pbc.any() else None
        try:
            graph = localgraph.neighbors(
                positions, table, cell, torch.from_numpy(f.pbc), types=torch.from_numpy(t)
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
        types.append(t)
        edges.append(graph.edge_index.numpy())
        shifts.append(graph.shifts.numpy())
    index = np.concatenate(edges, 1)
    columns = {
        "atom_count": [len(t) for t in types],
        "edge_count": [e.shape[1] for e in edges],
        "energy": [f.energy for f in frames],
        "cell": [f.cell for f in frames],
        "stress": [f.stress for f in frames],
        "weight": [f.weight for f in frames],
        "index": [f.number for f in frames],
        "types": np.concatenate(types),
        "positions": np.concatenate([f.positions for f in frames]),
        "forces": np.concatenate([f.forces for f in frames]),
        "center": index[0],
        "neighbor": index[1],
        "shifts": np.concatenate(shifts),
    }
    return columns, [f.subset for f in frames], [f.file for f in frames]
