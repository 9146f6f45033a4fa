"""Energies, forces, virial and stress of one structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from localgraph._forces import edge_vectors, forces, stress, virial, volume
from localgraph._neighbors import neighbors
from localgraph.model.protocol import EdgeModel, energies_and_edge_forces


class Evaluation(NamedTuple):
    """Properties of one structure.

    Attributes
    ----------
    energies : Tensor, (N,) float64
        Atom energies, eV; their sum is the energy.
    forces : Tensor, (N, 3) float64
        eV/Å.
    virial : Tensor, (3, 3) float64
        W = Σ_e r_e ⊗ ∂E/∂r_e = ∂E/∂strain, eV.
    stress : Tensor, (3, 3) float64, or None
        sym(W)/V, eV/Å³, positive under tension; None unless all axes are periodic.
    """

    energies: Tensor
    forces: Tensor
    virial: Tensor
    stress: Tensor | None


def evaluate(
    model: EdgeModel,
    positions: Tensor,
    types: Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] = False,
) -> Evaluation:
    """Compute energies, forces, virial and stress of one structure from the edge forces of one backward pass.

    Works under ``torch.no_grad`` and ``torch.inference_mode``.

    Parameters
    ----------
    model : EdgeModel
        A model, or its ``for_inference()``.
    positions : Tensor, (N, 3) float64
        Å.
    types : Tensor, (N,) int64
        See :func:`localgraph.types_of`.
    cell : Tensor, (3, 3) float64, optional
        Rows are lattice vectors, Å; needed where an axis is periodic.
    pbc : bool or three bools
        Periodic axes.

    Raises
    ------
    ValueError, TypeError
        For NaN positions, a singular cell on periodic axes, mismatched lengths, unknown types.

    Examples
    --------
    >>> class Pair(torch.nn.Module):
    ...     cutoff = 3.0
    ...
    ...     def forward(self, edge_vectors, edge_index, types):
    ...         energies = 0.5 * (1 - edge_vectors.norm(dim=1) / 3.0) ** 2
    ...         return torch.zeros(len(types), dtype=torch.float64).index_add(0, edge_index[0], energies)
    >>> pair = torch.tensor([[0.0, 0.0, 0.0], [1.5, 0.0, 0.0]], dtype=torch.float64)
    >>> result = evaluate(Pair(), pair, torch.tensor([0, 0]))
    >>> result.energies.sum(), result.forces[0]
    (tensor(0.2500, dtype=torch.float64), tensor([-0.3333,  0.0000,  0.0000], dtype=torch.float64))
    """
    periodic = [bool(pbc)] * 3 if np.ndim(pbc) == 0 else [bool(axis) for axis in cast(Sequence[bool], pbc)]
    if positions.dtype != torch.float64:
        raise TypeError(f"positions must be torch.float64, got {positions.dtype}")
    if types.shape[0] != positions.shape[0]:
        raise ValueError(
            f"types must have one per row of positions ({positions.shape[0]}), got {types.shape[0]}"
        )
    with torch.inference_mode(False):  # where there is no derivative to take
        positions, types = _ordinary(positions), _ordinary(types)
        cell = None if cell is None else _ordinary(cell)
        graph = neighbors(positions, model.cutoff, cell, periodic)
        r = edge_vectors(positions, graph, cell if any(periodic) else None)
        energies, g = energies_and_edge_forces(model, r, graph.edge_index, types)
        w = virial(g, r)
        sigma = stress(w, volume(cell)) if cell is not None and all(periodic) else None
        return Evaluation(energies, forces(g, graph.edge_index, positions.shape[0]), w, sigma)


def _ordinary(tensor: Tensor) -> Tensor:
    """Return the tensor, or a copy that autograd takes where it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
