"""A torch-sim model that runs a package on batches of structures."""

from __future__ import annotations

import os
from typing import Any

import torch
from ase.data import atomic_numbers as number_of
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from localgraph import allocate, edge_vectors, forces, stress, update, virial
from localgraph.skin import SkinList
from localgraph.torchsim import from_state
from mlip_export.chunks import evaluate
from mlip_export.runtime import load
from mlip_export.settings import checked_skin, edges_per_call


class Model(ModelInterface):
    """Energies, forces and stresses of every structure of a state, in one call.

    Parameters
    ----------
    path : path
        A package.
    dtype : torch.dtype
        Of the state and of the results, float64 or float32; geometry is float64 inside either way.
    skin : float
        Å added to the cutoff when neighbors are searched; the list is reused while it serves.
    max_edges : int, optional
        Edges evaluated per call, which bounds the model's activations; a default by device.
    device : str or torch.device, optional
        For CUDA packages, which GPU.

    Raises
    ------
    FileNotFoundError, mlip_export.PackageError
        As :func:`mlip_export.load`.
    ValueError
        For a negative ``skin`` or ``max_edges`` below 1; when called, for elements the model does not know.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
        max_edges: int | None = None,
        device: str | torch.device | None = None,
    ):
        super().__init__()
        self.potential = load(path, device)
        self._device = self.potential.device
        self._dtype = dtype
        self._compute_forces = self._compute_stress = True
        self.skin = checked_skin(skin)
        self.max_edges = edges_per_call(max_edges, self._device)
        table = torch.full((len(number_of) + 1,), -1, dtype=torch.int64)
        for k, name in enumerate(self.potential.type_names):
            table[number_of[name]] = k
        self._type_of_number = table.to(self._device)
        self._list: SkinList | None = None

    def forward(self, state: SimState | Any, **kwargs: Any) -> dict[str, Tensor]:
        """Evaluate a state of B structures and N atoms.

        Returns
        -------
        dict
            ``energy`` (B,) eV, ``forces`` (N, 3) eV/Å, ``stress`` (B, 3, 3) eV/Å³ (zero without a cell volume),
            ``energies`` (N,) eV; detached, in the model's dtype.
        """
        positions, cell, pbc, batch = from_state(state)
        x, cell = positions.detach().double(), cell.detach().double()
        types = self._types(state.atomic_numbers)
        graph = self._searched(x, cell, pbc, batch, types).graph
        r = edge_vectors(x, graph, cell, batch)
        index = graph.edge_index
        cutoffs = self.potential.cutoffs.to(r.device)
        bound = cutoffs.flatten()[types[index[0]] * cutoffs.shape[0] + types[index[1]]]
        near = r.square().sum(1) < bound.square()
        r, index = r[near], index[:, near].contiguous()
        energies, g = evaluate(self.potential, r, index, types, cutoffs.shape[0], self.max_edges)
        kept = graph._replace(edge_index=index)
        structures = cell.shape[0]
        energy = torch.zeros(structures, dtype=energies.dtype, device=r.device).index_add(0, batch, energies)
        sigma = stress(virial(g, r, kept, batch, structures), cell)
        sigma = torch.where(torch.linalg.det(cell).abs()[:, None, None] > 1e-9, sigma, 0.0)
        results = {"energy": energy, "forces": forces(g, kept), "stress": sigma, "energies": energies}
        return {name: value.to(self._dtype) for name, value in results.items()}

    def _types(self, numbers: Tensor) -> Tensor:
        types = self._type_of_number[numbers.long()]
        if bool((types < 0).any()):
            unknown = sorted(set(numbers[types < 0].tolist()))
            raise ValueError(
                f"atomic_numbers: required elements among {list(self.potential.type_names)}, got atomic numbers "
                f"{unknown} besides"
            )
        return types

    def _searched(self, x: Tensor, cell: Tensor, pbc: Tensor, batch: Tensor, types: Tensor) -> SkinList:
        """The list for these structures: the last one if they are the same atoms and it serves."""
        last = self._list
        same = (
            last is not None
            and _equal(last.batch, batch)
            and _equal(last.types, types)
            and _equal(torch.as_tensor(last.pbc), pbc)
        )
        if last is not None and same:
            self._list = update(last, x, cell)
        else:
            cutoffs = self.potential.cutoffs.to(x.device)
            batch, types = batch.clone(), types.clone()
            self._list = allocate(x, cutoffs, cell, pbc, skin=self.skin, batch=batch, types=types)
        return self._list


def _equal(a: Tensor | None, b: Tensor) -> bool:
    return a is not None and a.shape == b.shape and torch.equal(a, b)
