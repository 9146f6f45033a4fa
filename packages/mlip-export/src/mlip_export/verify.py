"""A compiled package against the eager model, in absolute units, where compiled code is known to err."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from localgraph import energies_and_edge_forces
from mlip_export.graphs import Edges, by_representatives, cluster

Evaluate = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class Disagreement(RuntimeError):
    """A compiled package and the eager model differ by more than the tolerance; nothing was written."""


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
    """Worst differences over all comparisons."""

    comparisons: int
    """Number of graphs times thread counts."""
    max_energy: float
    """eV per atom."""
    max_force: float
    """eV/Å, of an edge force."""

    def to_dict(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def cases(cutoffs: Tensor) -> dict[str, Edges]:
    """Graphs by name: large, small, a pair, isolated atoms among others, one atom, no edges."""
    return {
        "1009 atoms": cluster(cutoffs, 1009),
        "125 atoms": cluster(cutoffs, 125, seed=1),
        "64 atoms, few neighbors": cluster(cutoffs, 64, neighbors=8, seed=2),
        "27 atoms and 5 isolated": cluster(cutoffs, 27, isolated=5, seed=3),
        "2 atoms": cluster(cutoffs, 2, seed=4),
        "1 atom": cluster(cutoffs, 1, seed=5),
        "6 isolated atoms": cluster(cutoffs, 1, isolated=5, seed=6),
    }


def verify(
    candidate: Evaluate,
    model: Any,
    cutoffs: Tensor,
    dtype: str,
    device: torch.device,
    threads: tuple[int, ...] = (1, 2, 4),
) -> Report:
    """Compare ``candidate`` with the eager ``model`` and return the worst differences.

    Also checks strict locality: a neighbor may enter an atom's energy through its type alone, so replacing
    neighbors by stand-ins of their types must change nothing. Hosts rely on it.

    Raises
    ------
    Disagreement
        Naming the graph, the thread count, both magnitudes and the tolerance.
    """
    tolerance = TOLERANCES[dtype]
    worst_energy = worst_force = 0.0
    count = 0
    for name, edges in cases(cutoffs).items():
        edges = Edges(*(t.to(device) for t in edges))
        reference = energies_and_edge_forces(model, *edges)
        atoms = edges.types.shape[0]
        for n in threads if device.type == "cpu" else (1,):
            with _threads(n):
                found = candidate(*edges)
                local = candidate(*by_representatives(edges, cutoffs.shape[0]))
            for label, (energies, forces) in (
                ("", found),
                (", neighbors by type alone", (local[0][:atoms], local[1])),
            ):
                energy = _difference(energies, reference[0])
                force = _difference(forces, reference[1])
                bound_e = tolerance.energy + tolerance.relative * _largest(reference[0])
                bound_f = tolerance.force + tolerance.relative * _largest(reference[1])
                if not (energy <= bound_e and force <= bound_f):
                    raise Disagreement(
                        f"compiled and eager differ on {name}{label} with {n} thread(s): {energy:.3g} eV per "
                        f"atom (accepted {bound_e:.3g}), {force:.3g} eV/Å (accepted {bound_f:.3g})"
                    )
                worst_energy, worst_force, count = (
                    max(worst_energy, energy),
                    max(worst_force, force),
                    count + 1,
                )
    return Report(count, worst_energy, worst_force)


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
