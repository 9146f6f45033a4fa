"""Multilayer perceptrons without biases, with f(0) = 0 and weights scaled by gain/√fan_in in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

_ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "silu": nn.functional.silu,
    "gelu": nn.functional.gelu,
    "mish": nn.functional.mish,
    "tanh": torch.tanh,
}


class MLP(nn.Module):
    """A multilayer perceptron without biases: the function is zero where its input is.

    That property makes an edge's energy vanish smoothly at the cutoff (Allegro, Nat. Commun. 14, 579 (2023)).
    The weights are drawn from U(−√3, √3) and multiplied by gain/√fan_in where they are used; the gain is 1 in the
    first layer and in a linear network, and √2 behind a nonlinearity.

    Parameters
    ----------
    input_dim, output_dim : int
    depth, width : int
        Hidden layers and their width; ``depth=0`` is one matrix.
    nonlinearity : str or None
        ``"silu"``, ``"gelu"``, ``"mish"``, ``"tanh"`` or ``None``.
    dtype : torch.dtype
    """

    def __init__(
        self,
        input_dim: int,
        output_dim: int,
        depth: int,
        width: int,
        nonlinearity: str | None,
        dtype: torch.dtype,
    ):
        super().__init__()
        dims = [input_dim, *([width] * depth), output_dim]
        self.nonlinearity = nonlinearity
        self.weights = nn.ParameterList(
            nn.Parameter(torch.empty(i, o, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3)))
            for i, o in pairwise(dims)
        )
        self.alphas = tuple(
            (1.0 if nonlinearity is None or layer == 0 else math.sqrt(2)) / math.sqrt(fan_in)
            for layer, fan_in in enumerate(dims[:-1])
        )

    def scaled_weights(self) -> list[Tensor]:
        """Return the matrices as applied, each (in, out); those of a linear network multiplied into one."""
        scaled = [weight * alpha for weight, alpha in zip(self.weights, self.alphas, strict=True)]
        if self.nonlinearity is None and len(scaled) > 1:
            return [torch.linalg.multi_dot(scaled)]
        return scaled

    def forward(self, x: Tensor) -> Tensor:
        """Map (…, input_dim) to (…, output_dim)."""
        matrices = self.scaled_weights()
        return hidden_layers(x, matrices[:-1], self.nonlinearity) @ matrices[-1]


def hidden_layers(
    x: Tensor, matrices: Sequence[Tensor], nonlinearity: str | None, dtype: torch.dtype | None = None
) -> Tensor:
    """Apply each matrix and then the nonlinearity: the network without its last, linear, matrix.

    Computed in ``dtype`` where one is given; the result has the dtype of ``x``.
    """
    kept = x.dtype
    if dtype is not None and matrices:
        x, matrices = x.to(dtype), [matrix.to(dtype) for matrix in matrices]
    for matrix in matrices:
        x = x @ matrix
        if nonlinearity is not None:
            x = _ACTIVATIONS[nonlinearity](x)
    return x.to(kept)
