"""Edge–atom sums with a scale (E, C) in terms of those without, and gradients of to_scalars in terms of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

Sum = Callable[..., Tensor]
Gradients = Callable[..., tuple[Tensor, Tensor, Tensor]]


def scaled(to_atoms: Sum, to_weights: Sum, to_basis: Sum) -> tuple[Sum, Sum, Sum]:
    """Return the sums with a factor scale[e, u] of w or of the result, which they take behind their operands."""

    def scaled_to_atoms(w: Tensor, basis: Tensor, scale: Tensor, *rest: Any) -> Tensor:
        return to_atoms(w * scale.unsqueeze(1), basis, *rest)

    def scaled_to_weights(basis: Tensor, features: Tensor, scale: Tensor, *rest: Any) -> Tensor:
        return to_weights(basis, features, *rest) * scale.unsqueeze(1)

    def scaled_to_basis(w: Tensor, features: Tensor, scale: Tensor, *rest: Any) -> Tensor:
        return to_basis(w * scale.unsqueeze(1), features, *rest)

    return scaled_to_atoms, scaled_to_weights, scaled_to_basis


def one_by_one(scaled_to_atoms: Sum, scaled_to_weights: Sum, scaled_to_basis: Sum) -> Gradients:
    """Return the function of the gradients of to_scalars by w, basis and features, each a sum of its own."""

    def to_scalars_backward(
        w: Tensor,
        basis: Tensor,
        features: Tensor,
        scale: Tensor,
        centers: Tensor,
        offsets: Tensor,
        dims: Any,
        start: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        rest = centers, offsets, dims
        by_w = scaled_to_weights(basis, features, scale, *rest)
        return (
            by_w if start is None else start + by_w,
            scaled_to_basis(w, features, scale, *rest),
            scaled_to_atoms(w, basis, scale, *rest),
        )

    return to_scalars_backward


def second_order(to_scalars: Sum, scaled_to_atoms: Sum, scaled_to_weights: Sum) -> Gradients:
    """Return the function of the gradients of the three gradients of to_scalars, by w, features and scale."""

    def to_scalars_second(
        w: Tensor,
        basis: Tensor,
        features: Tensor,
        scale: Tensor,
        by_w: Tensor,
        by_basis: Tensor,
        by_features: Tensor,
        *rest: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        weights = scaled_to_weights(by_basis, features, scale, *rest)
        atoms = scaled_to_atoms(by_w, basis, scale, *rest)
        scalars = to_scalars(by_w, basis, features, *rest) + to_scalars(w, by_basis, features, *rest)
        return (
            weights + scaled_to_weights(basis, by_features, scale, *rest),
            atoms + scaled_to_atoms(w, by_basis, scale, *rest),
            scalars + to_scalars(w, basis, by_features, *rest),
        )

    return to_scalars_second
