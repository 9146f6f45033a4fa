"""Launch of the kernel of the gradients of to_scalars' gradients."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from equitensor.backends.triton.edge_atom import ROWS, _rows
from equitensor.backends.triton.edge_sums import Dims, to_scalars_second_kernel
from equitensor.backends.triton.source import TileConfig, candidate_configs, launch, tiles, width
from equitensor.backends.triton.tuning import ATOMS, EDGES, FEW, MANY, Sample, choose


@cache
def configs_of(dims: Dims, channels: int, dtype: torch.dtype) -> tuple[TileConfig, ...]:
    """Return candidate tile configs for these blocks, the default first."""
    return candidate_configs(3 * sum(dims), channels, dtype, ROWS)  # two kinds of features, and a gradient


@cache
def sample_of(
    dims: Dims, channels: int, dtype: torch.dtype, atoms: int = ATOMS, degree: int = EDGES
) -> Sample:
    """Return the sample that the kernel is timed on."""
    e, d = atoms * degree, sum(dims)
    w, basis, features = ((e, len(dims), channels), dtype), ((e, d), dtype), ((atoms, d, channels), dtype)
    scale, offsets = ((e, channels), dtype), ((atoms + 1,), torch.int64)
    tensors = (w, basis, features, scale, w, basis, features, offsets, w, features, scale)
    return Sample(tensors, atoms, degree=degree, scalars=(("S", channels),))


def to_scalars_second(
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    scale: Tensor,
    by_w: Tensor,
    by_basis: Tensor,
    by_features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the gradients by w, features and scale in one pass over the edges, each operand read once."""
    channels, dims = w.shape[2], tuple(dims)
    kernel = to_scalars_second_kernel(dims, w.dtype)
    if config is None:
        given = dims, width(channels), w.dtype
        samples = sample_of(*given), sample_of(*given, FEW, MANY)
        config = choose(kernel, configs_of(*given), channels, w.device, *samples)
    out = w.new_empty(w.shape), features.new_empty(features.shape), scale.new_empty(scale.shape)
    scale, strides = _rows(scale)
    tensors = (w, basis, features, scale, by_w, by_basis, by_features, offsets)
    operands = [t if t is scale else t.contiguous() for t in tensors]
    constants: dict[str, Any] = {"C": channels, **strides, **config.constants}
    grid = offsets.shape[0] - 1, tiles(channels, config.block)
    launch(kernel, grid, (*operands, *out), **constants, num_warps=config.warps)
    return out
