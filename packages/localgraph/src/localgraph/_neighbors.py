"""Neighbor search: all pairs of atoms within a cutoff."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from localgraph._forces import edge_vectors
from localgraph._graph import Graph, row_offsets
from localgraph.search import cell_list, vesin, vesin_cuda
from localgraph.search.arguments import (
    check_batch,
    check_cells,
    check_cutoff,
    check_positions,
    measure,
)


def neighbors(
    positions: Tensor,
    cutoff: float | Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    *,
    types: Tensor | None = None,
    batch: Tensor | None = None,
    half: bool = False,
    algorithm: str = "auto",
) -> Graph:
    """Find all pairs of atoms closer than a cutoff, periodic images included, as a Graph sorted by center.

    Parameters
    ----------
    positions : Tensor, (N, 3) float32 or float64
        Å; atoms may lie anywhere, also outside the cell. Distances are computed in float64.
    cutoff : float or Tensor, (T, T)
        Å; a pair is kept where its distance is below it. A table holds the cutoff of each ordered pair
        ``[type of center, type of neighbor]`` and needs ``types``.
    cell : Tensor, (3, 3) or (B, 3, 3), optional
        Rows are lattice vectors, Å. Needed where an axis is periodic; rows of open axes are not read.
    pbc : bool, three bools, or Tensor (3,) or (B, 3) bool
        Periodic axes.
    types : Tensor, (N,) int64, optional
        Type of each atom, an index into the table of cutoffs.
    batch : Tensor, (N,) int64, optional
        Structure of each atom, never decreasing; there are no edges between structures.
    half : bool
        Keep each pair once: the direction with center < neighbor, and for images of an atom itself the one
        whose first nonzero shift is positive. Not with a table that is not symmetric.
    algorithm : {"auto", "vesin", "cells"}
        ``"vesin"`` searches on the CPU with as many threads as torch uses, and on an NVIDIA GPU by vesin's CUDA code
        (not run yet); ``"cells"`` is a cell list in torch that runs where ``positions`` are and sends only sizes to the
        host. ``"auto"`` is the first for positions on the CPU and the second elsewhere (and where atoms are few and far
        between, see :func:`localgraph.search.vesin.suits`). The edges are the same; the order
        within a center may differ between algorithms.

    Returns
    -------
    Graph
        Deterministic for a given algorithm, the order of edges within a center included.

    Raises
    ------
    ValueError
        For NaN or infinite positions, lattice vectors that are linearly dependent along periodic axes, a
        cutoff that is not positive, lengths that do not match, or a search by vesin where it cannot be.

    Examples
    --------
    >>> graph = neighbors(torch.tensor([[0.0, 0, 0]]), 2.5, cell=2 * torch.eye(3), pbc=[True, False, False])
    >>> graph.edge_index.tolist(), graph.shifts.tolist()
    ([[0, 0], [0, 0]], [[1, 0, 0], [-1, 0, 0]])
    """
    if algorithm not in ("auto", "vesin", "cells"):
        raise ValueError(f'algorithm must be "auto", "vesin" or "cells", got {algorithm!r}')
    x = check_positions(positions)
    largest, table = check_cutoff(cutoff, types, x.shape[0])
    index = check_batch(batch, x.shape[0], x.device)
    cells, periodic = check_cells(cell, pbc, index)
    structures = measure(x, cells, periodic, index)
    if algorithm == "auto":
        on_cpu = x.device.type == "cpu" and vesin.suits(structures, largest)
        algorithm = "vesin" if on_cpu else "cells"
    elif algorithm == "vesin" and not (
        x.device.type in ("cpu", "cuda") and vesin.possible(structures, largest)
    ):
        raise ValueError(
            'algorithm must be "cells" or "auto" for positions on another device than a CPU or an NVIDIA GPU, or in a '
            f'region that vesin cannot divide, got "vesin" for {x.device.type} and an extent of '
            f"{structures.extent.amax(0).tolist()} Å"
        )
    by_vesin = vesin if x.device.type == "cpu" else vesin_cuda
    graph = (by_vesin if algorithm == "vesin" else cell_list).search(structures, largest)
    keep = None
    if table is not None and types is not None:
        r = edge_vectors(x, graph, cells, index)
        limit = edge_cutoffs(table.to(x.device), types, graph.edge_index)
        keep = (r * r).sum(1) < limit * limit
    if half:
        if table is not None and not torch.equal(table, table.T):
            raise ValueError("half must be a symmetric table of cutoffs, got one that is not")
        once = _forward(graph)
        keep = once if keep is None else keep & once
    return graph if keep is None else _select(graph, keep)


def edge_cutoffs(table: Tensor, types: Tensor, edge_index: Tensor) -> Tensor:
    """Return the cutoff (E,) of each edge from the table (T, T) of ordered pairs of types."""
    kind = types.to(torch.int64)
    return table.flatten()[kind[edge_index[0]] * table.shape[0] + kind[edge_index[1]]]


def _forward(graph: Graph) -> Tensor:
    """Return a mask of the one direction of each pair that a half list keeps."""
    center, neighbor = graph.edge_index
    a, b, c = graph.shifts.unbind(1)
    positive = (a > 0) | ((a == 0) & ((b > 0) | ((b == 0) & (c > 0))))
    once: Tensor = (center < neighbor) | ((center == neighbor) & positive)
    return once


def _select(graph: Graph, keep: Tensor) -> Graph:
    """Select the edges where ``keep`` (E,) bool is true."""
    edge_index = graph.edge_index[:, keep]
    return Graph(edge_index, graph.shifts[keep], row_offsets(edge_index[0], graph.num_atoms))
