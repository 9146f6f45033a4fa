"""Directed edges sorted by center, their lattice translations and row pointer."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Graph(NamedTuple):
    """Directed edges within a cutoff, sorted by center atom.

    An edge ``e`` runs from its center ``c = edge_index[0, e]`` to its neighbor ``n = edge_index[1, e]``;
    its vector is ``positions[n] + shifts[e] @ cell − positions[c]`` (:func:`localgraph.edge_vectors`).
    No atoms and no edges are valid input: ``edge_index`` is then (2, 0) and ``offsets`` is ``[0]``.

    Attributes
    ----------
    edge_index : Tensor, (2, E) int64
        Rows ``[center; neighbor]``; the first row is non-decreasing.
    shifts : Tensor, (E, 3) int32
        Lattice translation of the neighbor, in units of the cell's rows; zero along axes that are not
        periodic.
    offsets : Tensor, (N + 1,) int64
        Row pointer: the edges of center ``i`` are ``offsets[i]:offsets[i + 1]``; ``offsets[N]`` is E.
    """

    edge_index: Tensor
    shifts: Tensor
    offsets: Tensor

    @property
    def num_atoms(self) -> int:
        """Number of atoms N, those without neighbors included."""
        return self.offsets.shape[0] - 1

    @property
    def num_edges(self) -> int:
        """Number of edges E."""
        return self.edge_index.shape[1]

    def to(self, device: torch.device | str) -> Graph:
        """Return the graph on another device."""
        return Graph(*(t.to(device) for t in self))


def row_offsets(center: Tensor, num_atoms: int) -> Tensor:
    """Return the row pointer (N + 1,) int64 of center indices ``center`` (E,) integer, in any order.

    Edges of atom i are offsets[i] … offsets[i + 1] − 1 after sorting by center (``equitensor.row_offsets`` takes sorted
    centers alone).
    """
    offsets = torch.zeros(num_atoms + 1, dtype=torch.int64, device=center.device)
    torch.cumsum(torch.bincount(center, minlength=num_atoms), 0, out=offsets[1:])
    return offsets


def from_pairs(center: Tensor, neighbor: Tensor, shifts: Tensor, num_atoms: int) -> Graph:
    """Build a Graph of unsorted pairs; pairs of one center keep their order.

    Parameters
    ----------
    center, neighbor : Tensor, (E,) integer
        Atom indices in ``[0, num_atoms)``.
    shifts : Tensor, (E, 3) integer
        Lattice translations of the neighbors.
    num_atoms : int
        Number of atoms N.

    Returns
    -------
    Graph
        The same pairs, sorted by center by a stable sort.
    """
    order = torch.argsort(center.to(torch.int32), stable=True)
    edge_index = torch.empty((2, center.shape[0]), dtype=torch.int64, device=center.device)
    edge_index[0] = center[order]
    edge_index[1] = neighbor[order]
    return Graph(edge_index, shifts[order].to(torch.int32), row_offsets(edge_index[0], num_atoms))
