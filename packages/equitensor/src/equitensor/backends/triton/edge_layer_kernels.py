"""Triton kernels of the fused edge layer: a program owns an atom, its edges pass in tiles, hidden layers stay on chip.

The first hidden layer is formed in blocks of columns, each of which is multiplied into the second at once.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def dot(a, b, sums, PRECISION: tl.constexpr):
    """Return sums + a @ b."""
    return tl.dot(a, b, sums, input_precision=PRECISION, out_dtype=sums.dtype)


@triton.jit
def read_scalars(w, basis, features, e, real, C: tl.constexpr, R: tl.constexpr, M: tl.constexpr):
    """Return Σ over components k of w[e, l(k), u] · basis[e, k] · features[i, k, u] of the tile's edges, (M, C)."""
    u = tl.arange(0, C)
    read = tl.zeros((M, C), dtype=w.dtype.element_ty)
    for ell in tl.static_range(R):
        t = block_of_degree(basis, features, e, real, ell, C, R, M)
        read += t * tl.load(w + (e[:, None] * R + ell) * C + u[None, :], mask=real[:, None], other=0.0)
    return read


@triton.jit
def block_of_degree(
    basis, features, e, real, ell: tl.constexpr, C: tl.constexpr, R: tl.constexpr, M: tl.constexpr
):
    """Return Σ over the components of degree ell of basis[e, k] · features[i, k, u], (M, C)."""
    u = tl.arange(0, C)
    t = tl.zeros((M, C), dtype=basis.dtype.element_ty)
    for m in tl.static_range(2 * ell + 1):
        y = tl.load(basis + e * (R * R) + (ell * ell + m), mask=real, other=0.0)
        t += y[:, None] * tl.load(features + (ell * ell + m) * C + u)[None, :]
    return t


@triton.jit
def first_layer(
    x,
    read,
    first,
    e,
    real,
    h,
    S: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    SB: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the columns ``h`` of [x, read] @ first, before the nonlinearity."""
    u = tl.arange(0, C)
    rows = tl.load(first + (S + u)[:, None] * H + h[None, :])
    z = tl.dot(read, rows, input_precision=PRECISION, out_dtype=read.dtype)
    for begin in tl.static_range(0, S, SB):
        s = begin + tl.arange(0, SB)
        given = tl.load(x + e[:, None] * S + s[None, :], mask=real[:, None], other=0.0)
        z = dot(given, tl.load(first + s[:, None] * H + h[None, :]), z, PRECISION)
    return z


@triton.jit
def second_layer(
    x,
    read,
    first,
    second,
    e,
    real,
    h,
    S: tl.constexpr,
    C: tl.constexpr,
    H: tl.constexpr,
    SB: tl.constexpr,
    HC: tl.constexpr,
    HB: tl.constexpr,
    STAGES: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the HC columns ``h`` of silu([x, read] @ first) @ second, (M, HC)."""
    z2 = tl.zeros((M, HC), dtype=read.dtype)
    for begin in tl.range(0, H, HB, num_stages=STAGES):
        b = begin + tl.arange(0, HB)
        z = first_layer(x, read, first, e, real, b, S, C, H, SB, PRECISION)
        rows = tl.load(second + b[:, None] * H + h[None, :])
        z2 = dot(z / (1.0 + tl.exp(-z)), rows, z2, PRECISION)
    return z2


@triton.jit
def edge_layer_kernel(
    x,
    w,
    basis,
    features,
    offsets,
    first,
    second,
    last,
    out,
    sums,
    S: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    H: tl.constexpr,
    OUT: tl.constexpr,
    DP: tl.constexpr,
    SUMS: tl.constexpr,
    M: tl.constexpr,
    SB: tl.constexpr,
    HB: tl.constexpr,
    OB: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the layer's value; see :func:`equitensor.edge_layer`."""
    i = tl.program_id(0).to(tl.int64)
    begin = tl.load(offsets + i)
    end = tl.load(offsets + i + 1)
    D: tl.constexpr = R * R
    f_i = features + i * D * C
    h = tl.arange(0, H)
    k = tl.arange(0, DP)
    total = tl.zeros((DP, H), dtype=x.dtype.element_ty)
    for start in tl.range(begin, end, M, num_stages=1):
        e = tl.arange(0, M)
        real = e < end - start
        x_t, w_t, y_t = x + start * S, w + start * R * C, basis + start * D
        read = read_scalars(w_t, y_t, f_i, e, real, C, R, M)
        z2 = second_layer(x_t, read, first, second, e, real, h, S, C, H, SB, H, HB, STAGES, M, PRECISION)
        a2 = z2 / (1.0 + tl.exp(-z2))
        if OUT == 1:
            tl.store(out + start * OUT + e, tl.sum(a2 * tl.load(last + h)[None, :], axis=1), mask=real)
        else:
            for ob in tl.range(0, OUT, OB, num_stages=STAGES):
                o = ob + tl.arange(0, OB)
                columns = tl.load(last + h[:, None] * OUT + o[None, :])
                value = tl.dot(a2, columns, input_precision=PRECISION, out_dtype=a2.dtype)
                tl.store(out + start * OUT + e[:, None] * OUT + o[None, :], value, mask=real[:, None])
        if SUMS:
            where = y_t + e[None, :] * D + k[:, None]
            y = tl.load(where, mask=real[None, :] & (k < D)[:, None], other=0.0)
            total = dot(y, a2, total, PRECISION)
    if SUMS:
        tl.store(sums + (i * D + k[:, None]) * H + h[None, :], total, mask=(k < D)[:, None])
