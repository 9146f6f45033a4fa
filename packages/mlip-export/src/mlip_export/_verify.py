"""Compare compiled code with the eager model and with float64 on the CPU, in absolute units."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from localgraph import EdgeModel, energies_and_edge_forces
from mlip_export.chunks import evaluate
from mlip_export.graphs import Inputs

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Disagreement(RuntimeError):
    """Compiled code and the eager model differ by more than the tolerance; nothing was written."""


@dataclass(frozen=True)
class Tolerance:
    """Largest accepted differences."""

    energy: float
    """eV per atom."""
    force: float
    """eV/Å, of an edge force."""
    relative: float
    """Added to both, times the largest magnitude: of forces, and of what the model adds to isolated atoms."""


TOLERANCES = {
    "float64": Tolerance(1e-10, 1e-10, 1e-11),
    "float32": Tolerance(1e-5, 1e-5, 1e-5),
    "tf32": Tolerance(2e-3, 2e-3, 1e-2),
}
"""Of compiled code against the eager model, which differ in the order of sums, and in what TF32 makes of that."""

ERRORS = {
    "float64": Tolerance(1e-8, 1e-8, 1e-9),
    "float32": Tolerance(1e-4, 1e-4, 1e-4),
    "tf32": Tolerance(2e-3, 2e-3, 1e-2),
    "bf16": Tolerance(1e-2, 1e-2, 5e-2),
}
"""Of a precision, against the model in float64 on the CPU."""

BLOCK = 20_000
"""Edges of the float64 model evaluated at once."""


@dataclass(frozen=True)
class Report:
    """Largest differences over all comparisons."""

    comparisons: int
    """Number of graphs times thread counts."""
    max_energy: float
    """eV per atom."""
    max_force: float
    """eV/Å, of an edge force."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as plain data."""
        return asdict(self)


def verify(
    candidate: Evaluate,
    model: EdgeModel,
    graphs: Mapping[str, Inputs],
    dtype: str,
    threads: tuple[int, ...] = (1, 2, 4),
) -> Report:
    """Compare ``candidate`` with the eager ``model`` and return the largest differences.

    Also checks strict locality: a neighbor may enter an atom's energy through its type alone, so replacing
    neighbors by representatives of their types must change nothing. Hosts rely on it.

    Raises
    ------
    Disagreement
        Naming the graph, the thread count, both magnitudes and the tolerance.
    """
    tolerance, worst = TOLERANCES[dtype], Report(0, 0.0, 0.0)
    for name, inputs in graphs.items():
        energies, forces = energies_and_edge_forces(model, *inputs)
        added = energies - _isolated(model, inputs.edge_vectors)[inputs.types]
        for n in threads if inputs.types.device.type == "cpu" else (1,):
            with _threads(n):
                found = candidate(*inputs)
                e, f = candidate(*by_representatives(inputs, len(model.type_names)))
            for label, result in (("", found), (", neighbors by type alone", (e[: len(energies)], f))):
                accepted = [
                    bound + tolerance.relative * _largest(values)
                    for bound, values in ((tolerance.energy, added), (tolerance.force, forces))
                ]
                energy, force = _difference(result[0], energies), _difference(result[1], forces)
                if not (energy <= accepted[0] and force <= accepted[1]):
                    raise Disagreement(
                        f"compiled and eager differ on {name}{label} with {n} thread(s): {energy:.3g} eV per "
                        f"atom (accepted {accepted[0]:.3g}), {force:.3g} eV/Å (accepted {accepted[1]:.3g})"
                    )
                worst = Report(
                    worst.comparisons + 1, max(worst.max_energy, energy), max(worst.max_force, force)
                )
    return worst


def by_representatives(inputs: Inputs, num_types: int) -> Inputs:
    """Replace neighbors by one appended atom per type, without edges: equal energies for a strictly local model."""
    vectors, index, types = inputs
    neighbor = types.shape[0] + types[index[1]]
    representatives = torch.arange(num_types, dtype=torch.int64, device=types.device)
    return Inputs(vectors, torch.stack([index[0], neighbor]), torch.cat([types, representatives]))


@dataclass(frozen=True)
class Error:
    """Differences from the model in float64 on the CPU, over all graphs."""

    max_energy: float
    """eV per atom."""
    max_force: float
    """eV/Å, of an edge force."""
    rms_force: float
    """eV/Å, of the components of all edge forces."""
    rms_of_forces: float
    """eV/Å, of the edge forces themselves, beside which to read the others."""

    def to_dict(self) -> dict[str, float]:
        """Return the fields as plain data."""
        return asdict(self)


def error(
    candidate: Evaluate, reference: EdgeModel, graphs: Mapping[str, Inputs], device: torch.device, name: str
) -> Error:
    """Compare ``candidate`` on its device with ``reference``, the model in float64 on the CPU.

    On a GPU the CPU's code is another implementation, so a kernel that is wrong in both the compiled and the eager
    model shows; and what a precision loses shows on any device.

    Parameters
    ----------
    candidate : callable
        The compiled function, in the precision it will have in use.
    reference : EdgeModel
        The same weights, on the CPU.
    graphs : mapping
        Graphs by name, on the CPU.
    device : torch.device
        Where ``candidate`` runs.
    name : str
        The precision, whose entry of ``ERRORS`` bounds the differences.

    Raises
    ------
    Disagreement
        Naming the graph, the differences and the bounds.
    """
    bound = ERRORS[name]
    max_energy = max_force = squares = magnitude = 0.0
    count = 0
    isolated = _isolated(reference, torch.zeros((), dtype=torch.float64))
    for graph, inputs in graphs.items():
        energies, forces = evaluate(
            partial(energies_and_edge_forces, reference), *inputs, len(reference.type_names), BLOCK
        )
        e, f = (t.cpu() for t in candidate(*(t.to(device) for t in inputs)))
        energy, force = _difference(e, energies), _difference(f, forces)
        accepted = (
            bound.energy + bound.relative * _largest(energies - isolated[inputs.types]),
            bound.force + bound.relative * _largest(forces),
        )
        if not (energy <= accepted[0] and force <= accepted[1]):
            raise Disagreement(
                f"{name} on {device.type} and float64 on the CPU differ on {graph}: {energy:.3g} eV per atom (accepted "
                f"{accepted[0]:.3g}), {force:.3g} eV/Å (accepted {accepted[1]:.3g})"
            )
        max_energy, max_force = max(max_energy, energy), max(max_force, force)
        squares += float((f - forces).square().sum())
        magnitude += float(forces.square().sum())
        count += forces.numel()
    return Error(max_energy, max_force, (squares / max(1, count)) ** 0.5, (magnitude / max(1, count)) ** 0.5)


def _isolated(model: EdgeModel, like: Tensor) -> Tensor:
    """Return the energy of an isolated atom of each type: what a model adds to it is what it may get wrong."""
    none = like.new_zeros(0, 3), torch.zeros(2, 0, dtype=torch.int64, device=like.device)
    types = torch.arange(len(model.type_names), device=like.device)
    return energies_and_edge_forces(model, *none, types)[0]


def _difference(found: Tensor, reference: Tensor) -> float:
    if found.shape != reference.shape:
        return float("inf")
    return float((found - reference).abs().max()) if reference.numel() else 0.0


def _largest(values: Tensor) -> float:
    return float(values.abs().max()) if values.numel() else 0.0


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)
