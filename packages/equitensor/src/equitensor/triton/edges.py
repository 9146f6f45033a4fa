"""Triton kernels of the edge–atom sums: a program owns an atom and a block of channels, edges pass by in rows."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from torch import Tensor

from equitensor.triton.source import build, channel_block, launch, tiles

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


def _row(pointer: str, width: str, place: str) -> str:
    """A tile (ROWS, BLOCK) of channels per edge."""
    return f"tl.load({pointer} + (e * {width} + {place})[:, None] * C + u[None, :], mask=both, other=0.0)"


@cache
def to_atoms_kernel(dims: tuple[int, ...]) -> Any:
    """The kernel of to_atoms for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = ["def to_atoms(w, basis, offsets, out, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):", _HEAD]
    zero = "tl.zeros((ROWS, BLOCK), dtype=out.dtype.element_ty)"
    lines += [f"    s{k} = {zero}" for k in range(d)]
    lines += [_LOOP]
    lines += [f"        w{b} = {_row('w', str(r), str(b))}" for b in range(r)]
    for k, b in _components(dims):
        lines.append(f"        y{k} = tl.load(basis + e * {d} + {k}, mask=real, other=0.0)")
        lines.append(f"        s{k} += y{k}[:, None] * w{b}")
    lines += [
        f"    tl.store(out + (i * {d} + {k}) * C + u, tl.sum(s{k}, axis=0), mask=inside)" for k in range(d)
    ]
    return build("to_atoms", "\n".join(lines) + "\n")


@cache
def to_weights_kernel(dims: tuple[int, ...]) -> Any:
    """The kernel of to_weights for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [
        "def to_weights(basis, features, offsets, out, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):",
        _HEAD,
    ]
    lines += [
        f"    f{k} = tl.load(features + (i * {d} + {k}) * C + u, mask=inside, other=0.0)" for k in range(d)
    ]
    lines += [_LOOP]
    seen: set[int] = set()
    for k, b in _components(dims):
        lines.append(f"        y{k} = tl.load(basis + e * {d} + {k}, mask=real, other=0.0)")
        lines.append(f"        s{b} {'+=' if b in seen else '='} y{k}[:, None] * f{k}[None, :]")
        seen.add(b)
    lines += [
        f"        tl.store(out + (e * {r} + {b})[:, None] * C + u[None, :], s{b}, mask=both)"
        for b in range(r)
    ]
    return build("to_weights", "\n".join(lines) + "\n")


@cache
def to_basis_kernel(dims: tuple[int, ...], single: bool) -> Any:
    """The kernel of to_basis; ``single`` when one block holds all channels, so features stay in registers."""
    d, r = sum(dims), len(dims)
    lines = [
        "def to_basis(w, features, offsets, out, C, BLOCK: tl.constexpr, ROWS: tl.constexpr):",
        _HEAD,
    ]
    features = [
        f"f{k} = tl.load(features + (i * {d} + {k}) * C + u, mask=inside, other=0.0)" for k in range(d)
    ]
    weights = [f"w{b} = {_row('w', str(r), str(b))}" for b in range(r)]
    if single:
        lines += [f"    {line}" for line in features]
        lines += [_LOOP]
        lines += [f"        {line}" for line in weights]
        lines += [f"        s{k} = tl.sum(w{b} * f{k}[None, :], axis=1)" for k, b in _components(dims)]
    else:
        lines += [_LOOP]
        lines += [f"        s{k} = tl.zeros((ROWS,), dtype=out.dtype.element_ty)" for k in range(d)]
        lines += ["        for c in range(0, C, BLOCK):"]
        lines += [
            "            u = c + tl.arange(0, BLOCK)",
            "            inside = u < C",
            "            both = real[:, None] & inside[None, :]",
        ]
        lines += [f"            {line}" for line in [*features, *weights]]
        lines += [f"            s{k} += tl.sum(w{b} * f{k}[None, :], axis=1)" for k, b in _components(dims)]
    lines += [f"        tl.store(out + e * {d} + {k}, s{k}, mask=real)" for k in range(d)]
    return build("to_basis", "\n".join(lines) + "\n")


def to_atoms(w: Tensor, basis: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """See :func:`equitensor.to_atoms`; each operand is read once and the result written once."""
    n, c = offsets.shape[0] - 1, w.shape[2]
    out = w.new_empty(n, basis.shape[1], c)
    block = channel_block(c)
    tensors = (w.contiguous(), basis.contiguous(), offsets, out)
    launch(
        to_atoms_kernel(tuple(dims)),
        (n, tiles(c, block)),
        tensors,
        C=c,
        BLOCK=block,
        ROWS=ROWS,
        num_warps=ROWS,
    )
    return out


def to_weights(
    basis: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """See :func:`equitensor.to_weights`."""
    n, c = offsets.shape[0] - 1, features.shape[2]
    out = basis.new_empty(basis.shape[0], len(dims), c)
    block = channel_block(c)
    tensors = (basis.contiguous(), features.contiguous(), offsets, out)
    launch(
        to_weights_kernel(tuple(dims)),
        (n, tiles(c, block)),
        tensors,
        C=c,
        BLOCK=block,
        ROWS=ROWS,
        num_warps=ROWS,
    )
    return out


def to_basis(w: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """See :func:`equitensor.to_basis`."""
    n, c = offsets.shape[0] - 1, w.shape[2]
    out = w.new_empty(w.shape[0], features.shape[1])
    block = channel_block(c)
    tensors = (w.contiguous(), features.contiguous(), offsets, out)
    kernel = to_basis_kernel(tuple(dims), tiles(c, block) == 1)
    launch(kernel, (n, 1), tensors, C=c, BLOCK=block, ROWS=ROWS, num_warps=ROWS)
    return out
