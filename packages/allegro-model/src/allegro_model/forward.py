"""The reassociated forward pass: scalars per edge, tensors per atom.

The tensor feature that layer k hands on is linear in the edge's two-body tensor V⁰ = w⁰·Y, through an operator of
the center atom alone. The scalar which a latent reads is therefore a covector U of the atom applied to V⁰:

    s_k[e,u] = Σ_lm  w⁰[e,l,u] · Y[e,lm] · U^k[c(e),lm,u]

and U^k is the layer's own covector t^k pulled back through the earlier layers' products, once per atom. The
density of a layer is a sum over edges of (hidden layer ⊗ Y), mapped to channels once per atom.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from allegro_model.fused import edge_energies
from allegro_model.mlp import hidden_layers
from allegro_model.pair import lennard_jones_edge_energy, zbl_edge_energy
from allegro_model.radial import (
    BesselWeights,
    SplineWeights,
    polynomial_cutoff,
    scaled_lengths,
    two_body_embedding,
)
from allegro_model.table import TableWeights, tabulated
from allegro_model.track import Layer
from equitensor import ScalarReader, row_offsets, spherical_harmonics, to_atoms


class Fixed(NamedTuple):
    """Settings of the forward pass that are not tensors."""

    l_max: int
    layers: tuple[Layer, ...]
    cutoff_exponent: float
    num_types: int
    uniform_cutoff: bool
    spline_span: int
    zbl: bool
    lennard_jones: tuple[float, str] | None  # exponent and style
    pair_cutoff_exponent: float
    embed_nonlinearity: str | None
    latent_nonlinearity: str | None
    readout_nonlinearity: str | None
    fused_layers: bool
    mlp_dtype: torch.dtype | None  # of the hidden layers, None: that of the features


class Folded(NamedTuple):
    """The weights as they are applied. H is the width of a hidden layer, R = l_max + 1, T the number of types.

    ``scalar_maps[k]`` takes the hidden layer k to the scalars s^k, or is empty where readers read the hidden layer
    itself; ``density_maps[k]`` takes the sums of hidden layer k to the density of layer k.
    """

    cutoffs: Tensor  # (T²,) float64, Å
    two_body: BesselWeights | SplineWeights | TableWeights
    embed_hidden: tuple[Tensor, ...]
    tensor_embed: Tensor  # (H, R, C)
    scalar_maps: tuple[tuple[Tensor, ...], ...]  # each (H, S) or none
    density_maps: tuple[Tensor, ...]  # (D, H, C), equal for components of one degree
    products: tuple[Tensor, ...]  # (P, C) or (P,)
    latent_hidden: tuple[tuple[Tensor, ...], ...]
    readout: tuple[Tensor, ...]
    density_norm: Tensor  # (T,), 1/√N̄
    energy_scales: Tensor  # (T,) float64, eV
    energy_shifts: Tensor  # (T,) float64, eV
    atomic_numbers: Tensor  # (T,) float64; 0 of types that are no elements
    lennard_jones: tuple[Tensor, ...]  # σ, ε and δ, each (T²,) float64, or none


def atom_energies(fixed: Fixed, w: Folded, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
    """Atom energies (N,) float64 eV of edges (E, 3) float64 Å; see :meth:`allegro_model.Allegro.forward`."""
    center, dtype = edge_index[0], w.tensor_embed.dtype
    offsets = row_offsets(center, types.shape[0])
    edge_types = types[edge_index]  # (2, E)
    pair = edge_types[0] * fixed.num_types + edge_types[1]

    cutoffs = w.cutoffs[:1] if fixed.uniform_cutoff else w.cutoffs
    length, x = scaled_lengths(edge_vectors, cutoffs, pair)
    envelope = polynomial_cutoff(x, fixed.cutoff_exponent)  # (E,)
    y = spherical_harmonics(fixed.l_max, edge_vectors, dtype=dtype)  # (E, D)

    hidden, two_body = two_body_features(fixed, w, x, envelope, pair)
    two_body = two_body.view(-1, *w.tensor_embed.shape[1:])  # (E, R, C)
    norm = w.density_norm[types]  # (N,)

    densities: list[Tensor] = []

    def covector(sums: Tensor) -> Tensor:
        """Return that of the next layer, (N, D, C), from the sums (N, D, H) of the hidden layer before it."""
        k = len(densities)
        densities.append(_density(sums, w.density_maps[k], norm))
        return _covector(fixed.layers[k], w.products, densities)

    layers = _fused_layers if fixed.fused_layers else _layers
    edge_energy = layers(fixed, w, hidden, two_body, y, covector, center, offsets)  # (E,)

    ones = y.new_ones(y.shape[0], 1)
    energy = to_atoms(edge_energy.view(-1, 1, 1), ones, center, offsets).flatten() * norm / 2**0.5
    energy = energy.double() * w.energy_scales[types] + w.energy_shifts[types]
    if fixed.zbl or fixed.lennard_jones is not None:
        if fixed.pair_cutoff_exponent != fixed.cutoff_exponent:
            envelope = polynomial_cutoff(x, fixed.pair_cutoff_exponent)
        pairs = (_pair_energies(fixed, w, length, edge_types, pair) * envelope).view(-1, 1, 1)
        energy = energy + to_atoms(pairs, ones.double(), center, offsets).flatten()
    return energy


def two_body_features(
    fixed: Fixed, w: Folded, x: Tensor, envelope: Tensor, pair: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the hidden layer (E, H) of edges of scaled lengths x, and the weights (E, R·C) of their tensors."""
    if isinstance(w.two_body, TableWeights):
        return tabulated(w.two_body, w.two_body.intervals.numel() // fixed.num_types**2, x, pair)
    embedding = two_body_embedding(w.two_body, fixed.spline_span, x, envelope, pair)  # (E, E_d)
    hidden = hidden_layers(embedding, w.embed_hidden, fixed.embed_nonlinearity, fixed.mlp_dtype)
    return hidden, hidden @ w.tensor_embed.flatten(1)


def _layers(
    fixed: Fixed,
    w: Folded,
    hidden: Tensor,
    two_body: Tensor,
    y: Tensor,
    covector: Callable[[Tensor], Tensor],
    center: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Return the energy of each edge before norm and scale, (E,)."""
    read_two_body, scalars = ScalarReader(two_body), [_apply(w.scalar_maps[0], hidden)]
    for k in range(len(fixed.layers)):
        features = covector(to_atoms(hidden.unsqueeze(1), y, center, offsets))  # (N, D, C)
        read = read_two_body(y, features, center, offsets)  # (E, C)
        hidden = torch.cat([*scalars, read], 1)
        hidden = hidden_layers(
            hidden, w.latent_hidden[k], fixed.latent_nonlinearity, fixed.mlp_dtype
        )  # (E, H)
        if k + 1 < len(fixed.layers):
            scalars.append(_apply(w.scalar_maps[k + 1], hidden))
    return _readout([*scalars, hidden], w.readout, fixed)


def _fused_layers(
    fixed: Fixed,
    w: Folded,
    hidden: Tensor,
    two_body: Tensor,
    y: Tensor,
    covector: Callable[[Tensor], Tensor],
    center: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Return the same, with a layer's work on edges as one operator."""
    scalars, sums = _apply(w.scalar_maps[0], hidden), to_atoms(hidden.unsqueeze(1), y, center, offsets)
    (head,) = w.readout
    given = (w.latent_hidden, w.scalar_maps[1:], head, scalars, two_body, y)
    return edge_energies(*given, covector, sums, center, offsets)


def _pair_energies(fixed: Fixed, w: Folded, length: Tensor, edge_types: Tensor, pair: Tensor) -> Tensor:
    """Return half of the pair potentials' energy of each edge, (E,) eV, without the cutoff."""
    parts = []
    if fixed.zbl:
        z = w.atomic_numbers[edge_types]
        parts.append(zbl_edge_energy(length, z[0], z[1]))
    if fixed.lennard_jones is not None:
        sigma, epsilon, delta = (table[pair] for table in w.lennard_jones)
        parts.append(lennard_jones_edge_energy(length, sigma, epsilon, delta, *fixed.lennard_jones))
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]


def _readout(parts: list[Tensor], matrices: tuple[Tensor, ...], fixed: Fixed) -> Tensor:
    """Return the readout of the concatenated parts, (E,).

    The last matrix is one column: products summed part by part, which a compiler forms where it computes each part.
    """
    *hidden, last = matrices
    if hidden:
        parts = [hidden_layers(torch.cat(parts, 1), hidden, fixed.readout_nonlinearity, fixed.mlp_dtype)]
    columns = torch.split(last.flatten(), [part.shape[1] for part in parts])
    terms = [(part * column).sum(1) for part, column in zip(parts, columns, strict=True)]
    total: Tensor = sum(terms[1:], terms[0])
    return total


def _apply(maps: tuple[Tensor, ...], x: Tensor) -> Tensor:
    for matrix in maps:
        x = x @ matrix
    return x


def _density(sums: Tensor, maps: Tensor, norm: Tensor) -> Tensor:
    """Γ[i,lm,u] = N̄^{-1/2} Σ_h sums[i,lm,h] map[lm,h,u], (N, D, C), of sums Σ_{e of i} hidden[e,h] Y[e,lm]."""
    # one batch per component, which is a view of the sums: no block of them is copied
    mapped = (sums.transpose(0, 1) @ maps).transpose(0, 1)
    return (mapped * norm.view(-1, 1, 1)).contiguous()


def _covector(layer: Layer, products: tuple[Tensor, ...], densities: list[Tensor]) -> Tensor:
    """U^k: the covector that reads layer k's scalar from the edge's two-body tensor, (N, D, C)."""
    weights, density = products[len(densities) - 1], densities[-1]
    factors = torch.cat(
        [
            (weights[row] * factor).expand(2 * ell + 1, density.shape[2])
            for ell, (row, factor) in enumerate(zip(layer.scalar_rows, layer.scalar_factors, strict=True))
        ]
    )
    covector = density * factors
    for step in layer.pull_backs:
        rows = products[step.layer]
        rows = rows if len(step.rows) == rows.shape[0] else torch.stack([rows[row] for row in step.rows])
        covector = step.product.pull_back(covector, densities[step.layer], rows)
    return covector
