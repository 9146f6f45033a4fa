"""Tables of frames: mapped from the cache, or written there in a first pass."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from ase.data import atomic_numbers

from mlip_train.config.data import SourceConfig
from mlip_train.config.schema import TrainConfig
from mlip_train.data.columns import Layout, open_cached, open_columns
from mlip_train.data.first_pass import first_pass
from mlip_train.data.frames import ROWS, Edges, FrameTable
from mlip_train.data.sources import Source, open_sources, paths_of
from spice_data.files import exclusive

VERSION = 4
EDGES: Layout = {"center": ("i4", ()), "neighbor": ("i4", ()), "shifts": ("i2", (3,))}


def build_table(
    sources: Sequence[SourceConfig],
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
    sources : sequence of SourceConfig
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
    opened = open_sources(sources, cache, workers, progress)
    return _table(opened, type_names, cutoffs, cache, workers, isolated, progress, keep_edges)


def _table(
    opened: Sequence[Source],
    type_names: Sequence[str],
    cutoffs: torch.Tensor,
    cache: str | Path,
    workers: int,
    isolated: str,
    progress: bool,
    keep_edges: bool,
) -> FrameTable:
    if unknown := [name for name in type_names if name not in atomic_numbers]:
        raise ValueError(f"type_names must be element symbols, got {unknown}")
    if not any(len(source.rows) for source in opened):
        raise ValueError(f"data must contain at least one frame, got none from {paths_of(opened)}")
    names = tuple(type_names)
    key = [VERSION, [_identity(s) for s in opened], names, cutoffs.tolist(), keep_edges]
    hashed = hashlib.sha256(json.dumps(key).encode()).hexdigest()
    folder = Path(cache) / hashed[:16]
    folder.parent.mkdir(parents=True, exist_ok=True)
    layout: Layout = {name: (kind, ()) for name, kind in ROWS.items()}
    layout |= {"composition": ("i4", (len(names),))} | (EDGES if keep_edges else {})
    with exclusive(folder, wait=True):
        found = open_cached(folder, layout)
        if found is None:
            first_pass(folder, layout, opened, names, cutoffs, workers, progress)
            found = open_columns(folder, layout)
    arrays, subsets = found
    edges = None
    if keep_edges:
        start = np.concatenate([[0], np.cumsum(arrays["edge_count"], dtype=np.int64)])
        edges = Edges(start, *(arrays.pop(name) for name in EDGES))
    table = FrameTable(arrays, tuple(opened), subsets, names, cutoffs, edges)
    _check_isolated(table, isolated)
    return table


def build_tables(
    config: TrainConfig, sources: Mapping[str, Sequence[Source]], names: Sequence[str], cutoffs: torch.Tensor
) -> dict[str, FrameTable]:
    """Build the table of each part of a run's data, as :func:`build_table`."""
    data, isolated = config.data, str(config.data.isolated)
    if isolated == "error" and config.statistics.energy_shifts == "isolated":
        isolated = "atoms"
    place, options = (config.cache, data.workers, isolated), (config.logging.progress, data.cache_neighbors)
    return {part: _table(opened, names, cutoffs, *place, *options) for part, opened in sources.items()}


def _identity(source: Source) -> list[str]:
    """Contents, frames and options of a source."""
    return [source.store.digest, hashlib.sha256(source.rows.tobytes()).hexdigest(), repr(source.config)]


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
