"""From positions to energies, forces, virial and stress: the model between localgraph's two maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

import localgraph


class Evaluation(NamedTuple):
    """What a potential says of one structure.

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


def types_of(symbols: Sequence[str], type_names: Sequence[str]) -> Tensor:
    """Types (N,) int64 of element symbols; ``ValueError`` names an element the model does not know.

    Examples
    --------
    >>> types_of(["O", "H", "H"], ["H", "C", "O"])
    tensor([2, 0, 0])
    """
    index = {name: number for number, name in enumerate(type_names)}
    unknown = sorted({symbol for symbol in symbols if symbol not in index})
    if unknown:
        raise ValueError(f"symbols: required elements among {list(type_names)}, got {unknown}")
    return torch.tensor([index[symbol] for symbol in symbols], dtype=torch.int64)


def evaluate(
    model: localgraph.EdgeModel,
    positions: Tensor,
    types: Tensor,
    cell: Tensor | None = None,
    pbc: bool | Sequence[bool] = False,
) -> Evaluation:
    """Energies, forces, virial and stress of one structure, all from the edge forces of one backward pass.

    Also under ``torch.no_grad`` and ``torch.inference_mode``.

    Parameters
    ----------
    model : EdgeModel
        An :class:`~allegro_model.Allegro`, its ``for_inference()``, or any other edge model.
    positions : Tensor, (N, 3) float64
        Å.
    types : Tensor, (N,) int64
        See :func:`types_of`.
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
    >>> from allegro_model import Allegro, AllegroConfig
    >>> model = Allegro(AllegroConfig(type_names=["H", "O"], cutoff=4.0))
    >>> water = torch.tensor([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], dtype=torch.float64)
    >>> result = evaluate(model, water, types_of(["O", "H", "H"], model.type_names))
    >>> result.energies.shape, result.forces.shape, bool(result.forces.sum().abs() < 1e-5)
    (torch.Size([3]), torch.Size([3, 3]), True)
    """
    periodic = [bool(pbc)] * 3 if np.ndim(pbc) == 0 else [bool(axis) for axis in cast(Sequence[bool], pbc)]
    if positions.dtype != torch.float64:
        raise TypeError(f"positions: required dtype torch.float64, got {positions.dtype}")
    if types.shape[0] != positions.shape[0]:
        raise ValueError(
            f"types: required one per row of positions ({positions.shape[0]}), got {types.shape[0]}"
        )
    with torch.inference_mode(False):  # where there is no derivative to take
        positions, types = _ordinary(positions), _ordinary(types)
        cell = None if cell is None else _ordinary(cell)
        graph = localgraph.neighbors(positions, model.cutoff, cell, periodic)
        vectors = localgraph.edge_vectors(positions, graph, cell if any(periodic) else None)
        energies, g = localgraph.energies_and_edge_forces(model, vectors, graph.edge_index, types)
        virial = localgraph.virial(g, vectors)
        stress = localgraph.stress(virial, cell) if cell is not None and all(periodic) else None
        return Evaluation(energies, localgraph.forces(g, graph), virial, stress)


def _ordinary(tensor: Tensor) -> Tensor:
    """The tensor, or a copy that autograd takes where it was made in inference mode."""
    return tensor.clone() if tensor.is_inference() else tensor
