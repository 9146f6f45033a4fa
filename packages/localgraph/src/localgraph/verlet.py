"""Edges of a moving system: a neighbor list with a skin, reduced to the edges within the cutoffs now."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from localgraph._forces import edge_vectors
from localgraph._neighbors import edge_cutoffs
from localgraph._skin import SkinList, allocate, check_skin, equal, update


class Edges(NamedTuple):
    """Edges of a geometry, as an :class:`localgraph.EdgeModel` takes them.

    Attributes
    ----------
    vectors : Tensor, (E, 3)
        r_e = x_neighbor + shift·cell − x_center, Å, in the dtype of the positions.
    edge_index : Tensor, (2, E) int64
        Rows ``[center; neighbor]``, sorted by center.
    """

    vectors: Tensor
    edge_index: Tensor


class VerletList:
    """Edges of one system, or one batch of systems, from step to step.

    Searches within cutoff + skin and reuses the result until an edge within the cutoff could be missing
    (:func:`localgraph.update`), or types, periodic axes or the batch change. Works on the device of the positions. On a
    GPU a step without a search waits three times: for types (and once for a batch), how far atoms moved, and the number
    of edges; a fourth time for a cell or periodic axes that lie on the GPU too.

    Parameters
    ----------
    cutoffs : float or Tensor, (T, T)
        Cutoff, or cutoff of each ordered pair ``[type of center, type of neighbor]``, Å.
    skin : float
        Å, ≥ 0.

    Raises
    ------
    ValueError
        If ``skin`` is negative or not finite.

    Attributes
    ----------
    searches : int
        Number of neighbor searches so far.

    Examples
    --------
    >>> edges = VerletList(2.5, skin=0.5)
    >>> pair = torch.tensor([[0.0, 0.0, 0.0], [2.0, 0.0, 0.0]])
    >>> for step in range(3):
    ...     vectors, edge_index = edges.update(pair + torch.tensor([[0.0], [0.05 * step]]))
    >>> vectors[0], edges.searches
    (tensor([2.1000, 0.1000, 0.1000]), 1)
    """

    def __init__(self, cutoffs: float | Tensor, skin: float):
        self.cutoffs = cutoffs
        self.skin = check_skin(skin)
        self.searches = 0
        self._list: SkinList | None = None

    def update(
        self,
        positions: Tensor,
        cell: Tensor | None = None,
        pbc: bool | Sequence[bool] | Tensor = False,
        types: Tensor | None = None,
        batch: Tensor | None = None,
    ) -> Edges:
        """Return the edges of a geometry: r_e shorter than the cutoff, and their atoms.

        Parameters
        ----------
        positions : Tensor, (N, 3)
            Å.
        cell : Tensor, (3, 3) or (B, 3, 3), optional
            Rows are lattice vectors, Å; needed where an axis is periodic, rows of open axes are not read. Best on the
            CPU, where it is looked at.
        pbc : bool, three bools, or Tensor (3,) or (B, 3) bool
            Periodic axes.
        types : Tensor, (N,) int64, optional
            Type of each atom; needed with cutoffs per pair.
        batch : Tensor, (N,) int64, optional
            Structure of each atom, never decreasing.

        Returns
        -------
        Edges
            Their vectors are differentiable in ``positions`` and ``cell``.

        Raises
        ------
        ValueError
            As :func:`localgraph.neighbors`. The list is then as it was.
        """
        periodic = torch.as_tensor(pbc, dtype=torch.bool)
        used = cell if bool(periodic.any()) else None
        cutoffs = self.cutoffs
        if isinstance(cutoffs, Tensor):
            cutoffs = cutoffs.to(positions.device)
        found = self._searched(positions, cutoffs, used, periodic, types, batch)
        used = None if used is None else used.to(positions.device)
        vectors, index = edge_vectors(positions, found.graph, used, batch), found.graph.edge_index
        bound: float | Tensor = cutoffs
        if isinstance(cutoffs, Tensor) and cutoffs.ndim == 2 and types is not None:
            bound = edge_cutoffs(cutoffs, types, index)
        near = (vectors.detach().square().sum(1) < bound * bound).nonzero().squeeze(1)
        return Edges(vectors.index_select(0, near), index.index_select(1, near))

    def _searched(
        self,
        positions: Tensor,
        cutoffs: float | Tensor,
        cell: Tensor | None,
        pbc: Tensor,
        types: Tensor | None,
        batch: Tensor | None,
    ) -> SkinList:
        """Return the list for this geometry: the last one where it still covers the cutoffs."""
        last = self._list
        same = (
            last is not None
            and last.positions.shape == positions.shape
            and last.positions.device == positions.device
            and equal(torch.as_tensor(last.pbc), pbc)
            and equal(last.types, types)
            and equal(last.batch, batch)
            and (last.cell is None) == (cell is None)
            and (last.cell is None or cell is None or last.cell.shape == cell.shape)
        )
        if last is not None and same:
            found = update(last, positions, cell)
            self.searches += found.rebuilds - last.rebuilds
        else:
            kept = [None if t is None else t.clone() for t in (types, batch)]
            found = allocate(
                positions, cutoffs, cell, pbc.clone(), skin=self.skin, types=kept[0], batch=kept[1]
            )
            self.searches += 1
        self._list = found
        return found
