"""The linear map from positions to edge vectors, and its adjoint from edge forces to forces and virials."""

from __future__ import annotations

import torch
from torch import Tensor

from localgraph.graph import Graph
from localgraph.segments import gather, segment_sum


def edge_vectors(
    positions: Tensor, graph: Graph, cell: Tensor | None = None, batch: Tensor | None = None
) -> Tensor:
    """Edge vectors r_e = x_neighbor + shift·cell − x_center.

    Parameters
    ----------
    positions : Tensor, (N, 3)
        Positions, Å, as they were given to :func:`localgraph.neighbors` (or moved since, with a skin).
    graph : Graph
        Edges of these atoms.
    cell : Tensor, (3, 3) or (B, 3, 3), optional
        Rows are lattice vectors, Å. May be left out only where every shift is zero: no axis is periodic.
    batch : Tensor, (N,) int64, optional
        Structure of each atom; needed where ``cell`` is (B, 3, 3).

    Returns
    -------
    Tensor, (E, 3)
        In the dtype of ``positions``, Å. Differentiable in positions and cell to every order.

    Raises
    ------
    ValueError
        If ``cell`` is of another shape, or is (B, 3, 3) while ``batch`` is missing.
    """
    center, neighbor = graph.edge_index[0], graph.edge_index[1]
    vectors = gather(positions, neighbor) - gather(positions, center)
    if cell is None:
        return vectors
    shifts = graph.shifts.to(positions.dtype)
    cell = cell.to(positions.dtype)
    if cell.ndim == 2:
        return vectors + shifts @ cell
    if cell.ndim != 3:
        raise ValueError(f"cell: required shape (3, 3) or (B, 3, 3), got {tuple(cell.shape)}")
    if batch is None:
        raise ValueError(
            "batch: required with a cell of shape (B, 3, 3), the structure of each atom; got None"
        )
    cells = gather(cell, gather(batch, center))
    return vectors + (shifts[:, :, None] * cells).sum(1)


def forces(edge_forces: Tensor, graph: Graph, num_atoms: int | None = None) -> Tensor:
    """Forces F_i = Σ_{e: c(e)=i} g_e − Σ_{e: n(e)=i} g_e, minus the transpose of :func:`edge_vectors`.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    graph : Graph
        The edges.
    num_atoms : int, optional
        Number of atoms N; by default the graph's.

    Returns
    -------
    Tensor, (N, 3)
        F = −∂E/∂x, eV/Å; zero for an atom without edges. Differentiable to every order.
    """
    n = graph.offsets.shape[0] - 1 if num_atoms is None else num_atoms
    return segment_sum(edge_forces, graph.edge_index[0], n) - segment_sum(edge_forces, graph.edge_index[1], n)


def virial(
    edge_forces: Tensor,
    edge_vectors: Tensor,
    graph: Graph | None = None,
    batch: Tensor | None = None,
    num_structures: int | None = None,
) -> Tensor:
    """Virial W = Σ_e r_e ⊗ g_e = ∂E/∂ε, of one structure or of each structure of a batch.

    Here ε is the strain of x → x(1 + ε), cell → cell(1 + ε). The opposite sign is met elsewhere: what
    extended XYZ files call ``virial`` is −W.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    edge_vectors : Tensor, (E, 3)
        r_e, Å.
    graph, batch, num_structures : Graph, Tensor (N,) int64 and int, optional
        All three, for a batch of B structures: the edges, the structure of each atom, and B.

    Returns
    -------
    Tensor, (3, 3) or (B, 3, 3)
        eV; zero without edges. Symmetric where the energy is invariant under rotation.

    Raises
    ------
    ValueError
        If some but not all of ``graph``, ``batch`` and ``num_structures`` are given.
    """
    if batch is None and num_structures is None:
        return edge_vectors.transpose(0, 1) @ edge_forces
    if graph is None or batch is None or num_structures is None:
        given = {"graph": graph, "batch": batch, "num_structures": num_structures}
        raise ValueError(
            "graph, batch, num_structures: required all three for the virials of a batch, got "
            f"{[name for name, value in given.items() if value is not None]}"
        )
    outer = edge_vectors[:, :, None] * edge_forces[:, None, :]
    return segment_sum(outer, gather(batch, graph.edge_index[0]), num_structures)


def atomic_virial(
    edge_forces: Tensor, edge_vectors: Tensor, graph: Graph, num_atoms: int | None = None
) -> Tensor:
    """Virial of each atom W_i = Σ_{e: c(e)=i} r_e ⊗ g_e, whose sum over atoms is :func:`virial`.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    edge_vectors : Tensor, (E, 3)
        r_e, Å.
    graph : Graph
        The edges.
    num_atoms : int, optional
        Number of atoms N; by default the graph's.

    Returns
    -------
    Tensor, (N, 3, 3)
        eV; not symmetric in general. The potential part of the heat flux, −Σ_e r_e (g_e · v_n), needs the
        same terms summed by the neighbor n, whose velocity they meet (Fan et al., Phys. Rev. B 92,
        094301, 2015): ``segment_sum(r[:, :, None] * g[:, None, :], graph.edge_index[1], N)``.
    """
    n = graph.offsets.shape[0] - 1 if num_atoms is None else num_atoms
    return segment_sum(edge_vectors[:, :, None] * edge_forces[:, None, :], graph.edge_index[0], n)


def stress(virial: Tensor, cell: Tensor) -> Tensor:
    """Cauchy stress σ = sym(W)/V, positive in tension (ASE's sign).

    Parameters
    ----------
    virial : Tensor, (3, 3) or (B, 3, 3)
        W, eV.
    cell : Tensor, (3, 3) or (B, 3, 3)
        Rows are lattice vectors, Å.

    Returns
    -------
    Tensor, (3, 3) or (B, 3, 3)
        eV/Å³; infinite or NaN where the cell has no volume.
    """
    volume = torch.linalg.cross(cell[..., 0, :], cell[..., 1, :]).mul(cell[..., 2, :]).sum(-1).abs()
    return 0.5 * (virial + virial.transpose(-1, -2)) / volume[..., None, None].to(virial.dtype)
