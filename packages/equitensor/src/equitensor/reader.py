"""Several sums to_scalars with the same w, whose gradients by it are summed by the kernels that make them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equitensor.dispatch import SOURCES, refuse_forward_mode
from equitensor.edge_atom import _blocks, _check
from equitensor.gradients import SCALARS_BACKWARD
from equitensor.ops import OPERATORS, TABLE


class ScalarReader:
    """Calls of :func:`to_scalars` with one ``w``, one after the other.

    Values and derivatives are those of :func:`to_scalars`. The gradient of a later call by ``w`` is handed to the
    backward pass of the earlier one, which adds to it: on a GPU no sum (E, R, C) makes a way through memory of its own.

    Parameters
    ----------
    w : Tensor, (E, R, C)
        Weights per edge, block and channel.

    Examples
    --------
    >>> import torch
    >>> from equitensor import row_offsets
    >>> centers = torch.tensor([0, 0, 2])
    >>> read = ScalarReader(torch.ones(3, 2, 1))
    >>> geometry = torch.ones(3, 4), torch.ones(3, 4, 1), centers, row_offsets(centers, 3)
    >>> read(*geometry)[0], read(*geometry)[0]
    (tensor([4.]), tensor([4.]))
    """

    def __init__(self, w: Tensor):
        self.w = w
        self._link: Tensor | None = None

    def __call__(
        self,
        basis: Tensor,
        features: Tensor,
        centers: Tensor,
        offsets: Tensor,
        dims: Sequence[int] | None = None,
    ) -> Tensor:
        """Return ``to_scalars(w, basis, features, centers, offsets, dims)``."""
        w = self.w
        sizes = _blocks("to_scalars", dims, w.shape[1] if w.dim() == 3 else None, basis.shape[-1])
        _check("to_scalars", {"w": w, "basis": basis, "features": features}, sizes, centers, offsets)
        out: Tensor
        out, self._link = _Read.apply(w, self._link, basis, features, centers, offsets, sizes)  # type: ignore[no-untyped-call]
        return out


class _Read(torch.autograd.Function):
    """to_scalars of w, and w again, for the next link; the gradient by w goes to ``link``, which equals w, if given."""

    @staticmethod
    def forward(
        w: Tensor,
        link: Tensor | None,
        basis: Tensor,
        features: Tensor,
        centers: Tensor,
        offsets: Tensor,
        dims: list[int],
    ) -> tuple[Tensor, Tensor]:
        out = OPERATORS["to_scalars"](w, basis, features, centers, offsets, dims, SOURCES)
        link = w if link is None else link
        return out, link.view_as(link)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        ctx.set_materialize_grads(False)
        w, link, *tensors, ctx.dims = inputs
        ctx.save_for_backward(w, *tensors)
        ctx.place = 0 if link is None else 1

    @staticmethod
    def backward(ctx: Any, *cotangents: Tensor | None) -> tuple[Tensor | None, ...]:
        g, later = cotangents
        needed = ctx.needs_input_grad[ctx.place], *ctx.needs_input_grad[2:4]
        by_w, *others = (later, None, None) if g is None else _gradients(ctx, g, later, needed)
        first = (by_w, None) if ctx.place == 0 else (None, by_w)
        return *first, *others, None, None, None


def _gradients(
    ctx: Any, g: Tensor, later: Tensor | None, needed: tuple[bool, ...]
) -> Sequence[Tensor | None]:
    """Return the gradients by w, to which ``later`` is added, by basis and by features, or None."""
    refuse_forward_mode(g)
    saved = ctx.saved_tensors
    if all(needed):
        w, basis, features, centers, offsets = saved
        found: tuple[Tensor, ...] = SCALARS_BACKWARD(
            w, basis, features, g, centers, offsets, ctx.dims, later, SOURCES
        )
        return found
    single: list[Tensor | None] = [None] * 3
    for n, gradient in enumerate(TABLE["to_scalars"].gradients):
        if needed[n]:
            operator, arguments = gradient(g, *saved, ctx.dims)
            single[n] = OPERATORS[operator](*arguments, SOURCES)
    if single[0] is not None and later is not None:
        single[0] = later + single[0]
    return single
