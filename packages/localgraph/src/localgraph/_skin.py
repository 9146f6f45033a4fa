"""Neighbor lists with a skin as pure functions of data, with a fixed capacity for static shapes.

:func:`allocate` searches and returns a :class:`SkinList`; :func:`update` returns the list for new positions, which
is the same one while it covers the cutoff. Edges beyond the capacity set ``overflow``; nothing is raised.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from localgraph._graph import Graph
from localgraph._neighbors import neighbors
from localgraph.search.arguments import check_cells, check_cutoff


class SkinList(NamedTuple):
    """Edges within cutoff + skin of reference positions, and the data to decide when to search again.

    Attributes
    ----------
    graph : Graph
        Edges within cutoff + skin of the reference positions, sorted by center. Those that are longer
        than the cutoff now are among them; a model that vanishes at its cutoff is not affected by them.
    capacity : int
        Slots of :func:`padded`.
    overflow : Tensor, () bool
        The graph has more edges than ``capacity``: the padded form is truncated and must not be used.
    rebuilds : int
        Number of searches since the list was allocated.
    cutoff : float or Tensor, (T, T)
        Å, without the skin.
    skin : float
        Å.
    positions, cell : Tensor, (N, 3) and (3, 3), (B, 3, 3) or None
        The reference, Å.
    pbc, batch, types
        As given to :func:`allocate`.
    last_cell : Tensor or None
        Å, of the last update; the reference's where that was searched for.
    """

    graph: Graph
    capacity: int
    overflow: Tensor
    rebuilds: int
    cutoff: float | Tensor
    skin: float
    positions: Tensor
    cell: Tensor | None
    pbc: bool | Sequence[bool] | Tensor
    batch: Tensor | None
    types: Tensor | None
    last_cell: Tensor | None


class Padded(NamedTuple):
    """A graph with a fixed number of edges.

    Attributes
    ----------
    graph : Graph
        The real edges first; the rest join the last atom to itself with no shift. ``offsets`` counts the
        real ones.
    mask : Tensor, (capacity,) bool
        True for real edges.
    """

    graph: Graph
    mask: Tensor


def allocate(
    positions: Tensor,
    cutoff: float | Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] | Tensor = False,
    *,
    skin: float,
    batch: Tensor | None = None,
    types: Tensor | None = None,
    capacity: int | None = None,
    growth: float = 1.25,
) -> SkinList:
    """Search and return a list for :func:`update`.

    Parameters
    ----------
    positions, cutoff, cell, pbc, batch, types
        As for :func:`localgraph.neighbors`.
    skin : float
        Å, ≥ 0; the search reaches this much further than the cutoff.
    capacity : int, optional
        Slots of the padded form; by default the edges found times ``growth``.
    growth : float
        ≥ 1.

    Returns
    -------
    SkinList
        Its ``rebuilds`` is 0.

    Raises
    ------
    ValueError
        As for :func:`localgraph.neighbors`, and for a skin, capacity or growth out of range.
    """
    skin = check_skin(skin)
    if not 1.0 <= growth < math.inf:
        raise ValueError(f"growth must be a finite number ≥ 1, got {growth}")
    if capacity is not None and capacity < 0:
        raise ValueError(f"capacity must be a number of edges ≥ 0, got {capacity}")
    check_cutoff(cutoff, types, positions.shape[0])
    own_cell = None if cell is None else torch.as_tensor(cell).detach().clone()
    graph = neighbors(positions, cutoff + skin, cell, pbc, batch=batch, types=types)
    if capacity is None:
        capacity = math.ceil(graph.num_edges * growth)
    return SkinList(
        graph,
        capacity,
        _overflow(graph, capacity),
        0,
        cutoff,
        skin,
        positions.detach().clone(),
        own_cell,
        pbc,
        batch,
        types,
        own_cell,
    )


def check_skin(skin: float) -> float:
    """Return ``skin`` as a float; ``ValueError`` unless it is finite and ≥ 0."""
    if not 0.0 <= skin < math.inf:
        raise ValueError(f"skin must be a finite number ≥ 0, got {skin}")
    return float(skin)


def update(skin_list: SkinList, positions: Tensor, cell: Tensor | None = None) -> SkinList:
    """Return the list for new positions: the same edges, or searched again where one might be missing.

    Atoms that moved u against a reference that follows the cell, x_ref·F with F = cell_ref⁻¹·cell, and
    pairs that were cutoff + skin apart or more, are still apart by at least σ_min(F)·(cutoff + skin) − 2
    max|u|. While that is not below the cutoff the list is reused: with a fixed cell, while no atom moved
    more than half the skin.

    Parameters
    ----------
    skin_list : SkinList
        From :func:`allocate` or :func:`update`; not modified.
    positions : Tensor, (N, 3)
        Å. Wrapping an atom back into the cell moves it by a lattice vector and so causes a search.
    cell : Tensor, (3, 3) or (B, 3, 3), optional
        Å; by default the last one given.

    Returns
    -------
    SkinList
        With the same capacity and, if it had to be searched again, with new reference positions,
        ``rebuilds`` one larger, and ``overflow`` saying whether the edges still fit.

    Raises
    ------
    ValueError
        For another number of atoms, or bad positions or cell when the list is searched again.
    """
    reference = skin_list.positions
    if positions.shape != reference.shape:
        raise ValueError(f"positions must have shape {tuple(reference.shape)}, got {tuple(positions.shape)}")
    new_cell = skin_list.last_cell if cell is None else torch.as_tensor(cell).detach()
    if _covers(skin_list, positions.detach(), new_cell):
        if new_cell is None or equal(new_cell, skin_list.last_cell):
            return skin_list
        return skin_list._replace(last_cell=new_cell.clone())
    own_cell = None if new_cell is None else new_cell.clone()
    graph = neighbors(
        positions,
        skin_list.cutoff + skin_list.skin,
        new_cell,
        skin_list.pbc,
        batch=skin_list.batch,
        types=skin_list.types,
    )
    return skin_list._replace(
        graph=graph,
        overflow=_overflow(graph, skin_list.capacity),
        rebuilds=skin_list.rebuilds + 1,
        positions=positions.detach().clone(),
        cell=own_cell,
        last_cell=own_cell,
    )


def grow(skin_list: SkinList, growth: float = 1.25) -> SkinList:
    """Return the list with its capacity multiplied by ``growth`` until the edges fit, without a search.

    Raises
    ------
    ValueError
        If ``growth`` is not a finite number > 1.
    """
    if not 1.0 < growth < math.inf:
        raise ValueError(f"growth must be a finite number > 1, got {growth}")
    capacity = skin_list.capacity
    while capacity < skin_list.graph.num_edges:
        capacity = max(capacity + 1, math.ceil(capacity * growth))
    return skin_list._replace(capacity=capacity, overflow=_overflow(skin_list.graph, capacity))


def padded(skin_list: SkinList) -> Padded:
    """Return the graph with exactly ``capacity`` edges, for consumers with static shapes.

    The vectors of padding edges are zero; give them a length beyond the cutoff before a model sees them,
    as in ``torch.where(mask[:, None], edge_vectors(positions, graph, cell), far)``, so that they
    contribute nothing.

    Raises
    ------
    ValueError
        If there is no atom to pad with and the capacity is not zero.
    """
    graph, capacity = skin_list.graph, skin_list.capacity
    real = min(graph.num_edges, capacity)
    if graph.num_atoms == 0 and capacity > 0:
        raise ValueError(f"skin_list must hold an atom to pad {capacity} edges with, got none")
    edge_index = graph.edge_index.new_full((2, capacity), graph.num_atoms - 1)
    edge_index[:, :real] = graph.edge_index[:, :real]
    shifts = graph.shifts.new_zeros((capacity, 3))
    shifts[:real] = graph.shifts[:real]
    mask = torch.arange(capacity, device=shifts.device) < real
    return Padded(Graph(edge_index, shifts, graph.offsets.clamp(max=capacity)), mask)


def _overflow(graph: Graph, capacity: int) -> Tensor:
    """Return whether the edges exceed the capacity, as a tensor on their device."""
    return torch.tensor(graph.num_edges > capacity, device=graph.offsets.device)


def _covers(skin_list: SkinList, positions: Tensor, cell: Tensor | None) -> bool:
    """Return whether the list holds every edge within the cutoff for these positions and this cell.

    NaN positions compare false: the search that follows names them. Cells, 3 × 3 each, are compared on the CPU.
    """
    reference = skin_list.positions
    if reference.shape[0] == 0:
        return True
    x, x_ref = positions.to(torch.float64), reference.to(torch.float64)
    if cell is skin_list.cell or equal(cell, skin_list.cell):
        moved = (x - x_ref).square().sum(1).max()
        return bool(moved <= (0.5 * skin_list.skin) ** 2)
    old, new = (_host_cells(c, skin_list.pbc) for c in (skin_list.cell, cell))
    if old.shape != new.shape:
        raise ValueError(f"cell must have one per structure ({old.shape[0]}), got {new.shape[0]}")
    strain = torch.linalg.solve(old, new)
    followed = strain.to(x.device)
    if strain.shape[0] == 1 or skin_list.batch is None:
        farthest = (x - x_ref @ followed[0]).norm(dim=1).max()[None]
    else:
        index = skin_list.batch.to(torch.int64)
        moved = (x - (x_ref[:, :, None] * followed[index]).sum(1)).norm(dim=1)
        farthest = moved.new_zeros(strain.shape[0]).scatter_reduce(0, index, moved, "amax")
    cutoff = torch.as_tensor(skin_list.cutoff, dtype=torch.float64, device="cpu")
    ends = torch.stack([cutoff.min(), cutoff.max()])  # enough: the condition is linear in the cutoff
    least = torch.linalg.svdvals(strain)[:, -1:] * (ends + skin_list.skin) - 2 * farthest.cpu()[:, None]
    return bool((least >= ends).all())


def _host_cells(cell: Tensor | None, pbc: bool | Sequence[bool] | Tensor) -> Tensor:
    """Return the checked, completed cells (B, 3, 3), B = 1 for a shared cell and shared axes, on the CPU."""
    on_cpu = None if cell is None else torch.as_tensor(cell).cpu()
    axes = torch.as_tensor(pbc, dtype=torch.bool).cpu()
    count = 1 if on_cpu is None or on_cpu.ndim == 2 else on_cpu.shape[0]
    if axes.ndim == 2:
        count = axes.shape[0]
    return check_cells(on_cpu, axes, torch.tensor([count - 1]))[0]


def equal(a: Tensor | None, b: Tensor | None) -> bool:
    """Return whether both are absent, or equal in shape, device and values."""
    if a is None or b is None:
        return a is b
    return a.shape == b.shape and a.device == b.device and bool((a == b).all())
