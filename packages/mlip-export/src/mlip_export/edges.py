"""Edges of a moving system: localgraph's list with a skin, cut down to those within the cutoffs now."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from localgraph import Graph, SkinList, allocate, edge_vectors, forces, update
from mlip_export.settings import checked_skin


class Edges(NamedTuple):
    """The edges within the cutoffs now: vectors (E, 3) Å, edge_index (2, E) sorted by center."""

    vectors: Tensor
    edge_index: Tensor


def atom_forces(edge_forces: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """Forces (N, 3), eV/Å, of edge forces (E, 3): :func:`localgraph.forces`, which reads the edge index alone."""
    unread = edge_index.new_zeros(0)
    return forces(edge_forces, Graph(edge_index, unread, unread), num_atoms)


class MovingEdges:
    """Edges of one system from step to step.

    The list is searched again when an edge may have been missed (:func:`localgraph.update`), and made anew
    for other types or periodic axes.

    Parameters
    ----------
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å.
    skin : float
        Å, not negative.

    Raises
    ------
    ValueError
        For another skin.

    Attributes
    ----------
    searches : int
        How many searches there have been.
    """

    def __init__(self, cutoffs: Tensor, skin: float):
        self.cutoffs = cutoffs
        self.skin = checked_skin(skin)
        self.searches = 0
        self._list: SkinList | None = None
        self._pbc: tuple[bool, ...] = ()

    def at(self, positions: Tensor, cell: Tensor, pbc: tuple[bool, ...], types: Tensor) -> Edges:
        """The edges of a geometry.

        Parameters
        ----------
        positions : Tensor, (N, 3) float64
            Å.
        cell : Tensor, (3, 3) float64
            Rows are lattice vectors, Å; rows of open axes are not read.
        pbc : three bools
        types : Tensor, (N,) int64
        """
        periodic = cell if any(pbc) else None
        last = self._list
        if last is None or last.types is None or pbc != self._pbc or not torch.equal(types, last.types):
            found = allocate(positions, self.cutoffs, periodic, list(pbc), skin=self.skin, types=types)
            self.searches += 1
        else:
            found = update(last, positions, periodic)
            self.searches += found.rebuilds - last.rebuilds
        self._list, self._pbc = found, pbc
        vectors = edge_vectors(positions, found.graph, periodic)
        index = found.graph.edge_index
        bound = self.cutoffs.flatten()[types[index[0]] * self.cutoffs.shape[0] + types[index[1]]]
        near = vectors.square().sum(1) < bound.square()
        return Edges(vectors[near], index[:, near].contiguous())
