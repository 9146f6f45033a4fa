"""Launches of the edge–atom sums: a program owns an atom and a block of channels, edges pass by in rows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from equitensor.backends.scaled import one_by_one
from equitensor.backends.triton.edge_sums import (
    Dims,
    to_atoms_kernel,
    to_basis_kernel,
    to_scalars_backward_kernel,
    to_scalars_kernel,
    to_weights_kernel,
)
from equitensor.backends.triton.source import (
    TileConfig,
    accumulator,
    candidate_configs,
    launch,
    launched,
    tiles,
    width,
)
from equitensor.backends.triton.tuning import ATOMS, EDGES, FEW, MANY, Sample, choose

# Edges that a program takes at once, one per warp, before anything is tuned.
ROWS = 4

_SCALED = "scaled_"
"""Prefix of the operators with a scale."""
_BACKWARD = "to_scalars_backward"
_STARTED = "started_to_scalars_backward"
"""That, with a gradient by w to begin with."""


@cache
def configs_of(operator: str, dims: Dims, channels: int, dtype: torch.dtype) -> tuple[TileConfig, ...]:
    """Return candidate tile configs for these blocks, the default first; for to_basis, those of one kernel variant."""
    held = sum(dims) * (2 if operator == _BACKWARD else 1)  # features and their gradient
    rule, *others = candidate_configs(held, channels, dtype, ROWS)
    single = tiles(channels, rule.block) == 1
    whole = operator.removeprefix(_SCALED) in ("to_basis", _BACKWARD)
    return rule, *(c for c in others if not whole or (tiles(channels, c.block) == 1) == single)


def kernel_of(
    operator: str, dims: Dims, channels: int, dtype: torch.dtype, config: TileConfig, slabs: bool = False
) -> Any:
    """Return the operator's kernel for these blocks and this tile config; ``slabs``: see :func:`to_basis_kernel`."""
    if operator == "to_scalars":
        return to_scalars_kernel(dims, dtype)
    if operator in (_BACKWARD, _STARTED):
        return to_scalars_backward_kernel(dims, dtype, operator == _STARTED)
    scaled, plain = operator.startswith(_SCALED), operator.removeprefix(_SCALED)
    if plain == "to_basis":
        single = isinstance(channels, int) and tiles(channels, config.block) == 1
        return to_basis_kernel(dims, dtype, single, scaled, slabs)
    return (to_atoms_kernel if plain == "to_atoms" else to_weights_kernel)(dims, dtype, scaled)


@cache
def sample_of(
    operator: str,
    dims: Dims,
    channels: int,
    dtype: torch.dtype,
    atoms: int = ATOMS,
    degree: int = EDGES,
) -> Sample:
    """Return the sample that the operator's kernel is timed on."""
    e, d = atoms * degree, sum(dims)
    w, basis, features = ((e, len(dims), channels), dtype), ((e, d), dtype), ((atoms, d, channels), dtype)
    scalars, offsets = ((e, channels), dtype), ((atoms + 1,), torch.int64)
    operands = {
        "to_atoms": (w, basis, features),
        "to_weights": (basis, features, w),
        "to_basis": (w, features, basis),
        "to_scalars": (w, basis, features, scalars),
    }
    strides = (("S", channels),)
    if operator == _BACKWARD:
        backward = (w, basis, features, scalars, offsets, w, basis, features)
        return Sample(backward, atoms, blocked=False, degree=degree, scalars=strides)
    scaled, plain = operator.startswith(_SCALED), operator.removeprefix(_SCALED)
    *given, out = operands[plain]
    tensors = (*given, *((scalars,) if scaled else ()), offsets, out)
    blocked = plain != "to_basis"
    return Sample(tensors, atoms, blocked=blocked, degree=degree, scalars=strides if scaled else ())


def _config(
    operator: str, dims: Dims, channels: int, like: Tensor, config: TileConfig | None
) -> tuple[Any, TileConfig]:
    """Return the kernel and its tile config: the one given, else the autotuned one."""
    if config is None:
        given = (operator, dims, width(channels), like.dtype)
        candidates = configs_of(*given)
        samples = sample_of(*given), sample_of(*given, FEW, MANY)
        config = choose(kernel_of(*given, candidates[0]), candidates, channels, like.device, *samples)
    return kernel_of(operator, dims, channels, like.dtype, config), config


def _rows(scale: Tensor) -> tuple[Tensor, dict[str, int]]:
    """Return the scale with contiguous rows and the argument that is their stride."""
    scale = scale if scale.stride(1) == 1 else scale.contiguous()
    return scale, {"S": scale.stride(0)}


def _in_slabs(features: Tensor) -> bool:
    """Return whether features (N, D, C) lie as (D, N, C) in memory, as a batched product per component leaves them."""
    return not features.is_contiguous() and features.transpose(0, 1).is_contiguous()


def _run(
    operator: str,
    tensors: tuple[Tensor, ...],
    dims: Dims,
    channels: int,
    config: TileConfig | None,
    scale: Tensor | None = None,
) -> Tensor:
    """Launch on (operands, offsets, out), scaled or not, and return out."""
    *operands, offsets, out = tensors
    name = operator if scale is None else _SCALED + operator
    kernel, config = _config(name, tuple(dims), channels, operands[0], config)
    if operator == "to_basis" and _in_slabs(operands[1]):
        kernel = kernel_of(name, tuple(dims), channels, operands[0].dtype, config, slabs=True)
        operands[1] = operands[1].transpose(0, 1)
    grid = (offsets.shape[0] - 1, 1 if operator == "to_basis" else tiles(channels, config.block))
    given, constants = [t.contiguous() for t in operands], {"C": channels, **config.constants}
    if scale is not None:
        scale, strides = _rows(scale)
        given.append(scale)
        constants |= strides
    launch(kernel, grid, (*given, offsets.contiguous(), out), **constants, num_warps=config.warps)
    return out


def to_atoms(
    w: Tensor,
    basis: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """See :func:`equitensor.to_atoms`; each operand is read once and the result written once."""
    out = w.new_empty(offsets.shape[0] - 1, basis.shape[1], w.shape[2])
    return _run("to_atoms", (w, basis, offsets, out), dims, w.shape[2], config, scale)


def _one_block(basis: Tensor, features: Tensor, centers: Tensor) -> Tensor:
    """Return to_weights of one block in pointwise terms, which a compiler forms where the result is used."""
    kind, rows = accumulator(basis.dtype), torch.ops.aten.index.Tensor(features, [centers])
    columns = (basis.narrow(1, k, 1).to(kind) for k in range(basis.shape[1]))
    terms = [column * rows.select(1, k).to(kind) for k, column in enumerate(columns)]
    total: Tensor = sum(terms[1:], terms[0])
    return total.to(basis.dtype).unsqueeze(1)


def to_weights(
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """See :func:`equitensor.to_weights`. One block without a scale is left to a compiler, where one looks on.

    Each element then reads all components of the features from the caches, not from registers, but neither the
    result nor what it is added to or multiplied by makes a way through memory of its own.
    """
    if scale is None and len(dims) == 1 and not launched(basis, features):
        return _one_block(basis, features, centers)
    out = basis.new_empty(basis.shape[0], len(dims), features.shape[2])
    return _run("to_weights", (basis, features, offsets, out), dims, features.shape[2], config, scale)


def to_basis(
    w: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """See :func:`equitensor.to_basis`."""
    out = w.new_empty(w.shape[0], features.shape[1])
    return _run("to_basis", (w, features, offsets, out), dims, w.shape[2], config, scale)


def to_scalars(
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_scalars`."""
    out = w.new_empty(w.shape[0], w.shape[2])
    return _run("to_scalars", (w, basis, features, offsets, out), dims, w.shape[2], config)


def scaled_to_atoms(
    w: Tensor,
    basis: Tensor,
    scale: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_atoms`."""
    return to_atoms(w, basis, centers, offsets, dims, config, scale)


def scaled_to_weights(
    basis: Tensor,
    features: Tensor,
    scale: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_weights`."""
    return to_weights(basis, features, centers, offsets, dims, config, scale)


def scaled_to_basis(
    w: Tensor,
    features: Tensor,
    scale: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_basis`."""
    return to_basis(w, features, centers, offsets, dims, config, scale)


_one_by_one = one_by_one(scaled_to_atoms, scaled_to_weights, scaled_to_basis)


def to_scalars_backward(
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    scale: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    start: Tensor | None = None,
    config: TileConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute the three gradients of :func:`to_scalars` in one pass over the edges, each operand read once.

    The one by w is added to ``start``. A program needs all channels of an edge; where they do not fit one, it is a
    pass for each gradient.
    """
    channels, dims = w.shape[2], tuple(dims)
    candidates = configs_of(_BACKWARD, dims, width(channels), w.dtype)
    if not isinstance(channels, int) or tiles(channels, candidates[0].block) > 1:
        return _one_by_one(w, basis, features, scale, centers, offsets, dims, start)
    kernel, config = _config(_BACKWARD, dims, channels, w, config)
    out = w.new_empty(w.shape), basis.new_empty(basis.shape), features.new_empty(features.shape)
    scale, strides = _rows(scale)
    given = [w.contiguous(), basis.contiguous(), features.contiguous(), scale]
    if start is not None:
        kernel = kernel_of(_STARTED, dims, channels, w.dtype, config)
        given.append(start.contiguous())
    constants: dict[str, Any] = {"C": channels, **strides, **config.constants}
    grid = offsets.shape[0] - 1, 1
    launch(kernel, grid, (*given, offsets.contiguous(), *out), **constants, num_warps=config.warps)
    return out
