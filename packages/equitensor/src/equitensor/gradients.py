"""The operator of all gradients of to_scalars: one pass over the edges where a backend has it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from equitensor.dispatch import (
    decompose_when_compiled,
    implementation,
    lowered,
    outside_autocast,
    refuse_forward_mode,
)
from equitensor.ops import OPERATORS, TABLE, backend_value


def _register() -> CustomOpDef:
    """Register the operator of all three gradients of to_scalars, the derivative of T by w, basis and features."""

    def compute(*arguments: Any) -> tuple[Tensor, ...]:
        first, *rest = (backend_value(a) for a in arguments[:7])
        with outside_autocast(first):
            out: tuple[Tensor, ...] = implementation(first).to_scalars_backward(first, *rest)
            return out

    def separately(
        w: Tensor, basis: Tensor, features: Tensor, scale: Tensor, *rest: Any
    ) -> tuple[Tensor, ...]:
        calls = [f(scale, w, basis, features, *rest) for f in TABLE["to_scalars"].gradients]
        return tuple(OPERATORS[name](*arguments) for name, arguments in calls)

    def decomposed(*arguments: Any) -> tuple[Tensor, ...]:
        return separately(*arguments) if lowered(arguments[0]) else compute(*arguments)

    def fake(w: Tensor, basis: Tensor, features: Tensor, *_: Any) -> tuple[Tensor, ...]:
        return w.new_empty(w.shape), basis.new_empty(basis.shape), features.new_empty(features.shape)

    def save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.save_for_backward(*inputs[:6])
        ctx.rest = inputs[6:]

    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        *operands, centers, offsets = ctx.saved_tensors
        found: list[Tensor | None] = [None] * 4
        for single, h in zip(TABLE["to_scalars"].gradients, cotangents, strict=True):
            if h is None:
                continue
            refuse_forward_mode(h)
            w, basis, features, scale = operands
            name, (*tensors, _, _, _) = single(scale, w, basis, features, centers, offsets, None)
            places = [next(n for n, t in enumerate(operands) if t is tensor) for tensor in tensors]
            rest = (centers, offsets, *ctx.rest[:1])
            for place, gradient in zip(places, TABLE[name].gradients, strict=True):
                if ctx.needs_input_grad[place]:
                    operator, arguments = gradient(h, *tensors, *rest)
                    term = OPERATORS[operator](*arguments, *ctx.rest[1:])
                    before = found[place]
                    found[place] = term if before is None else before + term
        return (*found, *[None] * (len(ctx.needs_input_grad) - 4))

    tensors = "Tensor w, Tensor basis, Tensor features, Tensor scale, Tensor centers, Tensor offsets"
    schema = f'({tensors}, SymInt[] dims, str sources="") -> (Tensor, Tensor, Tensor)'
    op = torch.library.custom_op("equitensor::to_scalars_backward", compute, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(backward, setup_context=save)
    decompose_when_compiled(op, decomposed, lowering=False)
    return op


SCALARS_BACKWARD = _register()
