"""Triton kernels of the edge–atom sums: a program owns an atom and a block of channels, edges pass by in rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

from equitensor.triton.source import Cut, build, cut, launch, tiles

# Edges that a program takes at once, one per warp.
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


def _components(dims: Sequence[int]) -> list[tuple[int, int]]:
    """(component, block) of every component."""
    blocks = [b for b, size in enumerate(dims) for _ in range(size)]
    return list(enumerate(blocks))


def _row(pointer: str, width: int, place: int) -> str:
    """A tile (ROWS, BLOCK) of channels per edge."""
    where = f"{pointer} + (e * {width} + {place})[:, None] * C + u[None, :]"
    return f"tl.load({where}, mask=both, other=0.0).to(ACC)"


def _basis(k: int, d: int) -> str:
    """Component ``k`` of ``d`` of the rows' basis, a column."""
    return f"y{k} = tl.load(basis + e * {d} + {k}, mask=real, other=0.0).to(ACC)[:, None]"


def _features(k: int, d: int) -> str:
    """Component ``k`` of ``d`` of the atom's features, a row."""
    return f"f{k} = tl.load(features + (i * {d} + {k}) * C + u, mask=inside, other=0.0).to(ACC)[None, :]"


def _signature(name: str, *tensors: str) -> str:
    return f"def {name}({', '.join(tensors)}, offsets, out, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):"


@cache
def to_atoms_kernel(dims: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The kernel of to_atoms for blocks of these sizes."""
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
def to_weights_kernel(dims: tuple[int, ...], dtype: torch.dtype) -> Any:
    """The kernel of to_weights for blocks of these sizes."""
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
def to_basis_kernel(dims: tuple[int, ...], dtype: torch.dtype, single: bool) -> Any:
    """The kernel of to_basis; ``single`` when one block holds all channels, so features stay in registers."""
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


def _launch(
    kernel: Any, atoms: int, tensors: tuple[Tensor, ...], channels: int, cut: Cut, blocks: int
) -> None:
    constants = {"BLOCK": cut.block, "ROWS": cut.rows}
    launch(kernel, (atoms, blocks), tensors, C=channels, **constants, num_warps=cut.warps)


def cut_of(dims: Sequence[int], channels: int, dtype: torch.dtype) -> Cut:
    """How the kernels of these blocks are cut."""
    return cut(sum(dims), channels, dtype, ROWS)


def to_atoms(w: Tensor, basis: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """See :func:`equitensor.to_atoms`; each operand is read once and the result written once."""
    n, c = offsets.shape[0] - 1, w.shape[2]
    out = w.new_empty(n, basis.shape[1], c)
    shape = cut_of(dims, c, w.dtype)
    tensors = (w.contiguous(), basis.contiguous(), offsets, out)
    _launch(to_atoms_kernel(tuple(dims), w.dtype), n, tensors, c, shape, tiles(c, shape.block))
    return out


def to_weights(
    basis: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """See :func:`equitensor.to_weights`."""
    n, c = offsets.shape[0] - 1, features.shape[2]
    out = basis.new_empty(basis.shape[0], len(dims), c)
    shape = cut_of(dims, c, basis.dtype)
    tensors = (basis.contiguous(), features.contiguous(), offsets, out)
    _launch(to_weights_kernel(tuple(dims), basis.dtype), n, tensors, c, shape, tiles(c, shape.block))
    return out


def to_basis(w: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """See :func:`equitensor.to_basis`."""
    n, c = offsets.shape[0] - 1, w.shape[2]
    out = w.new_empty(w.shape[0], features.shape[1])
    shape = cut_of(dims, c, w.dtype)
    tensors = (w.contiguous(), features.contiguous(), offsets, out)
    _launch(to_basis_kernel(tuple(dims), w.dtype, tiles(c, shape.block) == 1), n, tensors, c, shape, 1)
    return out
