"""Layout of the packed matrices, and their product in plain PyTorch."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = {"avx2": 8, "avx512": 16}
"""Elements of a vector register by instruction set."""


def panel_width(lanes: int) -> int:
    """Return the columns of a panel."""
    return lanes * (4 if lanes == 16 else 2)


def pack(matrix: Tensor, lanes: int) -> Tensor:
    """Return a matrix (K, N) as panels of columns one after the other, the last one padded to whole vectors, flat."""
    parts = []
    for panel in torch.split(matrix, panel_width(lanes), 1):
        missing = -panel.shape[1] % lanes
        parts.append(torch.nn.functional.pad(panel, (0, missing)).contiguous().flatten())
    return torch.cat(parts)


def unpack(packed: Tensor, inner: int, columns: int, lanes: int) -> Tensor:
    """Return the matrix (inner, columns) that was packed."""
    width, parts, start = panel_width(lanes), [], 0
    for first in range(0, columns, width):
        size = min(width, columns - first)
        padded = size + -size % lanes
        parts.append(packed[start : start + inner * padded].view(inner, padded)[:, :size])
        start += inner * padded
    return torch.cat(parts, 1)
