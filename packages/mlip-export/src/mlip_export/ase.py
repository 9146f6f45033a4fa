"""An ASE calculator of an exported model or a committee of them."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from ase import Atoms
from ase.calculators.calculator import Calculator as ASECalculator
from ase.calculators.calculator import Parameters, PropertyNotImplementedError, all_changes
from torch import Tensor

from localgraph import VerletList, atomic_virial, forces
from mlip_export.chunks import edges_per_call
from mlip_export.committee import Spread, evaluate_members, load_members, paths_of, spread_of

BLOCK = 2**20
"""Edges whose virials are held at once."""

TYPE_NAMES = "type_names"
"""Array of atoms that names types, where element symbols do not."""

Path = str | os.PathLike[str]


class Calculator(ASECalculator):
    """Energy, forces and stress, and their per-atom parts, by an exported model.

    Touches no seed, default dtype or thread count. The neighbor list is reused while atoms have moved by less than the
    skin allows, so one calculator per system is fastest. Threads that share a calculator take turns, and each gets the
    values of its own atoms. Pickled, a calculator is its paths and options: the model is loaded where it arrives.

    Where the model has several types of an element, ``atoms.arrays["type_names"]`` names the type of each atom.

    Parameters
    ----------
    path : path or sequence of paths
        An exported model, or the members of a committee: results are then their mean.
    skin : float
        Å added to the cutoff when neighbors are searched.
    max_edges : int, optional
        Edges evaluated per call, at least 1; by default the model's. It bounds the model's activations, not the few
        values held per edge: the list with its skin, vectors and edge forces.
    device : str or torch.device, optional
        For CUDA models, which GPU.
    cuda_graph : bool
        For CUDA models, replay calls as one CUDA graph (:func:`mlip_export.load`); for small systems.
    compute_stress : bool
        Compute ``stress`` and ``stresses`` in every evaluation of atoms with a cell.

    Attributes
    ----------
    parameters : dict
        Provenance that ASE stores in trajectories and databases: the model's name, files, and checksums of weights.
    spread : Spread or None
        How far a committee's members were apart in the last evaluation; None before one, and for a single model.

    Raises
    ------
    FileNotFoundError, mlip_export.ExportedModelError
        As :func:`mlip_export.load`.
    ValueError
        For a negative ``skin``, ``max_edges`` below 1, members of different elements, cutoffs or devices, or
        ``cuda_graph`` and a model for a CPU.

    Notes
    -----
    A calculator holds the results of one structure, as all of ASE's do: before writing several structures that share
    one, give each its own results by ``atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)`` after its
    evaluation. Otherwise the file gets the last results for all of them.

    ``stresses`` (N, 6) share each edge's virial equally between its two atoms, as LAMMPS's ``stress/atom``
    does, and are divided by the volume of the cell, so that they sum to ``stress``. Units and signs are
    ASE's: eV/Å³, positive in tension, Voigt order xx, yy, zz, yz, xz, xy.
    """

    implemented_properties: ClassVar[list[str]] = [  # type: ignore[misc]
        "energy",
        "free_energy",
        "energies",
        "forces",
        "stress",
        "stresses",
    ]
    nolabel = True

    def __init__(
        self,
        path: Path | Sequence[Path],
        *,
        skin: float = 0.5,
        max_edges: int | None = None,
        device: str | torch.device | None = None,
        cuda_graph: bool = False,
        compute_stress: bool = True,
    ):
        super().__init__()  # type: ignore[no-untyped-call]
        self.members = load_members(path, device, cuda_graph)
        self.potential = self.members.first
        self.max_edges = edges_per_call(max_edges, self.potential.metadata)
        self.edges = VerletList(self.potential.cutoffs.to(self.potential.device), skin)
        self.edge_count = 0
        self._lock = threading.RLock()
        self.spread: Spread | None = None
        self._compute_stress = compute_stress
        files = [os.path.abspath(p) for p in paths_of(path)]
        self._again = partial(
            type(self),
            files,
            skin=skin,
            max_edges=max_edges,
            device=device,
            cuda_graph=cuda_graph,
            compute_stress=compute_stress,
        )
        self.parameters = Parameters(
            model=self.potential.metadata.model,
            files=files,
            checksums=[member.metadata.checksum for member in self.members],
        )

    def _get_name(self) -> str:
        return "mlip-export"

    def __reduce__(self) -> tuple[Callable[[], Calculator], tuple[()]]:
        return self._again, ()

    def set(self, **kwargs: Any) -> dict[str, Any]:
        """Raise ``ValueError`` for any option: they belong to the constructor."""
        if kwargs:
            raise ValueError(
                f"options of set must be none (make a new Calculator with other options), got {sorted(kwargs)}"
            )
        return {}

    def check_state(self, atoms: Atoms, tol: float = 1e-15) -> list[str]:
        """Return what changed since the last evaluation; another array of type names counts as other numbers."""
        changes: list[str] = super().check_state(atoms, tol)  # type: ignore[no-untyped-call]
        last, now = (None if a is None else a.arrays.get(TYPE_NAMES) for a in (self.atoms, atoms))
        same = last is now or (last is not None and now is not None and np.array_equal(last, now))
        return changes if same or "numbers" in changes else [*changes, "numbers"]

    def get_property(self, name: str, atoms: Atoms | None = None, allow_calculation: bool = True) -> Any:
        """Return a property of ``atoms``, evaluated if they changed; threads take turns."""
        with self._lock:
            return super().get_property(name, atoms, allow_calculation)  # type: ignore[no-untyped-call]

    def calculate(
        self,
        atoms: Atoms | None = None,
        properties: Sequence[str] = ("energy",),
        system_changes: Sequence[str] = tuple(all_changes),
    ) -> None:
        """Evaluate the atoms: all properties at once.

        Raises
        ------
        ValueError
            For no atoms, elements the model does not know, or positions that are not finite.
        GeometryError
            For atoms nearer than the model's ``shortest_distance``, or a result that is not finite.
        PropertyNotImplementedError
            For a stress of atoms without a cell, or with ``compute_stress`` off.
        """
        with self._lock:
            self._calculate(atoms, list(properties), list(system_changes))

    def _calculate(self, atoms: Atoms | None, properties: list[str], system_changes: list[str]) -> None:
        self.results = {}  # those of another geometry, should this one fail
        self.spread = None
        super().calculate(atoms, properties, system_changes)  # type: ignore[no-untyped-call]
        if self.atoms is None:
            raise ValueError("atoms must be a structure, got None")
        volume = _volume(self.atoms) if self._compute_stress else None
        if volume is None and {"stress", "stresses"} & set(properties):
            raise PropertyNotImplementedError(
                "stress must be of atoms with a cell, by a calculator that computes it (compute_stress), got others"
            )
        self._collect(*self._evaluate(self.atoms), volume)

    def get_heat_flux(self, atoms: Atoms) -> np.ndarray:
        """Evaluate atoms and return their heat flux times the volume, (3,) in ASE's units of eV·Å/time.

        J = Σ_i (E_i + m_i v_i²/2) v_i − Σ_e r_e (g_e · v_neighbor): for a cluster, the time derivative of
        Σ_i x_i (E_i + m_i v_i²/2). It holds for atom energies that depend on many atoms (Fan et al., Phys. Rev. B 92,
        094301, 2015). The atom energies include the model's energy shifts.
        """
        with self._lock:
            r, index, energies, edge_forces = self._evaluate(atoms)
        place = self.potential.device
        velocities = torch.from_numpy(np.array(atoms.get_velocities())).to(place)
        kinetic = 0.5 * torch.from_numpy(atoms.get_masses()).to(place) * velocities.square().sum(1)
        convection = ((energies.mean(0) + kinetic)[:, None] * velocities).sum(0)
        work = (edge_forces.mean(0) * velocities[index[1]]).sum(1)
        flux: np.ndarray = (convection - (r * work[:, None]).sum(0)).cpu().numpy()
        return flux

    def _evaluate(self, atoms: Atoms) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return edge vectors, edge index, and energies (K, N) and edge forces (K, E, 3) of each member, on its device.

        Lists and vectors are made there too: of a step on a GPU only values of atoms pass the bus.
        """
        positions = torch.from_numpy(np.array(atoms.positions, dtype=np.float64))
        if not bool(torch.isfinite(positions).all()):
            raise ValueError("positions must be finite, got NaN or infinity")
        cell = torch.from_numpy(np.array(atoms.cell.array, dtype=np.float64))
        types = self.potential.types_of(list(atoms.arrays.get(TYPE_NAMES, atoms.get_chemical_symbols())))
        place = self.potential.device
        types = types.to(place)
        r, index = self.edges.update(positions.to(place), cell, atoms.pbc.tolist(), types)
        self.edge_count = r.shape[0]
        energies, edge_forces = evaluate_members(self.members, r, index, types, self.max_edges)
        return r, index, energies, edge_forces

    def _collect(
        self, r: Tensor, index: Tensor, energies: Tensor, edge_forces: Tensor, volume: float | None
    ) -> None:
        atoms = energies.shape[1]
        mean_energies, mean_edge_forces = energies.mean(0), edge_forces.mean(0)
        energy = float(mean_energies.sum())
        self.results = {
            "energy": energy,
            "free_energy": energy,
            "energies": mean_energies.cpu().numpy(),
            "forces": forces(mean_edge_forces, index, atoms).cpu().numpy(),
        }
        if volume is not None:
            atomic = _stresses(r, mean_edge_forces, index, atoms, volume)
            atomic = atomic.cpu()
            self.results["stresses"] = atomic.numpy()
            self.results["stress"] = atomic.sum(0).numpy()
        if len(self.members) > 1:
            per_member = torch.stack([forces(g, index, atoms) for g in edge_forces])
            self.spread = spread_of(energies, per_member)


def _volume(atoms: Atoms) -> float | None:
    """Return the cell's volume, Å³; None without one."""
    return abs(float(np.linalg.det(atoms.cell.array))) if atoms.cell.rank == 3 else None


def _stresses(r: Tensor, g: Tensor, index: Tensor, atoms: int, volume: float) -> Tensor:
    """Return symmetric per-atom virials over the volume, (N, 6) xx, yy, zz, yz, xz, xy, in blocks of edges."""
    total = r.new_zeros(atoms, 3, 3)
    for start in range(0, len(r), BLOCK):
        block = slice(start, start + BLOCK)
        total += atomic_virial(g[block], r[block], index[:, block], atoms, share="half")
    total = 0.5 * (total + total.transpose(1, 2)) / volume
    return total[:, [0, 1, 2, 1, 0, 0], [0, 1, 2, 2, 2, 1]]
