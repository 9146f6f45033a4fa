"""The operations in ATen terms that neither scatter nor materialize E·D·C: segment sums over sorted edges."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

from equitensor.backends.scaled import one_by_one, scaled, second_order
from equitensor.irreps import irreps_slices
from equitensor.paths import Spec, admissible_paths
from equitensor.wigner import coupling


def to_atoms(w: Tensor, basis: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """Compute segment sums by one weighted embedding bag: bag (k, i) sums rows w[e, r(k)] with weights basis[e, k].

    ATen runs it in order of edges, so it is deterministic, and a compiler sees no scatter.
    """
    e, r, c = w.shape
    n, d = offsets.shape[0] - 1, basis.shape[1]
    edges = torch.arange(e, device=w.device)
    rows = torch.cat([(edges * r + b).expand(size, -1) for b, size in enumerate(dims)])
    bags = torch.arange(d, device=w.device).unsqueeze(1) * e + offsets[:-1]
    out: Tensor = torch.ops.aten._embedding_bag.default(
        w.reshape(e * r, c), rows.reshape(-1), bags.reshape(-1), False, 0, False, basis.t().reshape(-1), False
    )[0]
    return out.reshape(d, n, c).transpose(0, 1).contiguous()


def _block_starts(edges: int, dims: Sequence[int], like: Tensor) -> Tensor:
    """Return where the components of each edge and block begin, (E, R)."""
    starts = torch.tensor([sum(dims[:b]) for b in range(len(dims))], device=like.device)
    return (torch.arange(edges, device=like.device) * sum(dims)).unsqueeze(1) + starts


def to_weights(
    basis: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """Compute one weighted embedding bag: bag (e, r) sums rows features[c(e), k] with weights basis[e, k]."""
    e, d = basis.shape
    n, _, c = features.shape
    rows = (centers * d).unsqueeze(1) + torch.arange(d, device=centers.device)
    bags = _block_starts(e, dims, centers)
    out: Tensor = torch.ops.aten._embedding_bag.default(
        features.reshape(n * d, c),
        rows.reshape(-1),
        bags.reshape(-1),
        False,
        0,
        False,
        basis.reshape(-1),
        False,
    )[0]
    return out.reshape(e, len(dims), c)


def to_basis(w: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]) -> Tensor:
    """Compute the gradient of that bag in its weights: a product of two rows per component, gathering none."""
    e, r, c = w.shape
    n, d, _ = features.shape
    rows = (centers * d).unsqueeze(1) + torch.arange(d, device=centers.device)
    bags = _block_starts(e, dims, centers)
    blocks = torch.tensor([b for b, size in enumerate(dims) for _ in range(size)], device=centers.device)
    bag_of = (torch.arange(e, device=centers.device) * r).unsqueeze(1) + blocks
    out: Tensor = torch.ops.aten._embedding_bag_per_sample_weights_backward.default(
        w.reshape(e * r, c),
        features.reshape(n * d, c),
        rows.reshape(-1),
        bags.reshape(-1),
        bag_of.reshape(-1),
        0,
    )
    return out.reshape(e, d)


def to_scalars(
    w: Tensor, basis: Tensor, features: Tensor, centers: Tensor, offsets: Tensor, dims: Sequence[int]
) -> Tensor:
    """Multiply by the weights and sum over blocks."""
    return (w * to_weights(basis, features, centers, offsets, dims)).sum(1)


scaled_to_atoms, scaled_to_weights, scaled_to_basis = scaled(to_atoms, to_weights, to_basis)
to_scalars_backward = one_by_one(scaled_to_atoms, scaled_to_weights, scaled_to_basis)
to_scalars_second = second_order(to_scalars, scaled_to_atoms, scaled_to_weights)


@cache
def _blocks(
    spec: Spec, slots: tuple[int, int, int]
) -> tuple[tuple[int, int, tuple[tuple[int, int], ...]], ...]:
    """Return paths grouped by the pair of irreps at ``slots[:2]``: (i, j, ((path, k), …))."""
    groups: dict[tuple[int, int], list[tuple[int, int]]] = {}
    for number, path in enumerate(admissible_paths(*spec)):
        groups.setdefault((path[slots[0]], path[slots[1]]), []).append((number, path[slots[2]]))
    return tuple((i, j, tuple(members)) for (i, j), members in groups.items())


def _matrix(spec: Spec, number: int, slots: tuple[int, int, int], like: Tensor) -> Tensor:
    """Return the coefficients of one path as a matrix (components at slots[2]) × (pairs of components at slots[:2])."""
    path = admissible_paths(*spec)[number]
    c = coupling(*(spec[s][path[s]][0] for s in range(3))).transpose(slots[2], slots[0], slots[1])
    return torch.tensor(c.reshape(c.shape[0], -1).tolist(), dtype=like.dtype, device=like.device)


def contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: Spec, slots: tuple[int, int, int]
) -> Tensor:
    """Compute one outer product and one small matrix product per pair of irreps, weighted and summed per output."""
    where = [irreps_slices(s) for s in spec]
    outputs: list[list[Tensor]] = [[] for _ in spec[slots[2]]]
    z, c = first.shape[0], first.shape[2]
    for i, j, members in _blocks(spec, slots):
        a, b = first[:, where[slots[0]][i]], second[:, where[slots[1]][j]]
        outer = (a.unsqueeze(2) * b.unsqueeze(1)).reshape(z, a.shape[1] * b.shape[1], c)
        for number, k in members:
            outputs[k].append(weights[number] * (_matrix(spec, number, slots, first) @ outer))
    width = [2 * ell + 1 for ell, _ in spec[slots[2]]]
    return torch.cat(
        [
            sum(terms[1:], terms[0]) if terms else first.new_zeros(z, d, c)
            for terms, d in zip(outputs, width, strict=True)
        ],
        1,
    )


def contract_weights(x: Tensor, y: Tensor, g: Tensor, spec: Spec, coupled: bool) -> Tensor:
    """Multiply the same blocks with the third operand and sum over atoms."""
    where = [irreps_slices(s) for s in spec]
    slots = (0, 1, 2)
    z, c = x.shape[0], x.shape[2]
    rows: list[Tensor | None] = [None] * spec.num_paths
    for i, j, members in _blocks(spec, slots):
        a, b = x[:, where[0][i]], y[:, where[1][j]]
        outer = (a.unsqueeze(2) * b.unsqueeze(1)).reshape(z, a.shape[1] * b.shape[1], c)
        for number, k in members:
            terms = g[:, where[2][k]] * (_matrix(spec, number, slots, x) @ outer)
            rows[number] = terms.sum((0, 1)) if coupled else terms.sum()
    return torch.stack([row for row in rows if row is not None])
