"""Defaults that hosts share."""

from __future__ import annotations

import torch

MAX_EDGES_CPU = 4096
"""Edges per call on a CPU: the activations of a call stay near the caches, and two threads have enough to do."""

MAX_EDGES_CUDA = 2_000_000
"""Edges per call on a GPU."""


def default_max_edges(device: torch.device) -> int:
    """Edges per call for a device, unless the user says otherwise."""
    return MAX_EDGES_CUDA if device.type == "cuda" else MAX_EDGES_CPU
