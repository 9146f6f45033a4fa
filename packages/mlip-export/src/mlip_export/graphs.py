"""Example graphs to trace and compare on: clusters at condensed density, with typical distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

TRACE_ATOMS = 1009
"""Atoms of the traced example (a prime): enough that the compiler sees loops worth running in parallel."""


class Inputs(NamedTuple):
    """The three arguments of an EdgeModel."""

    edge_vectors: Tensor
    edge_index: Tensor
    types: Tensor


class Graphs(NamedTuple):
    """The example graphs of an export.

    Attributes
    ----------
    traced : Inputs
        To trace on.
    compared : dict of str to Inputs
        To compare with eager on, by name, on the device of the export.
    reference : dict of str to Inputs
        To compare with the CPU on, on the CPU.
    measured : (Inputs, Inputs)
        To measure memory on: edges on few atoms, and atoms almost without edges.
    """

    traced: Inputs
    compared: dict[str, Inputs]
    reference: dict[str, Inputs]
    measured: tuple[Inputs, Inputs]


def example_graphs(cutoffs: Tensor, device: torch.device) -> Graphs:
    """Return the graphs on which a model with these cutoffs is traced, compared and measured."""
    return Graphs(
        traced_graph(cutoffs, device),
        comparison_graphs(cutoffs, device),
        reference_graphs(cutoffs, device.type),
        measured_graphs(cutoffs, device),
    )


def traced_graph(cutoffs: Tensor, device: torch.device) -> Inputs:
    """Return the graph to trace on, whose numbers of atoms and edges are primes: no size equals another."""
    inputs = cluster(cutoffs, TRACE_ATOMS)
    count = inputs.edge_vectors.shape[0]
    while count > 2 and not _is_prime(count):
        count -= 1
    vectors, index, types = inputs
    return Inputs(vectors[:count].to(device), index[:, :count].contiguous().to(device), types.to(device))


def comparison_graphs(cutoffs: Tensor, device: torch.device) -> dict[str, Inputs]:
    """Return graphs by name: large, small, a pair, isolated atoms among others, one atom, no edges."""
    graphs = {
        "1009 atoms": cluster(cutoffs, 1009),
        "125 atoms": cluster(cutoffs, 125, seed=1),
        "64 atoms, few neighbors": cluster(cutoffs, 64, neighbors=8, seed=2),
        "27 atoms and 5 isolated": cluster(cutoffs, 27, isolated=5, seed=3),
        "2 atoms": cluster(cutoffs, 2, seed=4),
        "1 atom": cluster(cutoffs, 1, seed=5),
        "6 isolated atoms": cluster(cutoffs, 1, isolated=5, seed=6),
    }
    return {name: Inputs(*(t.to(device) for t in inputs)) for name, inputs in graphs.items()}


def reference_graphs(cutoffs: Tensor, kind: str) -> dict[str, Inputs]:
    """Return graphs, on the CPU, to compare a kind of device with the CPU on.

    For a GPU one has more atoms than run at once on it: kernels that are right in their first wave of blocks alone are
    seen.
    """
    graphs = comparison_graphs(cutoffs, torch.device("cpu"))
    if kind == "cuda":
        graphs["20 clusters of 1009 atoms"] = side_by_side(
            [cluster(cutoffs, 1009, neighbors=12.0, seed=20 + k) for k in range(20)]
        )
    return graphs


def measured_graphs(cutoffs: Tensor, device: torch.device) -> tuple[Inputs, Inputs]:
    """Return a graph whose edges join few atoms, and one of atoms with a single edge."""
    bulk, atoms = cluster(cutoffs, 1009), 64
    spread = torch.stack([bulk.edge_index[0] * atoms // 1009, bulk.edge_index[1] % atoms])
    many = Inputs(bulk.edge_vectors, spread, bulk.types[:atoms])
    bare = Inputs(bulk.edge_vectors[:1], torch.zeros(2, 1, dtype=torch.int64), bulk.types)
    many, bare = (Inputs(*(t.contiguous().to(device) for t in inputs)) for inputs in (many, bare))
    return many, bare


def side_by_side(parts: Sequence[Inputs]) -> Inputs:
    """Return graphs as one, without edges between them."""
    first, index = 0, []
    for part in parts:
        index.append(part.edge_index + first)
        first += part.types.shape[0]
    vectors, types = torch.cat([p.edge_vectors for p in parts]), torch.cat([p.types for p in parts])
    return Inputs(vectors, torch.cat(index, 1), types)


def cluster(cutoffs: Tensor, atoms: int, neighbors: float = 45.0, isolated: int = 0, seed: int = 0) -> Inputs:
    """Return a jittered cubic cluster of random types, with all its edges, sorted by center.

    Parameters
    ----------
    cutoffs : Tensor, (T, T) float64
        Cutoff of each ordered type pair, Å.
    atoms : int
        Atoms with neighbors.
    neighbors : float
        Neighbors within the largest cutoff that an atom of the bulk would have; sets the lattice spacing,
        which is never below 1.6 Å.
    isolated : int
        Further atoms without any edge, put last.
    seed : int
        Seed of a private generator.
    """
    generator = torch.Generator().manual_seed(seed)
    cutoff = float(cutoffs.max())
    spacing = max(1.6, cutoff * (4.0 / 3.0 * math.pi / neighbors) ** (1.0 / 3.0))
    side = max(1, math.ceil(atoms ** (1.0 / 3.0)))
    grid = torch.arange(side, dtype=torch.float64)
    positions = torch.cartesian_prod(grid, grid, grid).reshape(-1, 3)[:atoms] * spacing
    positions = positions + 0.15 * spacing * (
        2.0 * torch.rand(positions.shape, generator=generator, dtype=torch.float64) - 1.0
    )
    types = torch.randint(0, cutoffs.shape[0], (atoms + isolated,), generator=generator)
    difference = positions[None, :, :] - positions[:, None, :]
    distance = difference.norm(dim=-1)
    bound = cutoffs.cpu()[types[:atoms]][:, types[:atoms]]
    near = (distance < bound) & ~torch.eye(atoms, dtype=torch.bool)
    center, neighbor = near.nonzero(as_tuple=True)
    return Inputs(difference[center, neighbor].contiguous(), torch.stack([center, neighbor]), types)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1))
