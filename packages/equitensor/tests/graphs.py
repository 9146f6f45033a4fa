"""Edge lists that every edge operator is tried on: (centres, number of atoms)."""

import torch

from equitensor import row_offsets

GRAPHS = {
    "no atoms": ([], 0),
    "no edges": ([], 3),
    "one edge": ([0], 1),
    "gaps": ([1, 1, 1, 4], 6),
    "one centre": ([2] * 5, 4),
    "many": (sorted(i * i % 7 for i in range(40)), 7),
}


def graph(name):
    """Centres and offsets of one of them."""
    centres, atoms = GRAPHS[name]
    centres = torch.tensor(centres, dtype=torch.int64)
    return centres, row_offsets(centres, atoms)
