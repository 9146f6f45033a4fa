"""The contract a potential meets: what an EdgeModel is, where registered ones are found, its model file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib.metadata import entry_points
from typing import Any, Protocol, Self, runtime_checkable

import torch
from safetensors.torch import save
from torch import Tensor

from localgraph.files import read_safetensors, replacing

ENTRY_POINT_GROUP = "mlip.models"
FORMAT = "mlip-model"
FORMAT_VERSION = "1"


@runtime_checkable
class EdgeModel(Protocol):
    """A strictly local potential: a function of edges.

    A class that satisfies this protocol, is a :class:`torch.nn.Module`, and is registered under the
    entry-point group ``mlip.models`` can be trained by mlip-train and exported by mlip-export.

    Attributes
    ----------
    model_name : str
        The name under which the class is registered.
    type_names : tuple of str
        Element symbol of each type; ``types`` index into it.
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
        """Cutoff of each ordered type pair, (T, T) float64, Å."""
        ...

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build a model from plain data; an unknown key raises ``ValueError`` naming it.

        The keys ``type_names``, ``cutoff``, ``avg_num_neighbors``, ``energy_shifts`` (eV per type) and
        ``energy_scales`` are understood by every registered model: a trainer fills those from data.
        """
        ...

    def to_config(self) -> dict[str, Any]:
        """The plain data (JSON types) from which ``from_config`` builds this model again."""
        ...

    def for_inference(self) -> torch.nn.Module:
        """An equal module for evaluation only, with constants folded where that is exact; may be itself."""
        ...

    def __call__(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Atom energies, (N,) float64, eV.

        ``edge_vectors`` (E, 3) float64 Å; ``edge_index`` (2, E) int64 ``[center; neighbor]`` sorted by
        center; ``types`` (N,) int64.
        """
        ...


def energies_and_edge_forces(
    model: EdgeModel, edge_vectors: Tensor, edge_index: Tensor, types: Tensor, create_graph: bool = False
) -> tuple[Tensor, Tensor]:
    """Atom energies (N,) eV and edge forces g_e = ∂(Σ E_i)/∂r_e (E, 3) eV/Å, by one autograd call.

    With ``create_graph=True`` the edge forces can be differentiated again (training on forces). The
    input ``edge_vectors`` may already be part of a graph; it is not modified.
    """
    r = edge_vectors if edge_vectors.requires_grad else edge_vectors.detach().requires_grad_(True)
    with torch.enable_grad():
        energies = model(r, edge_index, types)
        (g,) = torch.autograd.grad(energies.sum(), r, create_graph=create_graph)
    return (energies, g) if create_graph else (energies.detach(), g)


def model_class(name: str) -> Any:
    """The model class registered as ``name``; ``ValueError`` naming the registered ones otherwise."""
    found = {e.name: e for e in entry_points(group=ENTRY_POINT_GROUP)}
    if name not in found:
        raise ValueError(
            f"model name: required one of the registered models {sorted(found)} (installed packages "
            f"announce them under the entry-point group {ENTRY_POINT_GROUP!r}), got {name!r}"
        )
    return found[name].load()


def save_model(path: str | os.PathLike[str], model: Any, metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model file: safetensors of the state, with name, config and ``metadata`` as JSON.

    Written under a temporary name in the same directory and renamed, so that ``path`` is never half a file.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model.model_name,
        "config": json.dumps(model.to_config()),
        "metadata": json.dumps(dict(metadata or {})),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in model.state_dict().items()}
    with replacing(path) as file:
        file.write(save(state, header))


def load_model(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Read a model file: the model, with its weights, and the metadata it was saved with.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged or foreign, its model is not registered, or its weights have another dtype
        than its configuration says.
    """
    header, state = read_safetensors(path, {"format": FORMAT, "format_version": FORMAT_VERSION})
    missing = [key for key in ("model", "config", "metadata") if key not in header]
    if missing:
        raise ValueError(
            f"path: required a model file with {missing} in its header, got {str(path)!r} without"
        )
    model = model_class(header["model"]).from_config(json.loads(header["config"]))
    for name, value in model.state_dict().items():
        if name in state and state[name].dtype != value.dtype:
            raise ValueError(
                f"path: required {name} in {value.dtype}, as the configuration in {str(path)!r} says, got "
                f"{state[name].dtype}"
            )
    model.load_state_dict(state)
    return model, json.loads(header["metadata"])
