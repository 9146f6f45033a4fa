"""Registered operators of the fused edge layer: its value, and its gradients by what belongs to edges and atoms.

Both are composed of matrix products and edge–atom sums where there are no kernels for them. The gradients that are to
be differentiated again, and those by the matrices, are always composed, so derivatives of every order exist.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch.nn.functional import silu

from equitensor.dispatch import (
    SOURCES,
    decompose_when_compiled,
    fused_kernels,
    outside_autocast,
    refuse_forward_mode,
)
from equitensor.gradients import SCALARS_BACKWARD
from equitensor.ops import OPERATORS

_ARGUMENTS = (
    "Tensor x, Tensor w, Tensor basis, Tensor features, Tensor centers, Tensor offsets, "
    "Tensor first, Tensor second, Tensor last, bool density"
)
_TENSORS = 9
_MATRICES = slice(6, 9)


def _degrees(w: Tensor) -> list[int]:
    return [2 * ell + 1 for ell in range(w.shape[1])]


def _hidden(
    x: Tensor,
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    first: Tensor,
    second: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer's input (E, S + C) and what its hidden layers are before the nonlinearity, each (E, H)."""
    read = OPERATORS["to_scalars"](w, basis, features, centers, offsets, _degrees(w), SOURCES)
    given = torch.cat([x, read], 1)
    z1 = given @ first
    return given, z1, silu(z1) @ second


def _through_silu(g: Tensor, z: Tensor) -> Tensor:
    """Return the gradient by z of silu(z): torch's own operator of it has no derivative."""
    s = torch.sigmoid(z)
    return g * (s * (1 + z * (1 - s)))


def composed(*arguments: Any) -> tuple[Tensor, Tensor]:
    """Compute the layer as matrix products and edge–atom sums."""
    _, _, basis, _, centers, offsets, _, _, last, density = arguments
    *_, z2 = _hidden(*arguments[:8])
    hidden, components = silu(z2), basis.shape[1]
    out = hidden @ last if last.shape[1] > 1 else (hidden * last.flatten()).sum(1, keepdim=True)
    if not density:
        return out, hidden.new_empty(0, components, hidden.shape[1])
    rows = hidden.unsqueeze(1)
    return out, OPERATORS["to_atoms"](rows, basis, centers, offsets, [components], SOURCES)


def composed_gradients(
    g_out: Tensor, g_sums: Tensor, arguments: tuple[Any, ...], matrices: bool
) -> tuple[Tensor, ...]:
    """Compute the gradients by x, w, basis and features, and by the matrices if asked, in differentiable operations."""
    _, w, basis, features, centers, offsets, first, second, last, density = arguments
    given, z1, z2 = _hidden(*arguments[:8])
    rest, size = (centers, offsets), [basis.shape[1]]
    hidden = silu(z2)
    g_hidden = g_out @ last.t() if last.shape[1] > 1 else g_out * last.flatten()
    if density:
        g_hidden = g_hidden + OPERATORS["to_weights"](basis, g_sums, *rest, size, SOURCES).squeeze(1)
    g2 = _through_silu(g_hidden, z2)
    g1 = _through_silu(g2 @ second.t(), z1)
    g_given = g1 @ first.t()
    scalars = given.shape[1] - features.shape[2]
    g_x, g_read = g_given[:, :scalars], g_given[:, scalars:]
    g_w, g_basis, g_features = SCALARS_BACKWARD(
        w, basis, features, g_read, *rest, _degrees(w), sources=SOURCES
    )
    if density:
        g_basis = g_basis + OPERATORS["to_basis"](hidden.unsqueeze(1), g_sums, *rest, size, SOURCES)
    found = (g_x.contiguous(), g_w, g_basis, g_features)
    return (*found, given.t() @ g1, silu(z1).t() @ g2, hidden.t() @ g_out) if matrices else found


def _value(*arguments: Any) -> tuple[Tensor, Tensor]:
    arguments = arguments[: _TENSORS + 1]
    with outside_autocast(arguments[0]):
        kernels = fused_kernels(arguments[0])
        if kernels is None:
            return composed(*arguments)
        out: tuple[Tensor, Tensor] = kernels.edge_layer(*arguments)
        return out


def _gradients(g_out: Tensor, g_sums: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
    arguments = arguments[: _TENSORS + 1]
    with outside_autocast(g_out):
        kernels = fused_kernels(arguments[0])
        if kernels is None:
            return composed_gradients(g_out, g_sums, arguments, matrices=False)
        out: tuple[Tensor, ...] = kernels.edge_layer_backward(g_out, g_sums, *arguments)
        return out


def _register_gradients() -> CustomOpDef:
    """Register the operator of the gradients by x, w, basis and features; nothing differentiates it."""

    def fake(g_out: Tensor, g_sums: Tensor, *arguments: Any) -> tuple[Tensor, ...]:
        return tuple(t.new_empty(t.shape) for t in arguments[:4])

    schema = (
        f'(Tensor g_out, Tensor g_sums, {_ARGUMENTS}, str sources="") -> (Tensor, Tensor, Tensor, Tensor)'
    )
    op = torch.library.custom_op(
        "equitensor::edge_layer_backward", _gradients, mutates_args=(), schema=schema
    )
    op.register_fake(fake)
    decompose_when_compiled(op, _gradients, lowering=False)
    return op


def _register(gradients: CustomOpDef) -> CustomOpDef:
    """Register the operator of the layer's value."""

    def fake(*arguments: Any) -> tuple[Tensor, Tensor]:
        x, _, basis, features, _, _, _, second, last, density = arguments[: _TENSORS + 1]
        sums = features.shape[0] if density else 0, basis.shape[1], second.shape[1]
        return x.new_empty(x.shape[0], last.shape[1]), x.new_empty(sums)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:_TENSORS])
        ctx.rest = inputs[_TENSORS:]

    def backward(ctx: Any, g_out: Tensor, g_sums: Tensor) -> tuple[Tensor | None, ...]:
        refuse_forward_mode(g_out, g_sums)
        arguments = (*ctx.saved_tensors, ctx.rest[0])
        matrices = any(ctx.needs_input_grad[_MATRICES])
        if matrices or torch.is_grad_enabled():
            found = composed_gradients(g_out, g_sums, arguments, matrices)
        else:
            found = gradients(g_out, g_sums, *arguments, *ctx.rest[1:])
        by_place = [*found[:4], None, None, *(found[4:] or (None,) * 3)]
        wanted = ctx.needs_input_grad
        by_place += [None] * (len(wanted) - len(by_place))
        return tuple(g if needed else None for g, needed in zip(by_place, wanted, strict=True))

    schema = f'({_ARGUMENTS}, str sources="") -> (Tensor, Tensor)'
    op = torch.library.custom_op("equitensor::edge_layer", _value, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(backward, setup_context=save)
    decompose_when_compiled(op, _value, lowering=False)
    return op


BACKWARD = _register_gradients()
EDGE_LAYER = _register(BACKWARD)
