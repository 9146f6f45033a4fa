"""Evaluate large graphs in chunks of whole centers, which bounds memory by a number of edges."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Callable

import torch
from torch import Tensor

from mlip_export.model_file import Metadata

Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def edges_per_call(max_edges: int | None, metadata: Metadata) -> int:
    """Return ``max_edges``, or the model's default where None; ``ValueError`` for less than 1."""
    if max_edges is None:
        return metadata.edges_per_call
    if not max_edges >= 1:
        raise ValueError(f"max_edges must be at least 1, got {max_edges!r}")
    return max_edges


def chunk_bounds(counts: Tensor, max_edges: int) -> list[int]:
    """Return the centers at which chunks begin and end, each of at most ``max_edges`` edges or of one center.

    Chunks are as few and as even as whole centers allow.

    Parameters
    ----------
    counts : Tensor, (N,) int64
        Number of edges of each center.
    max_edges : int
        At least 1.
    """
    ends = torch.cumsum(counts, 0).tolist()
    atoms = len(ends)
    bounds = [0]
    while bounds[-1] < atoms:
        start = bounds[-1]
        done = ends[start - 1] if start else 0
        left = ends[-1] - done
        share = done + math.ceil(left / max(1, math.ceil(left / max_edges)))
        stop = bisect.bisect_left(ends, share, start) + 1 if share < ends[-1] else atoms
        if stop - start > 1 and ends[stop - 1] - done > max_edges:
            stop -= 1
        bounds.append(stop)
    return bounds


def evaluate(
    function: Function,
    edge_vectors: Tensor,
    edge_index: Tensor,
    types: Tensor,
    num_types: int,
    max_edges: int | None,
) -> tuple[Tensor, Tensor]:
    """Compute atom energies and edge forces, chunk by chunk of centers.

    A strictly local model reads of a neighbor its type alone, so each chunk holds its own centers and one
    representative atom per type; the result is that of one call, up to rounding in the order of its sums.

    Parameters
    ----------
    function : callable
        An :class:`mlip_export.EdgePotential` (or a bare compiled function).
    edge_vectors, edge_index, types : Tensor
        The graph, sorted by center.
    num_types : int
        Number of types T.
    max_edges : int, optional
        Edges per call (at least those of one center); None makes one call.
    """
    edges, atoms = edge_vectors.shape[0], types.shape[0]
    if max_edges is None or edges <= max_edges:
        return function(edge_vectors, edge_index, types)
    center, neighbor = edge_index[0], edge_index[1]
    counts = torch.bincount(center, minlength=atoms)
    offsets = torch.zeros(atoms + 1, dtype=torch.int64, device=types.device)
    torch.cumsum(counts, 0, out=offsets[1:])
    energies = torch.empty(atoms, dtype=edge_vectors.dtype, device=edge_vectors.device)
    edge_forces = torch.empty_like(edge_vectors)
    representatives = torch.arange(num_types, dtype=torch.int64, device=types.device)
    bounds = chunk_bounds(counts, max_edges)
    for start, stop in itertools.pairwise(bounds):
        a, b = int(offsets[start]), int(offsets[stop])
        index = torch.stack([center[a:b] - start, types[neighbor[a:b]] + (stop - start)])
        local = torch.cat([types[start:stop], representatives])
        e, g = function(edge_vectors[a:b], index, local)
        energies[start:stop] = e[: stop - start]
        edge_forces[a:b] = g
    return energies, edge_forces
