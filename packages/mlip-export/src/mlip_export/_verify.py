"""Compare compiled code with the eager model, in absolute units."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from localgraph import EdgeModel, energies_and_edge_forces
from mlip_export.graphs import Inputs, by_representatives

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
    """Added to both, times the largest magnitude of the quantity compared."""


TOLERANCES = {
    "float64": Tolerance(1e-10, 1e-10, 1e-11),
    "float32": Tolerance(1e-5, 1e-5, 1e-5),
    "tf32": Tolerance(1e-3, 1e-3, 1e-2),
}


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
        for n in threads if inputs.types.device.type == "cpu" else (1,):
            with _threads(n):
                found = candidate(*inputs)
                e, f = candidate(*by_representatives(inputs, len(model.type_names)))
            for label, result in (("", found), (", neighbors by type alone", (e[: len(energies)], f))):
                accepted = [
                    bound + tolerance.relative * _largest(reference)
                    for bound, reference in ((tolerance.energy, energies), (tolerance.force, forces))
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
