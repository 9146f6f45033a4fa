"""Joining of graphs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from localgraph._graph import Graph


def batch(graphs: Sequence[Graph]) -> tuple[Graph, Tensor]:
    """Join graphs into one whose atoms are those of the first, then those of the second, and so on.

    Parameters
    ----------
    graphs : sequence of Graph
        At least one, all on one device. A graph without edges or without atoms is an ordinary member.

    Returns
    -------
    graph : Graph
        The joined graph; positions and types of the structures are to be concatenated in the same order.
    batch : Tensor, (N,) int64
        Structure of each atom, for ``edge_vectors(..., cell (B, 3, 3), batch)`` and the virials of a batch.

    Raises
    ------
    ValueError
        If ``graphs`` is empty.

    Examples
    --------
    >>> from localgraph import neighbors
    >>> pair = neighbors(torch.tensor([[0.0, 0, 0], [1, 0, 0]]), 2.0)
    >>> joined, index = batch([pair, pair])
    >>> joined.edge_index
    tensor([[0, 1, 2, 3],
            [1, 0, 3, 2]])
    >>> index
    tensor([0, 0, 1, 1])
    """
    if len(graphs) == 0:
        raise ValueError("graphs must be at least one graph, got none")
    edge_index, offsets, atoms, edges = [], [graphs[0].offsets[:1]], 0, 0
    for graph in graphs:
        edge_index.append(graph.edge_index + atoms)
        offsets.append(graph.offsets[1:] + edges)
        atoms += graph.num_atoms
        edges += graph.num_edges
    device = graphs[0].offsets.device
    counts = torch.tensor([g.num_atoms for g in graphs], device=device)
    index = torch.repeat_interleave(torch.arange(len(graphs), device=device), counts)
    return Graph(torch.cat(edge_index, 1), torch.cat([g.shifts for g in graphs]), torch.cat(offsets)), index
