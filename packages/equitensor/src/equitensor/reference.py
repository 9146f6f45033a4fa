"""The oracles: every operation as one plain sum, in any floating dtype on any device, slow and obvious."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equitensor.paths import coupling_table, irreps_dim
from equitensor.spec import Spec


def expand_blocks(w: Tensor, dims: Sequence[int]) -> Tensor:
    """Repeat each of the R blocks of ``w`` (E, R, C) over its components, to (E, D, C) with D = Σ dims."""
    return torch.cat([w[:, r : r + 1].expand(-1, d, -1) for r, d in enumerate(dims)], 1)


def to_atoms(w: Tensor, basis: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """(N, D, C): Σ over the edges of each centre of w[e, r(k), u] · basis[e, k]."""
    out = w.new_zeros(offsets.shape[0] - 1, basis.shape[1], w.shape[2])
    return out.index_add(0, centres, torch.einsum("eku,ek->eku", expand_blocks(w, dims), basis))


def to_weights(
    basis: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """(E, R, C): Σ over the components k of block r of basis[e, k] · features[c(e), k, u]."""
    terms = torch.einsum("ek,eku->eku", basis, features.index_select(0, centres))
    return torch.stack([block.sum(1) for block in terms.split(list(dims), 1)], 1)


def to_basis(w: Tensor, features: Tensor, centres: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """(E, D): Σ over channels of w[e, r(k), u] · features[c(e), k, u]."""
    return torch.einsum("eku,eku->ek", expand_blocks(w, dims), features.index_select(0, centres))


def _dense(spec: Spec, like: Tensor) -> Tensor:
    """Coefficients (P, A, B, O) of every path."""
    table = coupling_table(*spec)
    shape = (spec.num_paths, *(irreps_dim(s) for s in spec))
    dense = torch.zeros(shape, dtype=torch.float64)
    dense[table.path, table.a, table.b, table.o] = torch.from_numpy(table.value)
    return dense.to(like)


def contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: Spec, slots: tuple[int, int, int]
) -> Tensor:
    """The trilinear form without its operand ``slots[2]``; the given two belong to ``slots[:2]``."""
    names = "abo"
    i, j, k = (names[s] for s in slots)
    p = "pu" if weights.dim() == 2 else "p"
    return torch.einsum(f"{p},pabo,z{i}u,z{j}u->z{k}u", weights, _dense(spec, first), first, second)


def contract_weights(x: Tensor, y: Tensor, g: Tensor, spec: Spec, coupled: bool) -> Tensor:
    """(P, C), or (P,) when not ``coupled``: the derivative of the form by the path weights."""
    out = "pu" if coupled else "p"
    return torch.einsum(f"pabo,zau,zbu,zou->{out}", _dense(spec, x), x, y, g)
