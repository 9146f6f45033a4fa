"""Edge vectors of positions, and the adjoint map: forces, virials and stress of edge forces."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from localgraph._graph import Graph
from localgraph._segments import gather, segment_sum


def edge_vectors(
    positions: Tensor, graph: Graph, cell: Tensor | None = None, batch: Tensor | None = None
) -> Tensor:
    """Return the edge vectors r_e = x_neighbor + shift·cell − x_center.

    Parameters
    ----------
    positions : Tensor, (N, 3)
        Å, as given to :func:`localgraph.neighbors`, or moved since where the list has a skin.
    graph : Graph
        Edges of these atoms.
    cell : Tensor, (3, 3) or (B, 3, 3), optional
        Rows are lattice vectors, Å. Not needed where every shift is zero (no periodic axis).
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
        raise ValueError(f"cell must have shape (3, 3) or (B, 3, 3), got {tuple(cell.shape)}")
    if batch is None:
        raise ValueError(
            "batch must be given with a cell of shape (B, 3, 3), the structure of each atom; got None"
        )
    cells = gather(cell, gather(batch, center))
    return vectors + (shifts[:, :, None] * cells).sum(1)


def forces(edge_forces: Tensor, edge_index: Tensor, num_atoms: int) -> Tensor:
    """Sum edge forces to forces, F_i = Σ_{e: c(e)=i} g_e − Σ_{e: n(e)=i} g_e.

    This is minus the transpose of :func:`edge_vectors`.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    edge_index : Tensor, (2, E) int64
        Rows ``[center; neighbor]``.
    num_atoms : int
        Number of atoms N.

    Returns
    -------
    Tensor, (N, 3)
        F = −∂E/∂x, eV/Å; zero for an atom without edges. Differentiable to every order.
    """
    return segment_sum(edge_forces, edge_index[0], num_atoms) - segment_sum(
        edge_forces, edge_index[1], num_atoms
    )


def virial(
    edge_forces: Tensor,
    edge_vectors: Tensor,
    edge_index: Tensor | None = None,
    batch: Tensor | None = None,
    num_structures: int | None = None,
) -> Tensor:
    """Return the virial W = Σ_e r_e ⊗ g_e = ∂E/∂ε of one structure, or of each structure of a batch.

    Here ε is the strain of x → x(1 + ε), cell → cell(1 + ε). Other programs use the opposite sign: what
    extended XYZ files call ``virial`` is −W.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    edge_vectors : Tensor, (E, 3)
        r_e, Å.
    edge_index, batch, num_structures : Tensor (2, E) int64, Tensor (N,) int64 and int, optional
        All three, for a batch of B structures: the edges, the structure of each atom, and B.

    Returns
    -------
    Tensor, (3, 3) or (B, 3, 3)
        eV; zero without edges. Symmetric where the energy is invariant under rotation.

    Raises
    ------
    ValueError
        If some but not all of ``edge_index``, ``batch`` and ``num_structures`` are given.
    """
    if edge_index is None and batch is None and num_structures is None:
        return edge_vectors.transpose(0, 1) @ edge_forces
    if edge_index is None or batch is None or num_structures is None:
        given = {"edge_index": edge_index, "batch": batch, "num_structures": num_structures}
        raise ValueError(
            "edge_index, batch and num_structures must be given together (the virials of a batch), got only "
            f"{[name for name, value in given.items() if value is not None]}"
        )
    outer = edge_vectors[:, :, None] * edge_forces[:, None, :]
    return segment_sum(outer, gather(batch, edge_index[0]), num_structures)


Share = Literal["center", "neighbor", "half"]


def atomic_virial(
    edge_forces: Tensor,
    edge_vectors: Tensor,
    edge_index: Tensor,
    num_atoms: int,
    share: Share = "center",
) -> Tensor:
    """Return per-atom virials: each edge's r_e ⊗ g_e, given to one of its atoms or halved between both.

    Their sum over atoms is :func:`virial` for every choice of ``share``.

    Parameters
    ----------
    edge_forces : Tensor, (E, 3)
        g_e = ∂E/∂r_e, eV/Å.
    edge_vectors : Tensor, (E, 3)
        r_e, Å.
    edge_index : Tensor, (2, E) int64
        Rows ``[center; neighbor]``.
    num_atoms : int
        Number of atoms N.
    share : {"center", "neighbor", "half"}
        ``"center"``: to the atom whose energy the edge contributes to. ``"neighbor"``: the form that the
        potential part of the heat flux needs, −Σ_n W_n v_n with v_n the velocity of the neighbor (Fan et al.,
        Phys. Rev. B 92, 094301, 2015). ``"half"``: half to each atom, as LAMMPS's ``stress/atom``.

    Returns
    -------
    Tensor, (N, 3, 3)
        eV; not symmetric in general.

    Raises
    ------
    ValueError
        For another ``share``.
    """
    outer = edge_vectors[:, :, None] * edge_forces[:, None, :]
    if share == "center":
        return segment_sum(outer, edge_index[0], num_atoms)
    if share == "neighbor":
        return segment_sum(outer, edge_index[1], num_atoms)
    if share == "half":
        outer = 0.5 * outer
        return segment_sum(outer, edge_index[0], num_atoms) + segment_sum(outer, edge_index[1], num_atoms)
    raise ValueError(f'share must be "center", "neighbor" or "half", got {share!r}')


def volume(cell: Tensor) -> Tensor:
    """Return the volumes of cells (..., 3, 3), Å³, without sign; 0 where lattice vectors are dependent."""
    normal: Tensor = torch.linalg.cross(cell[..., 0, :], cell[..., 1, :])
    return (normal * cell[..., 2, :]).sum(-1).abs()


def stress(virial: Tensor, volume: Tensor) -> Tensor:
    """Return the Cauchy stress σ = sym(W)/V, positive in tension (ASE's sign).

    Parameters
    ----------
    virial : Tensor, (3, 3) or (B, 3, 3)
        W, eV.
    volume : Tensor, () or (B,)
        V, Å³; of a cell, :func:`localgraph.volume`.

    Returns
    -------
    Tensor, (3, 3) or (B, 3, 3)
        eV/Å³; infinite or NaN where the volume is zero.

    Raises
    ------
    ValueError
        If ``volume`` is not one number per virial.
    """
    if volume.shape != virial.shape[:-2]:
        raise ValueError(
            f"volume must have shape {tuple(virial.shape[:-2])}, one number per virial, got {tuple(volume.shape)}"
        )
    return 0.5 * (virial + virial.transpose(-1, -2)) / volume[..., None, None].to(virial.dtype)
