"""Load and evaluate the members of a committee, or a single model."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from mlip_export.chunks import evaluate
from mlip_export.runtime import EdgePotential, load

Path = str | os.PathLike[str]


class Members:
    """The members of a committee, or the one model, of a calculator.

    Parameters
    ----------
    potentials : sequence of EdgePotential
        At least one; equal ``type_names``, ``cutoffs`` and device.

    Raises
    ------
    ValueError
        For none, or members that differ.
    """

    def __init__(self, potentials: Sequence[EdgePotential]):
        if not potentials:
            raise ValueError("path must name at least one exported model, got none")
        first = potentials[0]
        for k, other in enumerate(potentials[1:], 1):
            if other.type_names != first.type_names or not torch.equal(other.cutoffs, first.cutoffs):
                raise ValueError(
                    f"path must name members of equal elements and cutoffs, got {other.type_names} for member {k} "
                    f"beside {first.type_names}"
                )
            if other.device != first.device:
                raise ValueError(
                    f"path must name members for one device, got {other.device} and {first.device}"
                )
        self.potentials = tuple(potentials)
        self.first = first

    def __len__(self) -> int:
        return len(self.potentials)

    def __iter__(self) -> Iterator[EdgePotential]:
        return iter(self.potentials)


class Spread(NamedTuple):
    """Root mean square deviations of a committee's members from their mean, in the units of the host."""

    energy: float
    """Of the total energy."""
    energies: np.ndarray
    """(N,), of each atom's energy."""
    forces: np.ndarray
    """(N,), of each atom's force vector."""


def spread_of(energies: Tensor, member_forces: Tensor) -> Spread:
    """Return the spread of energies (K, N) and forces (K, N, 3) of the members."""
    return Spread(
        float(energies.sum(1).std(correction=0)),
        energies.std(0, correction=0).cpu().numpy(),
        force_spread(member_forces).cpu().numpy(),
    )


def force_spread(member_forces: Tensor) -> Tensor:
    """Return the root mean square deviation (N,) of force vectors (K, N, 3) from their mean."""
    return (member_forces - member_forces.mean(0)).square().sum(2).mean(0).sqrt()


class Evaluation(NamedTuple):
    """Results of every member, stacked first: energies (K, N) eV and edge forces (K, E, 3) eV/Å."""

    energies: Tensor
    edge_forces: Tensor


def paths_of(path: Path | Sequence[Path]) -> list[Path]:
    """Return the paths of one exported model, or of the members of a committee, as a list."""
    return [path] if isinstance(path, (str, os.PathLike)) else list(path)


def load_members(
    path: Path | Sequence[Path], device: str | torch.device | None = None, cuda_graph: bool = False
) -> Members:
    """Load one exported model, or each of a sequence."""
    return Members([load(p, device, cuda_graph=cuda_graph) for p in paths_of(path)])


def evaluate_members(
    members: Members, edge_vectors: Tensor, edge_index: Tensor, types: Tensor, max_edges: int | None
) -> Evaluation:
    """Evaluate every member on one graph, in chunks of centers of at most ``max_edges`` edges."""
    count = len(members.first.type_names)
    results = [evaluate(p, edge_vectors, edge_index, types, count, max_edges, p.limits) for p in members]
    if len(results) == 1:
        return Evaluation(results[0][0][None], results[0][1][None])
    return Evaluation(torch.stack([e for e, _ in results]), torch.stack([g for _, g in results]))
