"""Registered edge-atom operators: one table of their operands, results and derivatives.

Each derivative is another of the three sums, so derivatives of every order exist.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from equitensor.dispatch import decompose_when_compiled, implementation, outside_autocast, refuse_forward_mode


class EdgeSum(NamedTuple):
    """One of the three partial contractions of T(w, basis, features)."""

    operands: tuple[str, str]
    shape: Callable[[Tensor, Tensor, Tensor, Sequence[int]], tuple[Any, ...]]
    """Shape of the result from both operands, offsets and dims."""
    gradients: tuple[tuple[str, Callable[..., tuple[Tensor, Tensor]]], ...]
    """For each operand, the sum that gives its gradient and that sum's operands from (first, second, g)."""


TABLE = {
    "to_atoms": EdgeSum(
        ("w", "basis"),
        lambda w, basis, offsets, dims: (offsets.shape[0] - 1, basis.shape[1], w.shape[2]),
        (("to_weights", lambda w, basis, g: (basis, g)), ("to_basis", lambda w, basis, g: (w, g))),
    ),
    "to_weights": EdgeSum(
        ("basis", "features"),
        lambda basis, features, offsets, dims: (basis.shape[0], len(dims), features.shape[2]),
        (
            ("to_basis", lambda basis, features, g: (g, features)),
            ("to_atoms", lambda basis, features, g: (g, basis)),
        ),
    ),
    "to_basis": EdgeSum(
        ("w", "features"),
        lambda w, features, offsets, dims: (w.shape[0], features.shape[1]),
        (("to_weights", lambda w, features, g: (g, features)), ("to_atoms", lambda w, features, g: (w, g))),
    ),
}


def _check_offsets(centers: Tensor, offsets: Tensor) -> None:
    """Refuse offsets of other edges, on the CPU: ATen validates them in part only."""
    if centers.device.type != "cpu":
        return
    edges, counts = centers.shape[0], offsets.diff()
    if (
        offsets.shape[0] == 0
        or int(offsets[0]) != 0
        or int(offsets[-1]) != edges
        or (counts.numel() and int(counts.min()) < 0)
        or not torch.equal(torch.repeat_interleave(counts, output_size=edges), centers)
    ):
        raise ValueError(
            "offsets must be row_offsets(centers, N) of these centers, got offsets of other edges, or centers "
            "that are not sorted or not in 0 … N − 1"
        )


def _compute_row_offsets(centers: Tensor, num_atoms: int) -> Tensor:
    return torch.searchsorted(centers, torch.arange(num_atoms + 1, device=centers.device))


@torch.library.custom_op("equitensor::row_offsets", mutates_args=())
def row_offsets(centers: Tensor, num_atoms: int) -> Tensor:
    """Compute :func:`equitensor.row_offsets`; refuse centers that are unsorted or out of range, on the CPU."""
    if centers.device.type == "cpu" and centers.shape[0]:
        low, high = int(centers[0]), int(centers[-1])
        if low < 0 or high >= num_atoms or bool((centers[1:] < centers[:-1]).any()):
            raise ValueError(
                f"centers must be sorted indices of {num_atoms} atoms, got "
                + ("some outside them" if low < 0 or high >= num_atoms else "an unsorted list")
            )
    return _compute_row_offsets(centers, num_atoms)


@row_offsets.register_fake
def _(centers: Tensor, num_atoms: int) -> Tensor:
    return centers.new_empty(num_atoms + 1)


decompose_when_compiled(row_offsets, _compute_row_offsets)


def _save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:4])
    ctx.rest = inputs[4:]


def _register(name: str, entry: EdgeSum) -> CustomOpDef:
    """Register the operator, its fake and its derivative."""

    def compute(
        first: Tensor,
        second: Tensor,
        centers: Tensor,
        offsets: Tensor,
        dims: Sequence[int],
        sources: str = "",
    ) -> Tensor:
        with outside_autocast(first):
            out: Tensor = getattr(implementation(first), name)(first, second, centers, offsets, dims)
            return out

    def checked(first: Tensor, second: Tensor, centers: Tensor, offsets: Tensor, *rest: Any) -> Tensor:
        _check_offsets(centers, offsets)
        return compute(first, second, centers, offsets, *rest)

    def fake(
        first: Tensor,
        second: Tensor,
        centers: Tensor,
        offsets: Tensor,
        dims: Sequence[int],
        sources: str = "",
    ) -> Tensor:
        return first.new_empty(entry.shape(first, second, offsets, dims))

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        refuse_forward_mode(g)
        first, second, centers, offsets = ctx.saved_tensors
        found = [
            OPERATORS[other](*operands(first, second, g), centers, offsets, *ctx.rest) if needed else None
            for needed, (other, operands) in zip(ctx.needs_input_grad[:2], entry.gradients, strict=True)
        ]
        return *found, None, None, None, None

    a, b = entry.operands
    schema = (
        f'(Tensor {a}, Tensor {b}, Tensor centers, Tensor offsets, SymInt[] dims, str sources="") -> Tensor'
    )
    op = torch.library.custom_op(f"equitensor::{name}", checked, mutates_args=(), schema=schema)
    op.register_fake(fake)
    op.register_autograd(backward, setup_context=_save)
    decompose_when_compiled(op, compute)
    return op


OPERATORS = {name: _register(name, entry) for name, entry in TABLE.items()}
