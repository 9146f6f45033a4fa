"""Triton kernels of two products in a row: what lies between them stays on chip.

A program owns a tile of rows. The inner matrix is formed in blocks of columns, each of which is multiplied into the
result at once.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _dot(a, b, sums, PRECISION: tl.constexpr):
    """Return sums + a @ b."""
    return tl.dot(a, b, sums, input_precision=PRECISION, out_dtype=sums.dtype)


@triton.jit
def _silu(y):
    """Return silu(y) and its derivative."""
    s = 1.0 / (1.0 + tl.exp(-y))
    a = y * s
    return a, s + a * (1.0 - s)


@triton.jit
def _add_part(
    z,
    x,
    matrix,
    e,
    real,
    h,
    ROW: tl.constexpr,
    K: tl.constexpr,
    H: tl.constexpr,
    KB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return z plus x, the K columns of a part, times the rows of the matrix from ROW, of the columns ``h``."""
    for begin in tl.static_range(0, K, KB):
        k = begin + tl.arange(0, KB)
        rows = tl.load(x + e[:, None] * K + k[None, :], mask=real[:, None], other=0.0)
        z = _dot(rows, tl.load(matrix + (ROW + k)[:, None] * H + h[None, :]), z, PRECISION)
    return z


@triton.jit
def hidden_layers_kernel(
    x0,
    x1,
    x2,
    first,
    second,
    slope,
    out,
    hidden,
    edges,
    K0: tl.constexpr,
    K1: tl.constexpr,
    K2: tl.constexpr,
    H: tl.constexpr,
    N: tl.constexpr,
    SILU: tl.constexpr,
    M: tl.constexpr,
    KB: tl.constexpr,
    HB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute z = silu(y = [x0, x1, x2] @ first) @ second: store silu'(y) and z, or silu'(z) and silu(z)."""
    start = tl.program_id(0).to(tl.int64) * M
    e, n = tl.arange(0, M), tl.arange(0, N)
    real = e < edges - start
    z = tl.zeros((M, N), dtype=out.dtype.element_ty)
    for begin in tl.range(0, H, HB, num_stages=1):
        h = begin + tl.arange(0, HB)
        y = tl.zeros((M, HB), dtype=out.dtype.element_ty)
        y = _add_part(y, x0 + start * K0, first, e, real, h, 0, K0, H, KB, PRECISION)
        if K1 > 0:
            y = _add_part(y, x1 + start * K1, first, e, real, h, K0, K1, H, KB, PRECISION)
        if K2 > 0:
            y = _add_part(y, x2 + start * K2, first, e, real, h, K0 + K1, K2, H, KB, PRECISION)
        a, derivative = _silu(y)
        tl.store(slope + start * H + e[:, None] * H + h[None, :], derivative, mask=real[:, None])
        z = _dot(a, tl.load(second + h[:, None] * N + n[None, :]), z, PRECISION)
    place = start * N + e[:, None] * N + n[None, :]
    if SILU:
        a, z = _silu(z)
        tl.store(hidden + place, a, mask=real[:, None])
    tl.store(out + place, z, mask=real[:, None])


@triton.jit
def hidden_layers_backward_kernel(
    g,
    slope,
    first,
    second,
    out,
    edges,
    K: tl.constexpr,
    KP: tl.constexpr,
    H: tl.constexpr,
    N: tl.constexpr,
    M: tl.constexpr,
    NB: tl.constexpr,
    HB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute ((g @ secondᵀ) · slope) @ firstᵀ, of K columns; KP is the power of two that holds them."""
    start = tl.program_id(0).to(tl.int64) * M
    e, k = tl.arange(0, M), tl.arange(0, KP)
    real, column = e < edges - start, k < K
    total = tl.zeros((M, KP), dtype=out.dtype.element_ty)
    for begin in tl.range(0, H, HB, num_stages=1):
        h = begin + tl.arange(0, HB)
        g1 = tl.zeros((M, HB), dtype=out.dtype.element_ty)
        for at in tl.static_range(0, N, NB):
            n = at + tl.arange(0, NB)
            rows = tl.load(g + start * N + e[:, None] * N + n[None, :], mask=real[:, None], other=0.0)
            g1 = _dot(rows, tl.load(second + h[None, :] * N + n[:, None]), g1, PRECISION)
        g1 *= tl.load(slope + start * H + e[:, None] * H + h[None, :], mask=real[:, None], other=0.0)
        matrix = tl.load(first + k[None, :] * H + h[:, None], mask=column[None, :], other=0.0)
        total = _dot(g1, matrix, total, PRECISION)
    tl.store(out + start * K + e[:, None] * K + k[None, :], total, mask=real[:, None] & column[None, :])
