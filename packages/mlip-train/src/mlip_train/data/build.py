"""Construction of frame tables: reading, validation, neighbor lists and the cache."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase.data import atomic_numbers, chemical_symbols
from tqdm import tqdm

from localgraph import atomic_write
from mlip_train.config.data import SourceConfig
from mlip_train.data.edges import columns_of
from mlip_train.data.frame import DataError
from mlip_train.data.frames import DamagedTable, FrameTable, open_table, write_table
from mlip_train.data.sources import Reader

VERSION = 3


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
    if not seen:
        raise DataError(f"data must contain at least one frame, got none from {[s.path for s in sources]}")
    found = tuple(chemical_symbols[z] for z in sorted(seen))
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
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
    progress: bool = False,
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
    isolated : {"error", "atoms", "keep"}
        Frames that have no edge are an error, are one if they have more than one atom, or are kept.
    reader : Reader or None
        One that may hold the sources' frames already.
    progress : bool
        Show a progress bar.

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
    table = _cached(folder)
    if table is None:
        read = (reader or Reader()).frames
        frames = ((i, frame) for i, source in enumerate(sources) for frame in read(source))
        chunks = columns_of(
            tqdm(frames, "frames", disable=not progress, unit=" frames"), tuple(type_names), cutoffs, workers
        )
        write_table(folder, chunks, [s.path for s in sources], tuple(type_names))
        table = open_table(folder)
    if not len(table):
        raise DataError(f"data must contain at least one frame, got none from {[s.path for s in sources]}")
    if isolated != "keep":
        single = table.isolated if isolated == "atoms" else np.zeros(len(table), bool)
        empty = np.flatnonzero((table.edge_counts == 0) & ~single)
        if len(empty):
            raise DataError(
                f"{table.where(int(empty[0]))}: must have at least one neighbor within the cutoff of "
                f"{float(cutoffs.max())} Å, got none ({len(empty)} such frames; data.isolated: keep admits them)"
            )
    return table


def _cached(folder: Path) -> FrameTable | None:
    """Open a table written before; one that is damaged is removed."""
    if not folder.exists():
        return None
    try:
        return open_table(folder)
    except DamagedTable as e:
        warnings.warn(f"{folder}: {e}; the cached frames are built again", stacklevel=3)
        shutil.rmtree(folder)
        return None
