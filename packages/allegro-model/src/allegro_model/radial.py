"""Radial functions: scaled lengths, the Bessel basis, the polynomial cutoff and ZBL repulsion."""

from __future__ import annotations

import math

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


def scaled_lengths(edge_vectors: Tensor, cutoffs: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return lengths (E,) Å and lengths over the cutoff of the edge's type pair (E,).

    ``cutoffs`` is a flat table over ordered pairs, or one number; ``pair`` (E,) indexes the table.
    """
    length = edge_vectors.square().sum(-1).sqrt()
    cutoff = cutoffs if cutoffs.numel() == 1 else cutoffs[pair]
    return length, length / cutoff


def zbl_edge_energy(length: Tensor, z_center: Tensor, z_neighbor: Tensor) -> Tensor:
    """Compute half of the screened nuclear repulsion of an edge, eV (the other half belongs to the reverse edge).

    Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985), with the constants of the LAMMPS
    page of ``pair_style zbl``; e²/4πε₀ = 14.399645 eV Å. ``length`` (E,) Å; atomic numbers (E,).
    """
    x = (z_center**0.23 + z_neighbor**0.23) * length / 0.46850
    screening = (
        0.02817 * torch.exp(-0.20162 * x)
        + 0.28022 * torch.exp(-0.40290 * x)
        + 0.50986 * torch.exp(-0.94229 * x)
        + 0.18175 * torch.exp(-3.19980 * x)
    )
    return 0.5 * 14.399645 * z_center * z_neighbor / length * screening


def inverse_sqrt(values: list[float]) -> list[float]:
    """Return 1/√v of each value."""
    return [1.0 / math.sqrt(v) for v in values]
