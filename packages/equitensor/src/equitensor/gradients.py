"""Operators of all gradients of to_scalars and of the gradients of these: one pass where a backend has it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from equitensor.backends.scaled import one_by_one, second_order
from equitensor.dispatch import (
    decompose_when_compiled,
    implementation,
    lowered,
    outside_autocast,
    refuse_forward_mode,
)
from equitensor.ops import OPERATORS, TABLE, backend_value


def _apart(sources: str, *names: str) -> Iterator[Callable[..., Tensor]]:
    """Return operators of one sum each, without their last argument."""
    return (partial(_call, name, sources) for name in names)


def _call(name: str, sources: str, *arguments: Any) -> Tensor:
    out: Tensor = OPERATORS[name](*arguments, sources)
    return out


def _backward_apart(sources: str, *given: Any) -> tuple[Tensor, ...]:
    return one_by_one(*_apart(sources, "scaled_to_atoms", "scaled_to_weights", "scaled_to_basis"))(*given)


def _second_apart(sources: str, *given: Any) -> tuple[Tensor, ...]:
    return second_order(*_apart(sources, "to_scalars", "scaled_to_atoms", "scaled_to_weights"))(*given)


def _register(
    name: str, tensors: str, start: bool, apart: Callable[..., tuple[Tensor, ...]], fake: Any
) -> CustomOpDef:
    """Register an operator of three gradients; ``apart`` computes them by operators of one sum each."""
    names = f"{tensors} centers offsets".split()
    count = len(names) + (2 if start else 1)

    def compute(*arguments: Any) -> tuple[Tensor, ...]:
        first, *rest = (backend_value(a) for a in arguments[:count])
        with outside_autocast(first):
            out: tuple[Tensor, ...] = getattr(implementation(first), name)(first, *rest)
            return out

    def decomposed(*arguments: Any) -> tuple[Tensor, ...]:
        if not lowered(arguments[0]):
            return compute(*arguments)
        return apart(*arguments[count:] or ("",), *arguments[:count])

    listed = ", ".join(f"Tensor {n}" for n in names) + ", SymInt[] dims"
    schema = (
        f'({listed}{", Tensor? start=None" if start else ""}, str sources="") -> (Tensor, Tensor, Tensor)'
    )
    op = torch.library.custom_op(f"equitensor::{name}", compute, mutates_args=(), schema=schema)
    op.register_fake(fake)
    decompose_when_compiled(op, decomposed, lowering=False)
    return op


def _save(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:6])
    ctx.rest = inputs[6], inputs[8]


def _backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
    *operands, centers, offsets = ctx.saved_tensors
    found: list[Tensor | None] = [None] * 4
    missing = _at_once(ctx, cotangents, found)
    for single, h in zip(TABLE["to_scalars"].gradients, cotangents, strict=True):
        if h is None:
            continue
        refuse_forward_mode(h)
        w, basis, features, scale = operands
        name, (*tensors, _, _, _) = single(scale, w, basis, features, centers, offsets, None)
        places = [next(n for n, t in enumerate(operands) if t is tensor) for tensor in tensors]
        rest = (centers, offsets, *ctx.rest[:1])
        for place, gradient in zip(places, TABLE[name].gradients, strict=True):
            if ctx.needs_input_grad[place] and place in missing:
                operator, arguments = gradient(h, *tensors, *rest)
                term = OPERATORS[operator](*arguments, *ctx.rest[1:])
                before = found[place]
                found[place] = term if before is None else before + term
    others: list[Tensor | None] = [None] * (len(ctx.needs_input_grad) - 4)  # those given
    if ctx.needs_input_grad[7:8] == (True,):
        others[3] = cotangents[0]
    return (*found, *others)


def _at_once(ctx: Any, cotangents: Sequence[Tensor | None], found: list[Tensor | None]) -> set[int]:
    """Put the gradients by w, features and scale at their places if all are needed; return the other places.

    With a graph of its own (``create_graph``) each gradient is computed by operators that have derivatives.
    """
    needed = ctx.needs_input_grad
    if (
        torch.is_grad_enabled()
        or any(h is None for h in cotangents)
        or not (needed[0] and needed[2] and needed[3])
    ):
        return {0, 1, 2, 3}
    *operands, centers, offsets = ctx.saved_tensors
    dims, sources = ctx.rest
    found[0], found[2], found[3] = SECOND(*operands, *cotangents, centers, offsets, dims, sources)
    return {1}


def _like(*places: int) -> Callable[..., tuple[Tensor, ...]]:
    """Return the fake implementation of an operator whose results are like these arguments."""
    return lambda *given: tuple(given[n].new_empty(given[n].shape) for n in places)


SCALARS_BACKWARD = _register(
    "to_scalars_backward", "w basis features scale", True, _backward_apart, _like(0, 1, 2)
)
"""All gradients of to_scalars, the derivatives of T by w, basis and features; ``start`` is added to the one by w."""
SCALARS_BACKWARD.register_autograd(_backward, setup_context=_save)

SECOND = _register(
    "to_scalars_second",
    "w basis features scale by_w by_basis by_features",
    False,
    _second_apart,
    _like(0, 2, 3),
)
"""The gradients by w, features and scale of the three gradients of to_scalars, whose cotangents are ``by_…``."""
