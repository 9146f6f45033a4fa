"""Reference implementations: every operation as one plain sum, in any floating dtype on any device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import silu

from equitensor.backends.scaled import one_by_one, scaled, second_order
from equitensor.irreps import irreps_dim, irreps_slices
from equitensor.paths import Path, Spec, admissible_paths
from equitensor.wigner import coupling


def expand_blocks(w: Tensor, dims: Sequence[int]) -> Tensor:
    """Repeat each of the R blocks of ``w`` (E, R, C) over its components, to (E, D, C) with D = Σ dims."""
    return torch.cat([w[:, r : r + 1].expand(-1, d, -1) for r, d in enumerate(dims)], 1)


def to_atoms(w: Tensor, basis: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """Compute (N, D, C): Σ over the edges of each center of w[e, r(k), u] · basis[e, k]."""
    out = w.new_zeros(offsets.shape[0] - 1, basis.shape[1], w.shape[2])
    return out.index_add(0, centers, torch.einsum("eku,ek->eku", expand_blocks(w, dims), basis))


def to_weights(
    basis: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """Compute (E, R, C): Σ over the components k of block r of basis[e, k] · features[c(e), k, u]."""
    terms = torch.einsum("ek,eku->eku", basis, features.index_select(0, centers))
    return torch.stack([block.sum(1) for block in torch.split(terms, list(dims), 1)], 1)


def to_basis(w: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """Compute (E, D): Σ over channels of w[e, r(k), u] · features[c(e), k, u]."""
    return torch.einsum("eku,eku->ek", expand_blocks(w, dims), features.index_select(0, centers))


def to_scalars(
    w: Tensor, basis: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """Compute (E, C): Σ over the components k of w[e, r(k), u] · basis[e, k] · features[c(e), k, u]."""
    return torch.einsum("eku,ek,eku->eu", expand_blocks(w, dims), basis, features.index_select(0, centers))


scaled_to_atoms, scaled_to_weights, scaled_to_basis = scaled(to_atoms, to_weights, to_basis)
to_scalars_backward = one_by_one(scaled_to_atoms, scaled_to_weights, scaled_to_basis)
to_scalars_second = second_order(to_scalars, scaled_to_atoms, scaled_to_weights)


def edge_layer(
    x: Tensor,
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    first: Tensor,
    second: Tensor,
    last: Tensor,
) -> tuple[Tensor, Tensor]:
    """Compute (E, O) and (N, D, H): the image and the density of a perceptron of x and the read scalars."""
    degrees = [2 * ell + 1 for ell in range(w.shape[1])]
    read = to_scalars(w, basis, features, centers, offsets, degrees)
    hidden = silu(silu(torch.cat([x, read], 1) @ first) @ second)
    return hidden @ last, to_atoms(hidden.unsqueeze(1), basis, centers, offsets, [basis.shape[1]])


def _coefficients(spec: Spec, path: Path, like: Tensor) -> Tensor:
    """Return the coefficients (a, b, o) of one path."""
    values = coupling(*(spec[s][path[s]][0] for s in range(3))).tolist()
    return torch.tensor(values, dtype=like.dtype, device=like.device)


def contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: Spec, slots: tuple[int, int, int]
) -> Tensor:
    """Compute the trilinear form without its operand ``slots[2]``; the given two belong to ``slots[:2]``."""
    where = [irreps_slices(s) for s in spec]
    i, j, k = slots
    formula = f"abo,z{'abo'[i]}u,z{'abo'[j]}u->z{'abo'[k]}u"
    out = first.new_zeros(first.shape[0], irreps_dim(spec[k]), first.shape[2])
    for weight, path in zip(weights.unbind(), admissible_paths(*spec), strict=True):
        a, b = first[:, where[i][path[i]]], second[:, where[j][path[j]]]
        term = torch.einsum(formula, _coefficients(spec, path, first), a, b)
        out[:, where[k][path[k]]] += weight * term
    return out


def contract_weights(x: Tensor, y: Tensor, g: Tensor, spec: Spec, coupled: bool) -> Tensor:
    """Compute (P, C), or (P,) when not ``coupled``: the derivative of the form by the path weights."""
    where = [irreps_slices(s) for s in spec]
    formula = "abo,zau,zbu,zou->u" if coupled else "abo,zau,zbu,zou->"
    rows = []
    for path in admissible_paths(*spec):
        a, b, o = (t[:, where[s][path[s]]] for s, t in enumerate((x, y, g)))
        rows.append(torch.einsum(formula, _coefficients(spec, path, x), a, b, o))
    return torch.stack(rows)
