"""Triton kernels of the edge–atom sums: a program owns an atom and a block of channels, edges pass by in rows."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor

from equitensor.backends.triton.source import TileConfig, build, candidate_configs, launch, tiles, width
from equitensor.backends.triton.tuning import ATOMS, EDGES, Sample, choose

Dims = tuple[int, ...]
"""Sizes of the blocks."""

# Edges that a program takes at once, one per warp, before anything is tuned.
ROWS = 4

_HEAD = """
    i = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = u < C
    rows = tl.arange(0, ROWS)
    first = tl.load(offsets + i)
    last = tl.load(offsets + i + 1)
"""

_LOOP = """
    for start in range(first, last, ROWS):
        e = start + rows
        real = e < last
        both = real[:, None] & inside[None, :]
"""


def _components(dims: Dims) -> list[tuple[int, int]]:
    """Return (component, block) of every component."""
    blocks = [b for b, size in enumerate(dims) for _ in range(size)]
    return list(enumerate(blocks))


def _row(pointer: str, width: int, place: int) -> str:
    """Load a tile (ROWS, BLOCK) of channels per edge."""
    where = f"{pointer} + (e * {width} + {place})[:, None] * C + u[None, :]"
    return f"tl.load({where}, mask=both, other=0.0).to(ACC)"


def _basis(k: int, d: int) -> str:
    """Load component ``k`` of ``d`` of the rows' basis, a column."""
    return f"y{k} = tl.load(basis + e * {d} + {k}, mask=real, other=0.0).to(ACC)[:, None]"


def _features(k: int, d: int) -> str:
    """Load component ``k`` of ``d`` of the atom's features, a row."""
    return f"f{k} = tl.load(features + (i * {d} + {k}) * C + u, mask=inside, other=0.0).to(ACC)[None, :]"


def _signature(name: str, *tensors: str) -> str:
    return f"def {name}({', '.join(tensors)}, offsets, out, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):"


@cache
def to_atoms_kernel(dims: Dims, dtype: torch.dtype) -> Any:
    """Return the kernel of to_atoms for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_atoms", "w", "basis"), _HEAD]
    lines += [f"    s{k} = tl.zeros((ROWS, BLOCK), dtype=ACC)" for k in range(d)]
    lines += [_LOOP]
    lines += [f"        w{b} = {_row('w', r, b)}" for b in range(r)]
    for k, b in _components(dims):
        lines.append(f"        {_basis(k, d)}")
        lines.append(f"        s{k} = tl.fma(y{k}, w{b}, s{k})")
    lines += [
        f"    tl.store(out + (i * {d} + {k}) * C + u, tl.sum(s{k}, axis=0), mask=inside)" for k in range(d)
    ]
    return build("to_atoms", lines, dtype)


@cache
def to_weights_kernel(dims: Dims, dtype: torch.dtype) -> Any:
    """Return the kernel of to_weights for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_weights", "basis", "features"), _HEAD]
    lines += [f"    {_features(k, d)}" for k in range(d)]
    lines += [_LOOP]
    seen: set[int] = set()
    for k, b in _components(dims):
        lines.append(f"        {_basis(k, d)}")
        lines.append(f"        s{b} = {f'tl.fma(y{k}, f{k}, s{b})' if b in seen else f'y{k} * f{k}'}")
        seen.add(b)
    lines += [
        f"        tl.store(out + (e * {r} + {b})[:, None] * C + u[None, :], s{b}, mask=both)"
        for b in range(r)
    ]
    return build("to_weights", lines, dtype)


@cache
def to_basis_kernel(dims: Dims, dtype: torch.dtype, single: bool) -> Any:
    """Return the kernel of to_basis; ``single`` when one block holds all channels, so features stay in registers."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_basis", "w", "features"), _HEAD]
    features = [_features(k, d) for k in range(d)]
    weights = [f"w{b} = {_row('w', r, b)}" for b in range(r)]
    if single:
        lines += [f"    {line}" for line in features]
        lines += [_LOOP]
        lines += [f"        {line}" for line in weights]
        lines += [f"        s{k} = tl.sum(w{b} * f{k}, axis=1)" for k, b in _components(dims)]
    else:
        lines += [_LOOP]
        lines += [f"        s{k} = tl.zeros((ROWS,), dtype=ACC)" for k in range(d)]
        lines += ["        for c in range(0, C, BLOCK):"]
        lines += [
            "            u = c + tl.arange(0, BLOCK)",
            "            inside = u < C",
            "            both = real[:, None] & inside[None, :]",
        ]
        lines += [f"            {line}" for line in [*features, *weights]]
        lines += [f"            s{k} += tl.sum(w{b} * f{k}, axis=1)" for k, b in _components(dims)]
    lines += [f"        tl.store(out + e * {d} + {k}, s{k}, mask=real)" for k in range(d)]
    return build("to_basis", lines, dtype)


@cache
def configs_of(operator: str, dims: Dims, channels: int, dtype: torch.dtype) -> tuple[TileConfig, ...]:
    """Return candidate tile configs for these blocks, the default first; for to_basis, those of one kernel variant."""
    rule, *others = candidate_configs(sum(dims), channels, dtype, ROWS)
    single = tiles(channels, rule.block) == 1
    return rule, *(c for c in others if operator != "to_basis" or (tiles(channels, c.block) == 1) == single)


def kernel_of(operator: str, dims: Dims, channels: int, dtype: torch.dtype, config: TileConfig) -> Any:
    """Return the operator's kernel for these blocks and this tile config."""
    if operator == "to_basis":
        return to_basis_kernel(dims, dtype, isinstance(channels, int) and tiles(channels, config.block) == 1)
    return (to_atoms_kernel if operator == "to_atoms" else to_weights_kernel)(dims, dtype)


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
    offsets = ((atoms + 1,), torch.int64)
    operands = {
        "to_atoms": (w, basis, offsets, features),
        "to_weights": (basis, features, offsets, w),
        "to_basis": (w, features, offsets, basis),
    }
    return Sample(operands[operator], atoms, blocked=operator != "to_basis", degree=degree)


def _run(
    operator: str, tensors: tuple[Tensor, ...], dims: Dims, channels: int, config: TileConfig | None
) -> Tensor:
    """Launch on (operand, operand, offsets, out) and return out. Use `config` if given, else the autotuned one."""
    (first, second, offsets, out), dims = tensors, tuple(dims)
    if config is None:
        given = (operator, dims, width(channels), first.dtype)
        candidates = configs_of(*given)
        config = choose(
            kernel_of(*given, candidates[0]), candidates, channels, first.device, sample_of(*given)
        )
    kernel = kernel_of(operator, dims, channels, first.dtype, config)
    grid = (offsets.shape[0] - 1, 1 if operator == "to_basis" else tiles(channels, config.block))
    tensors = (first.contiguous(), second.contiguous(), offsets.contiguous(), out)
    launch(kernel, grid, tensors, C=channels, **config.constants, num_warps=config.warps)
    return out


def to_atoms(
    w: Tensor, basis: Tensor, centers: Tensor, offsets: Tensor, dims: Dims, config: TileConfig | None = None
) -> Tensor:
    """See :func:`equitensor.to_atoms`; each operand is read once and the result written once."""
    out = w.new_empty(offsets.shape[0] - 1, basis.shape[1], w.shape[2])
    return _run("to_atoms", (w, basis, offsets, out), dims, w.shape[2], config)


def to_weights(
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_weights`."""
    out = basis.new_empty(basis.shape[0], len(dims), features.shape[2])
    return _run("to_weights", (basis, features, offsets, out), dims, features.shape[2], config)


def to_basis(
    w: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Dims,
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.to_basis`."""
    out = w.new_empty(w.shape[0], features.shape[1])
    return _run("to_basis", (w, features, offsets, out), dims, w.shape[2], config)
