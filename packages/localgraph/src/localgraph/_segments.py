"""Gather and sum rows by index: two operators, each the derivative of the other.

They are registered operators rather than ``index_select`` and ``index_add`` so that a compiler calls them
as they are: the CPU Inductor of torch 2.13 may schedule a reader of a scattered buffer before the scatter
(pytorch issue 185509), which cannot happen to an opaque call that returns a fresh tensor. Like other registered
operators with a derivative of their own they work with autograd, make_fx, torch.compile, torch.export and AOT
Inductor, and not under the transforms of torch.func.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("localgraph::gather_rows", mutates_args=())
def _gather(values: Tensor, index: Tensor) -> Tensor:
    return values.index_select(0, index)


@_gather.register_fake
def _(values: Tensor, index: Tensor) -> Tensor:
    return values.new_empty((index.shape[0], *values.shape[1:]))


@torch.library.custom_op("localgraph::segment_sum", mutates_args=())
def _segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    return values.new_zeros((num_segments, *values.shape[1:])).index_add_(0, index, values)


@_segment_sum.register_fake
def _(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    return values.new_empty((num_segments, *values.shape[1:]))


def _gather_setup(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
    values, index = inputs
    ctx.save_for_backward(index)
    ctx.num_rows = values.shape[0]


def _gather_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
    return _segment_sum(grad, ctx.saved_tensors[0], ctx.num_rows), None


def _segment_sum_setup(ctx: Any, inputs: tuple[Tensor, Tensor, int], output: Tensor) -> None:
    ctx.save_for_backward(inputs[1])


def _segment_sum_backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
    return _gather(grad, ctx.saved_tensors[0]), None, None


_gather.register_autograd(_gather_backward, setup_context=_gather_setup)
_segment_sum.register_autograd(_segment_sum_backward, setup_context=_segment_sum_setup)


def gather(values: Tensor, index: Tensor) -> Tensor:
    """Gather rows of ``values`` by index: ``out[e] = values[index[e]]``.

    Parameters
    ----------
    values : Tensor, (N, ...)
        Rows, of any trailing shape and dtype.
    index : Tensor, (E,) int64
        Row numbers in ``[0, N)``, on the same device; may repeat and come in any order.

    Returns
    -------
    Tensor, (E, ...)
        Differentiable in ``values`` to every order; the derivative is :func:`segment_sum`.

    Examples
    --------
    >>> gather(torch.tensor([1.0, 2.0]), torch.tensor([1, 1, 0]))
    tensor([2., 2., 1.])
    """
    rows: Tensor = _gather(values, index)
    return rows


def segment_sum(values: Tensor, index: Tensor, num_segments: int) -> Tensor:
    """Sum rows by index: ``out[i] = Σ_{e: index[e] = i} values[e]``, the transpose of :func:`gather`.

    Parameters
    ----------
    values : Tensor, (E, ...)
        Rows, of any trailing shape and dtype.
    index : Tensor, (E,) int64
        Segment of each row, in ``[0, num_segments)``; any order.
    num_segments : int
        Number of rows of the result; a segment that no row names is zero.

    Returns
    -------
    Tensor, (num_segments, ...)
        Differentiable in ``values`` to every order; the derivative is :func:`gather`. On the CPU the rows
        of a segment are added in the order in which they come, so the result is reproducible to the last
        bit; on other devices it is after ``torch.use_deterministic_algorithms(True)``.

    Examples
    --------
    >>> segment_sum(torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 2, 0]), 3)
    tensor([5., 0., 2.])
    """
    sums: Tensor = _segment_sum(values, index, num_segments)
    return sums
