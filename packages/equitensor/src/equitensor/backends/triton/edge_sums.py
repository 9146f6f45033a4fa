"""Sources of the Triton kernels of the edge–atom sums, for blocks of given sizes."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

from equitensor.backends.triton.source import build

Dims = tuple[int, ...]
"""Sizes of the blocks."""

_HEAD = """
    i = tl.program_id(0).to(tl.int64)
    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = u < C
    rows = tl.arange(0, ROWS)
    first = tl.load(offsets + i)
    last = tl.load(offsets + i + 1)
"""

_CONSTANTS = "BLOCK: tl.constexpr, ROWS: tl.constexpr, STAGES: tl.constexpr"

_LOOP = """
    for start in tl.range(first, last, ROWS, num_stages=STAGES):
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


def _features(k: int, d: int, slabs: bool = False) -> str:
    """Load component ``k`` of ``d`` of the atom's features, a row; of (d, atoms, C) in memory if ``slabs``."""
    place = f"(i + {k} * tl.num_programs(0).to(tl.int64))" if slabs else f"(i * {d} + {k})"
    return f"f{k} = tl.load(features + {place} * C + u, mask=inside, other=0.0).to(ACC)[None, :]"


def _signature(name: str, *tensors: str, scaled: bool = False) -> str:
    given = (*tensors, *(("scale",) if scaled else ()), "offsets", "out", "C", *(("S",) if scaled else ()))
    return f"def {name}({', '.join(given)}, {_CONSTANTS}):"


# The scale has rows of its own stride S: as a gradient it often is a slice of a wider one.
_SCALE = "g = tl.load(scale + e[:, None] * S + u[None, :], mask=both, other=0.0).to(ACC)"


def _weights(blocks: int, scaled: bool) -> list[str]:
    """Load the rows' weights of every block, scaled or not."""
    factor = " * g" if scaled else ""
    return [
        *([_SCALE] if scaled else []),
        *(f"w{b} = {_row('w', blocks, b)}{factor}" for b in range(blocks)),
    ]


def _sums_of_blocks(dims: Dims) -> list[str]:
    """Load the rows' basis and sum basis · features over each block."""
    lines, seen = [], set()
    for k, b in _components(dims):
        lines.append(_basis(k, sum(dims)))
        lines.append(f"s{b} = {f'tl.fma(y{k}, f{k}, s{b})' if b in seen else f'y{k} * f{k}'}")
        seen.add(b)
    return lines


@cache
def to_atoms_kernel(dims: Dims, dtype: torch.dtype, scaled: bool = False) -> Any:
    """Return the kernel of to_atoms for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_atoms", "w", "basis", scaled=scaled), _HEAD]
    lines += [f"    s{k} = tl.zeros((ROWS, BLOCK), dtype=ACC)" for k in range(d)]
    lines += [_LOOP]
    lines += [f"        {line}" for line in _weights(r, scaled)]
    for k, b in _components(dims):
        lines.append(f"        {_basis(k, d)}")
        lines.append(f"        s{k} = tl.fma(y{k}, w{b}, s{k})")
    lines += [
        f"    tl.store(out + (i * {d} + {k}) * C + u, tl.sum(s{k}, axis=0), mask=inside)" for k in range(d)
    ]
    return build("to_atoms", lines, dtype)


@cache
def to_weights_kernel(dims: Dims, dtype: torch.dtype, scaled: bool = False) -> Any:
    """Return the kernel of to_weights for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_weights", "basis", "features", scaled=scaled), _HEAD]
    lines += [f"    {_features(k, d)}" for k in range(d)]
    lines += [_LOOP]
    lines += [f"        {line}" for line in [*([_SCALE] if scaled else []), *_sums_of_blocks(dims)]]
    factor = " * g" if scaled else ""
    lines += [
        f"        tl.store(out + (e * {r} + {b})[:, None] * C + u[None, :], s{b}{factor}, mask=both)"
        for b in range(r)
    ]
    return build("to_weights", lines, dtype)


@cache
def to_scalars_kernel(dims: Dims, dtype: torch.dtype) -> Any:
    """Return the kernel of to_scalars for blocks of these sizes."""
    d, r = sum(dims), len(dims)
    lines = [_signature("to_scalars", "w", "basis", "features"), _HEAD]
    lines += [f"    {_features(k, d)}" for k in range(d)]
    lines += [_LOOP]
    lines += [f"        {line}" for line in [*_weights(r, False), *_sums_of_blocks(dims)]]
    lines += ["        t = w0 * s0", *(f"        t = tl.fma(w{b}, s{b}, t)" for b in range(1, r))]
    lines += ["        tl.store(out + e[:, None] * C + u[None, :], t, mask=both)"]
    return build("to_scalars", lines, dtype)


@cache
def to_basis_kernel(
    dims: Dims, dtype: torch.dtype, single: bool, scaled: bool = False, slabs: bool = False
) -> Any:
    """Return the kernel of to_basis; ``single`` when one block holds all channels, so features stay in registers.

    ``slabs``: the features lie as (D, N, C) in memory.
    """
    d, r = sum(dims), len(dims)
    lines = [_signature("to_basis", "w", "features", scaled=scaled), _HEAD]
    features, weights = [_features(k, d, slabs) for k in range(d)], _weights(r, scaled)
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
def to_scalars_backward_kernel(dims: Dims, dtype: torch.dtype, started: bool = False) -> Any:
    """Return the kernel of all gradients of to_scalars, for tile configs whose block holds all channels.

    ``started``: the gradient by w is added to ``by_w``, its last operand before the offsets.
    """
    d, r = sum(dims), len(dims)
    given = ("w", "basis", "features", "scale", *(("by_w",) if started else ()), "offsets")
    names = ", ".join((*given, "out", "out_basis", "out_features"))
    lines = [f"def to_scalars_backward({names}, C, S, {_CONSTANTS}):"]
    lines += [_HEAD]
    for k in range(d):
        lines += [f"    {_features(k, d)}", f"    a{k} = tl.zeros((ROWS, BLOCK), dtype=ACC)"]
    lines += [_LOOP]
    lines += [f"        {line}" for line in [*_weights(r, True), *_sums_of_blocks(dims)]]
    for b in range(r):
        value = f"tl.fma(s{b}, g, {_row('by_w', r, b)})" if started else f"s{b} * g"
        lines.append(f"        tl.store(out + (e * {r} + {b})[:, None] * C + u[None, :], {value}, mask=both)")
    for k, b in _components(dims):
        lines.append(f"        tl.store(out_basis + e * {d} + {k}, tl.sum(w{b} * f{k}, axis=1), mask=real)")
        lines.append(f"        a{k} = tl.fma(y{k}, w{b}, a{k})")
    lines += [
        f"    tl.store(out_features + (i * {d} + {k}) * C + u, tl.sum(a{k}, axis=0), mask=inside)"
        for k in range(d)
    ]
    return build("to_scalars_backward", lines, dtype)


@cache
def to_scalars_second_kernel(dims: Dims, dtype: torch.dtype) -> Any:
    """Return the kernel of the gradients by w, features and scale of the gradients of to_scalars."""
    d, r = sum(dims), len(dims)
    given = "w, basis, features, scale, by_w, by_basis, by_features, offsets, out, out_features, out_scale"
    lines = [f"def to_scalars_second({given}, C, S, {_CONSTANTS}):", _HEAD]
    for k in range(d):
        other = _features(k, d).replace("features", "by_features").replace(f"f{k} =", f"v{k} =")
        lines += [f"    {_features(k, d)}", f"    {other}", f"    a{k} = tl.zeros((ROWS, BLOCK), dtype=ACC)"]
    lines += [_LOOP, f"        {_SCALE}", "        t = tl.zeros((ROWS, BLOCK), dtype=ACC)"]
    for b in range(r):
        inside = [k for k, block in _components(dims) if block == b]
        body = [f"x = {_row('w', r, b)}", f"h = {_row('by_w', r, b)}", "gx = g * x", "gh = g * h"]
        for n, k in enumerate(inside):
            body += [_basis(k, d), _basis(k, d).replace("basis", "by_basis").replace(f"y{k} =", f"z{k} =")]
            body += [
                f"s = {f'tl.fma(y{k}, f{k}, s)' if n else f'y{k} * f{k}'}",
                f"p = {f'tl.fma(z{k}, f{k}, p)' if n else f'z{k} * f{k}'}",
                f"p = tl.fma(y{k}, v{k}, p)",
                f"a{k} = tl.fma(z{k}, gx, tl.fma(y{k}, gh, a{k}))",
            ]
        body += [
            f"tl.store(out + (e * {r} + {b})[:, None] * C + u[None, :], p * g, mask=both)",
            "t = tl.fma(x, p, tl.fma(h, s, t))",
        ]
        lines += [f"        {line}" for line in body]
    lines += ["        tl.store(out_scale + e[:, None] * C + u[None, :], t, mask=both)"]
    lines += [
        f"    tl.store(out_features + (i * {d} + {k}) * C + u, tl.sum(a{k}, axis=0), mask=inside)"
        for k in range(d)
    ]
    return build("to_scalars_second", lines, dtype)
