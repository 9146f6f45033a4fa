"""A torch-sim model that evaluates an exported model on batches of structures."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch_sim.models.interface import ModelInterface
from torch_sim.state import SimState

from localgraph import VerletList, forces, segment_sum, stress, virial, volume
from localgraph.hosts.torchsim import from_state
from mlip_export.chunks import edges_per_call
from mlip_export.committee import evaluate_members, force_spread, load_members, paths_of


class Model(ModelInterface):  # type: ignore[misc]  # torch-sim is not typed
    """Energies, forces and stresses of every structure of a state, in one call.

    Parameters
    ----------
    path : path or sequence of paths
        An exported model, or the members of a committee: results are then their mean.
    dtype : torch.dtype
        Of the state and of the results, float64 or float32; geometry is float64 inside either way.
    skin : float
        Å added to the cutoff when neighbors are searched; the list is reused while it covers the cutoffs.
    max_edges : int, optional
        Edges evaluated per call, which bounds the model's activations; by default the model's.
    device : str or torch.device, optional
        For CUDA models, which GPU.
    cuda_graph : bool
        For CUDA models, replay calls as one CUDA graph (:func:`mlip_export.load`); for small systems.
    compute_forces, compute_stress : bool
        Return these; attributes of the same names change it later.
    energy_dtype : torch.dtype, optional
        Of energies, by default ``dtype``; float64 keeps the digits that float32 loses beside large energy shifts.
    open_cells : bool
        Take a state with a cell but ``pbc`` False as open along all axes. torch-sim before 0.6 (Python 3.11) reduces
        the three periodic axes of a structure to one bool, so a slab looks like a molecule in a box; without this
        option such a state is refused.

    Raises
    ------
    FileNotFoundError, mlip_export.ExportedModelError
        As :func:`mlip_export.load`.
    ValueError
        For a negative ``skin``, ``max_edges`` below 1, or ``cuda_graph`` and a model for a CPU; when called, for
        elements the model does not know, or a state whose periodic axes are not known.

    Notes
    -----
    Pickled or copied, a model is its path and options. Threads that share one take turns.
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
        *,
        dtype: torch.dtype = torch.float64,
        skin: float = 0.5,
        max_edges: int | None = None,
        device: str | torch.device | None = None,
        cuda_graph: bool = False,
        compute_forces: bool = True,
        compute_stress: bool = True,
        energy_dtype: torch.dtype | None = None,
        open_cells: bool = False,
    ):
        super().__init__()
        self.members = load_members(path, device, cuda_graph)
        self.potential = self.members.first
        self._paths = [os.path.abspath(p) for p in paths_of(path)]
        self._given_device, self._cuda_graph, self._lock = device, cuda_graph, threading.Lock()
        self._device = self.potential.device
        self._dtype = dtype
        self._compute_forces, self._compute_stress = compute_forces, compute_stress
        self._energy_dtype = dtype if energy_dtype is None else energy_dtype
        self._open_cells = open_cells
        self.max_edges = edges_per_call(max_edges, self.potential.metadata)
        self.edges = VerletList(self.potential.cutoffs.to(self._device), skin)

    def __reduce__(self) -> tuple[Callable[[], Model], tuple[()]]:
        again = partial(
            type(self),
            self._paths,
            dtype=self._dtype,
            skin=self.edges.skin,
            max_edges=self.max_edges,
            device=self._given_device,
            cuda_graph=self._cuda_graph,
            compute_forces=self._compute_forces,
            compute_stress=self._compute_stress,
            energy_dtype=self._energy_dtype,
            open_cells=self._open_cells,
        )
        return again, ()

    @property
    def compute_forces(self) -> bool:
        """Whether forces are returned."""
        return self._compute_forces

    @compute_forces.setter
    def compute_forces(self, value: bool) -> None:
        self._compute_forces = value

    @property
    def compute_stress(self) -> bool:
        """Whether stresses are returned."""
        return self._compute_stress

    @compute_stress.setter
    def compute_stress(self, value: bool) -> None:
        self._compute_stress = value

    def forward(self, state: SimState | Any, **kwargs: Any) -> dict[str, Tensor]:
        """Evaluate a state of B structures and N atoms.

        Returns
        -------
        dict
            ``energy`` (B,) eV, ``forces`` (N, 3) eV/Å, ``stress`` (B, 3, 3) eV/Å³ (zero without a cell volume),
            ``energies`` (N,) eV; detached. Of a committee also the root mean square deviations of its members:
            ``energy_spread`` (B,), ``energies_spread`` (N,), and ``forces_spread`` (N,) of each force vector.
        """
        with self._lock:
            return self._evaluate(state)

    def _evaluate(self, state: SimState | Any) -> dict[str, Tensor]:
        positions, cell, pbc, batch = from_state(state)
        if state.pbc is False and not self._open_cells and bool((cell != 0).any()):
            raise ValueError(
                "pbc must name the periodic axes of structures with a cell, got False, by which this torch-sim means "
                "open or partly periodic; upgrade torch-sim to 0.6, or give Model open_cells=True for open structures"
            )
        x, cell = positions.detach().double(), cell.detach().double()
        types = self.potential.types_of(state.atomic_numbers)
        r, index = self.edges.update(x, cell, pbc, types, batch)
        member_energies, member_g = evaluate_members(self.members, r, index, types, self.max_edges)
        energies, g = member_energies.mean(0), member_g.mean(0)
        structures = cell.shape[0]
        energy = segment_sum(energies, batch, structures)
        results = {"energy": energy.to(self._energy_dtype), "energies": energies.to(self._energy_dtype)}
        if self._compute_forces:
            results["forces"] = forces(g, index, x.shape[0]).to(self._dtype)
        if self._compute_stress:
            volumes = volume(cell)
            sigma = stress(virial(g, r, index, batch, structures), volumes)
            sigma = torch.where(volumes[:, None, None] > 1e-9, sigma, 0.0)
            results["stress"] = sigma.to(self._dtype)
        if len(self.members) > 1:
            totals = torch.stack([segment_sum(each, batch, structures) for each in member_energies])
            per_member = torch.stack([forces(each, index, x.shape[0]) for each in member_g])
            results["energy_spread"] = totals.std(0, correction=0).to(self._energy_dtype)
            results["energies_spread"] = member_energies.std(0, correction=0).to(self._energy_dtype)
            results["forces_spread"] = force_spread(per_member).to(self._dtype)
        return results
