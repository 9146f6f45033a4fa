"""Layout of the packed matrices."""

from __future__ import annotations

import torch
from torch import Tensor

LANES = {"avx2": 8, "avx512": 16, "amx": 32}
"""Elements of a register by instruction set: floats of a vector; for AMX, bfloat16 numbers of a tile's row."""
PARTS = 3
"""Numbers of bfloat16 that stand for one of float32."""


def panel_width(lanes: int) -> int:
    """Return the columns of a panel."""
    return lanes * (4 if lanes == 16 else 2)


def pack(matrix: Tensor, lanes: int) -> Tensor:
    """Return a matrix (K, N) as panels of columns one after the other, the last one padded to whole vectors, flat.

    For the tiles of AMX: three matrices of bfloat16 whose sum it is, two to a float.
    """
    if lanes == LANES["amx"]:
        return _tiles(matrix)
    parts = []
    for panel in torch.split(matrix, panel_width(lanes), 1):
        missing = -panel.shape[1] % lanes
        parts.append(torch.nn.functional.pad(panel, (0, missing)).contiguous().flatten())
    return torch.cat(parts)


def unpack(packed: Tensor, inner: int, columns: int, lanes: int) -> Tensor:
    """Return the matrix (inner, columns) that was packed."""
    if lanes == LANES["amx"]:
        return _from_tiles(packed, inner, columns)
    width, parts, start = panel_width(lanes), [], 0
    for first in range(0, columns, width):
        size = min(width, columns - first)
        padded = size + -size % lanes
        parts.append(packed[start : start + inner * padded].view(inner, padded)[:, :size])
        start += inner * padded
    return torch.cat(parts, 1)


def _tiles(matrix: Tensor) -> Tensor:
    """Return the parts of a matrix in tiles of 32 rows, two by two, and 16 columns; see ``tiles.h``."""
    inner, columns = matrix.shape
    rest = torch.nn.functional.pad(matrix, (0, -columns % 32, 0, -inner % 32))
    parts = []
    for _ in range(PARTS):
        parts.append(rest.bfloat16())
        rest = rest - parts[-1].float()
    tiles = torch.stack(parts).view(PARTS, -1, 16, 2, rest.shape[1] // 16, 16)
    return tiles.permute(4, 1, 0, 2, 5, 3).flatten().view(torch.float32)


def _from_tiles(packed: Tensor, inner: int, columns: int) -> Tensor:
    rows, width = inner + -inner % 32, columns + -columns % 32
    tiles = packed.view(torch.bfloat16).view(width // 16, rows // 32, PARTS, 16, 16, 2).float()
    return tiles.sum(2).permute(1, 2, 4, 0, 3).reshape(rows, width)[:inner, :columns]
