"""Edge lists that every edge operator is tried on: (centers, number of atoms)."""

import torch

from equitensor import row_offsets

GRAPHS = {
    "no atoms": ([], 0),
    "no edges": ([], 3),
    "one edge": ([0], 1),
    "gaps": ([1, 1, 1, 4], 6),
    "one center": ([2] * 5, 4),
    "many": (sorted(i * i % 7 for i in range(40)), 7),
}


def graph(name):
    """Centers and offsets of one of them."""
    centers, atoms = GRAPHS[name]
    centers = torch.tensor(centers, dtype=torch.int64)
    return centers, row_offsets(centers, atoms)
