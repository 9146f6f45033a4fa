"""Triton kernel of the gradients of the fused edge layer by what belongs to edges and atoms."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"

from __future__ import annotations

import triton
import triton.language as tl

from equitensor.backends.triton.edge_layer_kernels import (
    block_of_degree,
    dot,
    first_layer,
    read_scalars,
    second_layer,
)


@triton.jit
def _from_image(
    g_out,
    last,
    e,
    real,
    h,
    OUT: tl.constexpr,
    HC: tl.constexpr,
    M: tl.constexpr,
    OB: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the hidden layer's gradient (M, HC) from the image's."""
    if OUT == 1:
        g = tl.load(g_out + e, mask=real, other=0.0)[:, None] * tl.load(last + h)[None, :]
    else:
        g = tl.zeros((M, HC), dtype=last.dtype.element_ty)
        for ob in tl.range(0, OUT, OB, num_stages=STAGES, disable_licm=True):
            o = ob + tl.arange(0, OB)
            rows = tl.load(g_out + e[:, None] * OUT + o[None, :], mask=real[:, None], other=0.0)
            g = dot(rows, tl.load(last + h[None, :] * OUT + o[:, None]), g, PRECISION)
    return g


@triton.jit
def _add_column(tile, column, place, WIDTH: tl.constexpr):
    """Add (M,) to one column of (M, WIDTH)."""
    chosen = tl.where(tl.arange(0, WIDTH) == place, 1.0, 0.0).to(tile.dtype)
    return tile + chosen[None, :] * column[:, None]


@triton.jit
def _from_density(
    g,
    g_basis,
    hidden,
    g_sums,
    basis,
    e,
    real,
    h,
    D: tl.constexpr,
    DP: tl.constexpr,
    H: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradients of the hidden layer and of the basis, with what the density's adds to them."""
    k = tl.arange(0, DP)
    y = tl.load(basis + e[:, None] * D + k[None, :], mask=real[:, None] & (k < D)[None, :], other=0.0)
    rows = tl.load(g_sums + k[:, None] * H + h[None, :], mask=(k < D)[:, None], other=0.0)
    g = dot(y, rows, g, PRECISION)
    # by sums: as a product its operands, as deep as the hidden layer is wide, would fill the registers
    for c in tl.range(0, D, num_stages=1):
        column = tl.sum(hidden * tl.load(g_sums + c * H + h)[None, :], axis=1)
        g_basis = _add_column(g_basis, column, c, DP)
    return g, g_basis


@triton.jit
def _through_hidden(
    g2,
    g_x,
    g_read,
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
    HB: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Return the gradients of x and of the read scalars with what the columns ``h`` of the hidden layer add.

    The first hidden layer is formed again, block by block.
    """
    s = tl.arange(0, S)
    u = tl.arange(0, C)
    for hb in tl.range(0, H, HB, num_stages=STAGES, disable_licm=True):
        b = hb + tl.arange(0, HB)
        z = first_layer(x, read, first, e, real, b, S, C, H, SB, PRECISION)
        s1 = 1.0 / (1.0 + tl.exp(-z))
        g1 = dot(g2, tl.load(second + b[None, :] * H + h[:, None]), tl.zeros_like(z), PRECISION)
        g1 = g1 * (s1 * (1.0 + z * (1.0 - s1)))
        g_x = dot(g1, tl.load(first + s[None, :] * H + b[:, None]), g_x, PRECISION)
        g_read = dot(g1, tl.load(first + (S + u)[None, :] * H + b[:, None]), g_read, PRECISION)
    return g_x, g_read


@triton.jit
def _through_read(
    g_read,
    g_basis,
    total,
    w,
    basis,
    features,
    out_w,
    e,
    real,
    C: tl.constexpr,
    R: tl.constexpr,
    DP: tl.constexpr,
    M: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Store the gradient of w, and return those of the basis and of the features with what the tile adds."""
    u = tl.arange(0, C)
    k = tl.arange(0, DP)
    for ell in tl.static_range(R):
        t = block_of_degree(basis, features, e, real, ell, C, R, M)
        at = (e[:, None] * R + ell) * C + u[None, :]
        tl.store(out_w + at, t * g_read, mask=real[:, None])
        v = tl.load(w + at, mask=real[:, None], other=0.0) * g_read
        mine = (k >= ell * ell) & (k < (ell + 1) * (ell + 1))
        for m in tl.static_range(2 * ell + 1):
            row = tl.load(features + (ell * ell + m) * C + u)
            g_basis = _add_column(g_basis, tl.sum(v * row[None, :], axis=1), ell * ell + m, DP)
        where = basis + e[None, :] * (R * R) + k[:, None]
        y = tl.load(where, mask=real[None, :] & mine[:, None], other=0.0)
        total = dot(y, v, total, PRECISION)
    return g_basis, total


@triton.jit
def edge_layer_backward_kernel(
    x,
    w,
    basis,
    features,
    offsets,
    first,
    second,
    last,
    g_out,
    g_sums,
    out_x,
    out_w,
    out_basis,
    out_features,
    S: tl.constexpr,
    C: tl.constexpr,
    R: tl.constexpr,
    H: tl.constexpr,
    OUT: tl.constexpr,
    DP: tl.constexpr,
    SUMS: tl.constexpr,
    M: tl.constexpr,
    SB: tl.constexpr,
    HC: tl.constexpr,
    HB: tl.constexpr,
    OB: tl.constexpr,
    STAGES: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Compute the gradients by x, w, basis and features, with the hidden layers computed again."""
    i = tl.program_id(0).to(tl.int64)
    begin, end = tl.load(offsets + i), tl.load(offsets + i + 1)
    k, u, s, e = tl.arange(0, DP), tl.arange(0, C), tl.arange(0, S), tl.arange(0, M)
    D: tl.constexpr = R * R
    f_i, gs_i = features + i * D * C, g_sums + i * D * H
    total = tl.zeros((DP, C), dtype=x.dtype.element_ty)
    for start in tl.range(begin, end, M, num_stages=1, disable_licm=True):
        real = e < end - start
        x_t, w_t, w_out, y_t = x + start * S, w + start * R * C, out_w + start * R * C, basis + start * D
        read = read_scalars(w_t, y_t, f_i, e, real, C, R, M)
        g_basis, g_read = tl.zeros((M, DP), dtype=read.dtype), tl.zeros((M, C), dtype=read.dtype)
        g_x = tl.zeros((M, S), dtype=read.dtype)
        for column in tl.range(0, H, HC, num_stages=1, disable_licm=True):
            h = column + tl.arange(0, HC)
            z2 = second_layer(x_t, read, first, second, e, real, h, S, C, H, SB, HC, HB, STAGES, M, PRECISION)
            s2 = 1.0 / (1.0 + tl.exp(-z2))
            g = _from_image(g_out + start * OUT, last, e, real, h, OUT, HC, M, OB, STAGES, PRECISION)
            if SUMS:
                g, g_basis = _from_density(g, g_basis, z2 * s2, gs_i, y_t, e, real, h, D, DP, H, PRECISION)
            g2 = g * (s2 * (1.0 + z2 * (1.0 - s2)))
            g_x, g_read = _through_hidden(
                g2, g_x, g_read, x_t, read, first, second, e, real, h, S, C, H, SB, HB, STAGES, PRECISION
            )
        tl.store(out_x + start * S + e[:, None] * S + s[None, :], g_x, mask=real[:, None])
        g_basis, total = _through_read(
            g_read, g_basis, total, w_t, y_t, f_i, w_out, e, real, C, R, DP, M, PRECISION
        )
        where = out_basis + start * D + e[:, None] * D + k[None, :]
        tl.store(where, g_basis, mask=real[:, None] & (k < D)[None, :])
    tl.store(out_features + (i * D + k[:, None]) * C + u[None, :], total, mask=(k < D)[:, None])
