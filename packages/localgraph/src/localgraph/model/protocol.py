"""The contract of a potential, and its energies and edge forces by one derivative."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor


@runtime_checkable
class EdgeModel(Protocol):
    """A strictly local potential: a function of edges.

    A :class:`torch.nn.Module` that satisfies this protocol and is registered, by :func:`localgraph.register` or
    under the entry-point group ``mlip.models``, can be trained by mlip-train and exported by mlip-export.

    Attributes
    ----------
    model_name : str
        The name under which the class is registered.
    type_names : tuple of str
        Name of each type, as a rule its element symbol; ``types`` index into it.
    cutoff : float
        Largest cutoff, Å.
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered pair ``[type of center, type of neighbor]``, Å, each ≤ ``cutoff``.
    """

    model_name: str
    type_names: tuple[str, ...]
    cutoff: float

    @property
    def cutoffs(self) -> Tensor:
        """Return the cutoff of each ordered type pair, (T, T) float64, Å."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a model from plain data; an unknown key raises ``ValueError`` naming it.

        The keys ``type_names``, ``cutoff``, ``avg_num_neighbors``, ``energy_shifts`` (eV per type) and
        ``energy_scales`` are understood by every registered model: a trainer fills those from data.
        """
        ...

    @classmethod
    def cutoffs_of(cls, config: Mapping[str, Any]) -> Tensor:
        """Return the :attr:`cutoffs` of the model that ``from_config`` would build, without building it."""
        ...

    def to_config(self) -> dict[str, Any]:
        """Return the plain data (JSON types) from which ``from_config`` rebuilds this model."""
        ...

    def for_inference(self) -> torch.nn.Module:
        """Return an equal module for evaluation only, with constants folded where exact; may be ``self``."""
        ...

    def shift_energies(self, delta: Tensor) -> None:
        """Add ``delta`` (T,) eV, one number per type, to the energy shifts (E0), in the configuration too."""
        ...

    def __call__(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Compute atom energies, (N,) float64, eV.

        ``edge_vectors`` (E, 3) float64 Å; ``edge_index`` (2, E) int64 ``[center; neighbor]`` sorted by
        center; ``types`` (N,) int64.
        """
        ...


def energies_and_edge_forces(
    model: EdgeModel | Callable[[Tensor, Tensor, Tensor], Tensor],
    edge_vectors: Tensor,
    edge_index: Tensor,
    types: Tensor,
    create_graph: bool = False,
) -> tuple[Tensor, Tensor]:
    """Compute atom energies and edge forces g_e = ∂(Σ E_i)/∂r_e by one autograd call.

    Parameters
    ----------
    model : EdgeModel or callable
        Called as ``model(edge_vectors, edge_index, types)``.
    edge_vectors : Tensor, (E, 3) float64
        Å; may already be part of a graph, and is not modified.
    edge_index : Tensor, (2, E) int64
        Rows ``[center; neighbor]``, sorted by center.
    types : Tensor, (N,) int64
    create_graph : bool
        Keep the graph, so that a loss on forces can be differentiated.

    Returns
    -------
    energies : Tensor, (N,) float64
        eV; detached unless ``create_graph``.
    edge_forces : Tensor, (E, 3) float64
        eV/Å; zero where the energy does not depend on an edge.
    """
    r = edge_vectors if edge_vectors.requires_grad else edge_vectors.detach().requires_grad_(True)
    with torch.enable_grad():
        energies = model(r, edge_index, types)
        (g,) = torch.autograd.grad(
            energies.sum(), r, create_graph=create_graph, allow_unused=True, materialize_grads=True
        )
    return (energies, g) if create_graph else (energies.detach(), g)
