"""Evaluate large graphs in chunks of whole centers, within the limits of the compiled code and of memory."""

from __future__ import annotations

import bisect
import itertools
import math
import threading
from collections.abc import Callable

import torch
from torch import Tensor

from localgraph import row_offsets
from mlip_export.model_file import Metadata

Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

EDGE_SHARE, ATOM_SHARE = 0.6, 0.2
"""Shares of a GPU's free memory for what a call takes per edge and per atom; the rest is for fragments."""


def edges_per_call(max_edges: int | None, metadata: Metadata) -> int:
    """Return ``max_edges``, or the model's default where None; ``ValueError`` out of the model's range."""
    if max_edges is None:
        return metadata.edges_per_call
    if not 1 <= max_edges <= metadata.max_edges:
        raise ValueError(f"max_edges must be at least 1 and at most {metadata.max_edges}, got {max_edges!r}")
    return max_edges


class Limits:
    """Edges and atoms of one call: what the compiled code indexes, and what the memory of its device holds.

    Free memory of a GPU is asked for once, before the first evaluation; out of memory halves the limits of the call
    that failed, for the rest of the process.

    Attributes
    ----------
    edges, atoms : int
        The largest of one call, its representatives of types included.
    """

    def __init__(self, metadata: Metadata, device: torch.device):
        self.edges, self.atoms = metadata.max_edges, metadata.max_atoms
        self._bytes = metadata.bytes_per_edge, metadata.bytes_per_atom
        self._device, self._asked, self._failures = device, False, 0
        self._lock = threading.Lock()

    def fit_memory(self) -> None:
        """Lower the limits to what fits the free memory of a GPU; does nothing the second time, or for a CPU."""
        with self._lock:
            if self._asked or self._device.type != "cuda":
                return
            self._asked, self._failures = True, failed_allocations(self._device)
            free = free_bytes(self._device)
            self.edges = min(self.edges, max(1, int(EDGE_SHARE * free / max(1, self._bytes[0]))))
            self.atoms = min(self.atoms, max(1, int(ATOM_SHARE * free / max(1, self._bytes[1]))))

    def out_of_memory(self, error: BaseException) -> bool:
        """Whether an evaluation failed for want of memory; compiled code hides it, the allocator counts it."""
        if isinstance(error, torch.OutOfMemoryError):
            return True
        if self._device.type != "cuda":
            return False
        with self._lock:
            before, self._failures = self._failures, failed_allocations(self._device)
        return self._failures > before

    def halve(self, edges: int, atoms: int) -> None:
        """Lower the limits to half of a call of so many edges and atoms."""
        with self._lock:
            self.edges, self.atoms = min(self.edges, max(1, edges // 2)), min(self.atoms, max(1, atoms // 2))


def free_bytes(device: torch.device) -> int:
    """Return the bytes that torch can still allocate on a GPU: free ones, and those it holds unused."""
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def failed_allocations(device: torch.device) -> int:
    """Return how often torch's allocator of a GPU ran out of memory in this process."""
    return int(torch.cuda.memory_stats(device).get("num_ooms", 0))


def chunk_bounds(offsets: Tensor, max_edges: int, max_atoms: int | None = None) -> list[int]:
    """Return the centers at which chunks begin and end, each of at most ``max_edges`` edges or of one center.

    Chunks are as few and as even in edges as whole centers allow.

    Parameters
    ----------
    offsets : Tensor, (N + 1,) int64
        First edge of each center, and the number of edges (:func:`localgraph.row_offsets`).
    max_edges : int
        At least 1.
    max_atoms : int, optional
        Centers of a chunk, at least 1.
    """
    ends = offsets[1:].tolist()
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
        if max_atoms is not None:
            stop = min(stop, start + max_atoms)
        bounds.append(stop)
    return bounds


def evaluate(
    function: Function,
    edge_vectors: Tensor,
    edge_index: Tensor,
    types: Tensor,
    num_types: int,
    max_edges: int | None,
    limits: Limits | None = None,
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
        Edges per call (at least those of one center); None for as many as the limits allow.
    limits : Limits, optional
        Limits of ``function``, which running out of memory lowers.

    Raises
    ------
    torch.OutOfMemoryError
        If one center with its neighbors does not fit.
    """
    if limits is not None:
        limits.fit_memory()
    while True:
        at_once = edge_vectors.shape[0] if max_edges is None else max_edges
        call = _Chunks(function, edge_vectors, edge_index, types, num_types)
        try:
            return call(
                at_once if limits is None else min(at_once, limits.edges),
                None if limits is None else limits.atoms,
            )
        except RuntimeError as e:
            if limits is None or call.centers <= 1 or not limits.out_of_memory(e):
                raise
        limits.halve(
            call.edges, call.centers
        )  # here, where the error no longer holds the memory of its frames


class _Chunks:
    """One attempt to evaluate a graph; ``edges`` and ``centers`` are those of the call in progress."""

    def __init__(
        self, function: Function, edge_vectors: Tensor, edge_index: Tensor, types: Tensor, num_types: int
    ):
        self.function, self.num_types = function, num_types
        self.graph = edge_vectors, edge_index, types
        self.edges, self.centers = edge_vectors.shape[0], types.shape[0]

    def __call__(self, max_edges: int, max_atoms: int | None) -> tuple[Tensor, Tensor]:
        edge_vectors, edge_index, types = self.graph
        edges, atoms = edge_vectors.shape[0], types.shape[0]
        if edges <= max_edges and (max_atoms is None or atoms <= max_atoms):
            return self.function(edge_vectors, edge_index, types)
        center, neighbor = edge_index[0], edge_index[1]
        offsets = row_offsets(center, atoms)
        energies = torch.empty(atoms, dtype=edge_vectors.dtype, device=edge_vectors.device)
        edge_forces = torch.empty_like(edge_vectors)
        representatives = torch.arange(self.num_types, dtype=torch.int64, device=types.device)
        rows = None if max_atoms is None else max(1, max_atoms - self.num_types)
        bounds = chunk_bounds(offsets, max(1, max_edges), rows)
        ends = offsets[bounds].tolist()
        for (start, stop), (a, b) in zip(itertools.pairwise(bounds), itertools.pairwise(ends), strict=True):
            self.edges, self.centers = b - a, stop - start
            index = torch.stack([center[a:b] - start, types[neighbor[a:b]] + (stop - start)])
            local = torch.cat([types[start:stop], representatives])
            e, g = self.function(_aligned(edge_vectors[a:b]), index, local)
            energies[start:stop] = e[: stop - start]
            edge_forces[a:b] = g
        return energies, edge_forces


def _aligned(rows: Tensor) -> Tensor:
    """Return rows that begin at a multiple of 16 bytes, where a compiled GPU program takes them as they are."""
    return rows if rows.data_ptr() % 16 == 0 else rows.clone()
