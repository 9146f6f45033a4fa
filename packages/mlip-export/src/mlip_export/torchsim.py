"""A torch-sim model that runs a package on batches of structures."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from localgraph import VerletList, forces, segment_sum, stress, types_of, virial, volume
from localgraph.hosts.torchsim import from_state
from mlip_export.chunks import evaluate
from mlip_export.runtime import load
from mlip_export.settings import edges_per_call


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
        self.max_edges = edges_per_call(max_edges, self._device)
        self.edges = VerletList(self.potential.cutoffs.to(self._device), skin)

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
        types = types_of(state.atomic_numbers, self.potential.type_names)
        r, index = self.edges.update(x, cell, pbc, types, batch)
        energies, g = evaluate(
            self.potential, r, index, types, self.potential.cutoffs.shape[0], self.max_edges
        )
        structures = cell.shape[0]
        energy = segment_sum(energies, batch, structures)
        sigma = stress(virial(g, r, index, batch, structures), volume(cell))
        sigma = torch.where(torch.linalg.det(cell).abs()[:, None, None] > 1e-9, sigma, 0.0)
        results = {
            "energy": energy,
            "forces": forces(g, index, x.shape[0]),
            "stress": sigma,
            "energies": energies,
        }
        return {name: value.to(self._dtype) for name, value in results.items()}
