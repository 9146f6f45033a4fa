"""Sane edge graphs to trace and compare on: clusters at condensed density, with typical distances."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Edges(NamedTuple):
    """The three arguments of an EdgeModel."""

    edge_vectors: Tensor
    edge_index: Tensor
    types: Tensor


def cluster(cutoffs: Tensor, atoms: int, neighbors: float = 45.0, isolated: int = 0, seed: int = 0) -> Edges:
    """A jittered cubic cluster of random types, with all its edges, sorted by center.

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
    return Edges(difference[center, neighbor].contiguous(), torch.stack([center, neighbor]), types)


def with_prime_edges(edges: Edges) -> Edges:
    """The same graph with its last edges dropped until their number is prime: no size equals another."""
    count = edges.edge_vectors.shape[0]
    while count > 2 and not _is_prime(count):
        count -= 1
    return Edges(
        edges.edge_vectors[:count].contiguous(), edges.edge_index[:, :count].contiguous(), edges.types
    )


def by_representatives(edges: Edges, types_count: int) -> Edges:
    """Neighbors replaced by one edgeless stand-in atom per type: equal energies for a strictly local model.

    The stand-ins are appended. This lets hosts evaluate some centers without the atoms around them.
    """
    atoms = edges.types.shape[0]
    neighbor = atoms + edges.types[edges.edge_index[1]]
    types = torch.cat([edges.types, torch.arange(types_count, dtype=torch.int64, device=edges.types.device)])
    return Edges(edges.edge_vectors, torch.stack([edges.edge_index[0], neighbor]), types)


def _is_prime(n: int) -> bool:
    return n > 1 and all(n % k for k in range(2, math.isqrt(n) + 1))
