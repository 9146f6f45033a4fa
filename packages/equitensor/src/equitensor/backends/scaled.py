"""Edge–atom sums with a scale (E, C) in terms of those without, and all gradients of to_scalars in terms of them."""

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
        w: Tensor, basis: Tensor, features: Tensor, scale: Tensor, *rest: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        return (
            scaled_to_weights(basis, features, scale, *rest),
            scaled_to_basis(w, features, scale, *rest),
            scaled_to_atoms(w, basis, scale, *rest),
        )

    return to_scalars_backward
