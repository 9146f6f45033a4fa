"""Defaults that hosts share."""

from __future__ import annotations

import torch

MAX_EDGES_CPU = 4096
"""Edges per call on a CPU: the activations of a call stay near the caches, and two threads have enough to do."""

MAX_EDGES_CUDA = 2_000_000
"""Edges per call on a GPU."""


def edges_per_call(max_edges: int | None, device: torch.device) -> int:
    """What the user said, or the default of the device where None; ``ValueError`` for less than 1."""
    if max_edges is None:
        return MAX_EDGES_CUDA if device.type == "cuda" else MAX_EDGES_CPU
    if not max_edges >= 1:
        raise ValueError(f"max_edges: required at least 1, got {max_edges}")
    return max_edges
