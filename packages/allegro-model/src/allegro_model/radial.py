"""Radial functions: scaled lengths, the polynomial cutoff, and embeddings by Bessel functions and by splines."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor


def polynomial_cutoff(x: Tensor, p: float) -> Tensor:
    """Compute the envelope u(x), 1 at x = 0 and 0 with two vanishing derivatives at x ≥ 1.

    DimeNet, arXiv 2003.03123, eq. 8. ``x`` is a length over its cutoff, any shape.
    """
    a, b, c = -(p + 1) * (p + 2) / 2, p * (p + 2), -p * (p + 1) / 2
    return torch.where(x < 1.0, 1.0 + x**p * (a + x * (b + x * c)), torch.zeros_like(x))


def bessel_basis(x: Tensor, frequencies: Tensor) -> Tensor:
    """Compute sin(n π x)/(π x) for each n in ``frequencies`` (B,); x (E,) → (E, B) (arXiv 2003.03123, eq. 7)."""
    return torch.sinc(x.unsqueeze(-1) * frequencies) * frequencies


def spline_basis(x: Tensor, num_splines: int, span: int) -> Tensor:
    """Compute ((1 − cos 2πt)/2)² of each spline function, t from 0 to 1 over its support; x (E,) → (E, K).

    Function k lives on [k − span, k + 1]/K, so that all vanish with three derivatives at x ≥ 1. These are the
    functions of ``TwoBodySplineScalarEmbed`` of nequip-allegro.
    """
    lower = (torch.arange(num_splines, dtype=x.dtype, device=x.device) - span) / num_splines
    t = ((x.unsqueeze(-1) - lower) * (num_splines / (span + 1))).clamp(0.0, 1.0)
    return 0.25 * (1.0 - torch.cos(2.0 * math.pi * t)).square()


class BesselWeights(NamedTuple):
    """Weights of the embedding by Bessel functions."""

    frequencies: Tensor  # (B,) float64
    basis: Tensor  # (B, E_d)
    pairs: Tensor  # (T², E_d), both types' embeddings by ordered pair of types


class SplineWeights(NamedTuple):
    """Weights of the embedding by splines."""

    coefficients: Tensor  # (T², K, E_d)


def two_body_embedding(
    w: BesselWeights | SplineWeights, spline_span: int, x: Tensor, envelope: Tensor, pair: Tensor
) -> Tensor:
    """Return the embedding (E, E_d) of edges of scaled lengths x (E,) and type pairs (E,); 0 at the cutoff."""
    if isinstance(w, SplineWeights):  # whose functions vanish there themselves
        basis = spline_basis(x, w.coefficients.shape[1], spline_span).to(w.coefficients.dtype)
        return (basis.unsqueeze(1) @ w.coefficients[pair]).squeeze(1)
    radial = bessel_basis(x, w.frequencies) * envelope.unsqueeze(1)  # (E, B)
    return w.pairs[pair] * (radial.to(w.basis.dtype) @ w.basis)


def scaled_lengths(edge_vectors: Tensor, cutoffs: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths (E,) Å and lengths over the cutoff of the edge's type pair (E,).

    ``cutoffs`` is a flat table over ordered pairs, or one number; ``pair`` (E,) indexes the table.
    """
    length = edge_vectors.square().sum(-1).sqrt()
    cutoff = cutoffs if cutoffs.numel() == 1 else cutoffs[pair]
    return length, length / cutoff


def inverse_sqrt(values: list[float]) -> list[float]:
    """Return 1/√v of each value."""
    return [1.0 / math.sqrt(v) for v in values]
