"""An OpenMM force that evaluates an exported model, or a committee of them, for all or some particles."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
import openmm
import torch
from openmm import app, unit

from localgraph import VerletList, forces
from mlip_export.chunks import edges_per_call
from mlip_export.committee import Spread, evaluate_members, load_members, paths_of, spread_of

EV = 96.48533212331002
"""One eV in kJ/mol: the elementary charge times Avogadro's number, both exact in the SI."""

ANGSTROM_PER_NM = 10.0

Path = str | os.PathLike[str]


class Potential:
    """The computation of a :class:`openmm.PythonForce`: a State in, energy and forces out.

    Reuses its neighbor list between calls. Calls from several contexts or threads take turns; each gets
    the values of its own positions. Pickled (OpenMM serializes forces that way), it is its paths and options:
    the exported model is loaded again where it arrives.

    Parameters
    ----------
    paths : sequence of path
        One exported model, or the members of a committee, whose mean is taken.
    symbols : sequence of str
        Element symbol of each particle the force applies to, in order.
    periodic : bool
        Use the periodic box of the context.
    skin, max_edges, device, cuda_graph
        As for :func:`force`.

    Attributes
    ----------
    spread : Spread or None
        How far a committee's members were apart in the last evaluation, kJ/mol and kJ/mol/nm; None for a single model.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        symbols: Sequence[str],
        periodic: bool,
        skin: float,
        max_edges: int | None,
        device: str | None,
        cuda_graph: bool = False,
    ):
        self._arguments = (
            tuple(os.path.abspath(p) for p in paths),
            tuple(symbols),
            periodic,
            skin,
            max_edges,
            device,
            cuda_graph,
        )
        self._members = load_members(list(self._arguments[0]), device, cuda_graph)
        first = self._members.first
        self._max_edges = edges_per_call(max_edges, first.metadata)
        self._types = first.types_of(list(symbols)).to(first.device)
        self._periodic = periodic
        self._edges = VerletList(first.cutoffs.to(first.device), skin)
        self._lock = threading.Lock()
        self.spread: Spread | None = None

    def __reduce__(self) -> tuple[type[Potential], tuple[Any, ...]]:
        return type(self), self._arguments

    def __call__(self, state: openmm.State) -> tuple[float, np.ndarray]:
        """Return the potential energy, kJ/mol, and the forces (N, 3), kJ/mol/nm, both float64.

        Raises
        ------
        ValueError
            For positions that are not finite, or another number of particles.
        mlip_export.GeometryError
            For atoms nearer than the model's ``shortest_distance``, or a result that is not finite.
        """
        positions = _angstrom(state.getPositions(asNumpy=True))
        if positions.shape[0] != self._types.shape[0]:
            raise ValueError(
                f"particles must be {self._types.shape[0]}, one per symbol, got {positions.shape[0]}"
            )
        if not bool(torch.isfinite(positions).all()):
            wrong = (~torch.isfinite(positions).all(1)).nonzero().flatten()[:5].tolist()
            raise ValueError(f"positions must be finite, got NaN or infinity for particles {wrong}")
        cell = torch.zeros(3, 3, dtype=torch.float64)
        if self._periodic:
            cell = _angstrom(state.getPeriodicBoxVectors(asNumpy=True))
        with self._lock:
            place = self._members.first.device
            r, index = self._edges.update(positions.to(place), cell, self._periodic, self._types)
            energies, g = evaluate_members(self._members, r, index, self._types, self._max_edges)
        per_member = torch.stack([forces(each, index, positions.shape[0]) for each in g])
        if len(self._members) > 1:
            self.spread = spread_of(EV * energies, EV * ANGSTROM_PER_NM * per_member)
        f = per_member.mean(0).cpu()
        return float(energies.mean(0).sum()) * EV, f.numpy() * (EV * ANGSTROM_PER_NM)


def force(
    path: Path | Sequence[Path],
    topology_or_symbols: app.Topology | Sequence[str],
    *,
    particles: Sequence[int] | None = None,
    periodic: bool | None = None,
    skin: float = 0.5,
    max_edges: int | None = None,
    device: str | torch.device | None = None,
    cuda_graph: bool = False,
) -> openmm.PythonForce:
    """Return a force that adds the energy of an exported model to an OpenMM System.

    Energies are absolute (energy shifts included), forces their exact negative gradient. The force takes
    the elements of particles and their positions, nothing else: charges, bonds, residues and constraints of
    the System do not enter it, and particles without an element (virtual sites) cannot be among its particles.
    Under NPT the virial of the force acts through the energy at scaled positions, as MonteCarloBarostat takes it.

    Parameters
    ----------
    path : path or sequence of paths
        An exported model, or the members of a committee, whose mean is taken.
    topology_or_symbols : openmm.app.Topology or sequence of str
        Elements of all particles of the System, in order.
    particles : sequence of int, optional
        Indices of the particles the force applies to; by default all. Others are invisible to the model.
    periodic : bool, optional
        Use the periodic box. By default whether the topology has box vectors; False for symbols.
    skin : float
        Å added to the cutoff when neighbors are searched; the list is reused while it covers the cutoff.
    max_edges : int, optional
        Edges evaluated per call, which bounds the memory of activations; by default the model's.
    device : str or torch.device, optional
        For CUDA models, which GPU.
    cuda_graph : bool
        For CUDA models, replay calls as one CUDA graph (:func:`mlip_export.load`); for small systems.

    Returns
    -------
    openmm.PythonForce
        To be added by ``system.addForce``. It can be serialized with the System and shared by contexts. Its attribute
        ``computation`` is the :class:`Potential` that runs, whose ``spread`` is that of the last evaluation.

    Raises
    ------
    FileNotFoundError, mlip_export.ExportedModelError
        As :func:`mlip_export.load`.
    ValueError
        For elements the model does not know, or particles out of range, repeated or without an element.
    """
    symbols, boxed = _symbols(topology_or_symbols)
    chosen = _checked(range(len(symbols)) if particles is None else particles, symbols)
    paths = paths_of(path)
    use_box = boxed if periodic is None else bool(periodic)
    computation = Potential(
        paths,
        [str(symbols[i]) for i in chosen],
        use_box,
        skin,
        max_edges,
        None if device is None else str(device),
        cuda_graph,
    )
    result = openmm.PythonForce(computation)
    result.computation = computation
    if particles is not None:
        result.setParticles(chosen)
    result.setUsesPeriodicBoundaryConditions(use_box)
    result.setName("mlip-export")
    return result


def _symbols(topology_or_symbols: app.Topology | Sequence[str]) -> tuple[list[str | None], bool]:
    """Return the element symbol of each particle, None without one, and whether there is a periodic box."""
    if not isinstance(topology_or_symbols, app.Topology):
        return list(topology_or_symbols), False
    elements = [atom.element for atom in topology_or_symbols.atoms()]
    boxed = topology_or_symbols.getPeriodicBoxVectors() is not None
    return [None if element is None else element.symbol for element in elements], boxed


def _checked(particles: Sequence[int], symbols: Sequence[str | None]) -> list[int]:
    """Return the particles that a force applies to, which are in range, distinct and have elements."""
    chosen = [int(i) for i in particles]
    if not chosen:
        raise ValueError("particles must be at least one particle, got none")
    if wrong := [i for i in chosen if not 0 <= i < len(symbols)]:
        raise ValueError(f"particles must be indices below {len(symbols)}, got {wrong[:5]}")
    if len(set(chosen)) < len(chosen):
        raise ValueError("particles must be distinct indices, got some of them twice")
    if bare := [i for i in chosen if symbols[i] is None]:
        raise ValueError(
            f"particles must have elements, got particles {bare[:5]} without one (virtual sites?); "
            "name the particles of the model by particles=[...]"
        )
    return chosen


def _angstrom(quantity: Any) -> torch.Tensor:
    """Return lengths of OpenMM as a float64 tensor, Å."""
    values = quantity.value_in_unit(unit.nanometer) if unit.is_quantity(quantity) else quantity
    return torch.from_numpy(np.array(values, dtype=np.float64) * ANGSTROM_PER_NM)
