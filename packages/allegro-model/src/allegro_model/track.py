"""The tensor track in reassociated form: scalar paths, and the products to pull back through."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from equitensor import TensorProduct
from equitensor.irreps import Irrep, spherical_irreps
from equitensor.paths import admissible_paths, chain_irreps, couples
from equitensor.wigner import coupling


class PullBack(NamedTuple):
    """One step of a covector towards the edge's two-body tensor: through the product of an earlier layer."""

    layer: int
    product: TensorProduct
    rows: tuple[int, ...]  # which of that layer's path weights the product uses


class Layer(NamedTuple):
    """A tensor product of the track: its irreps, and how its scalar is read from the two-body tensor."""

    irreps_in: tuple[Irrep, ...]
    irreps_out: tuple[Irrep, ...]
    num_paths: int
    scalar_rows: tuple[int, ...]  # for each l, the row of the path weights of l ⊗ l → 0e
    scalar_factors: tuple[float, ...]  # for each l, its coefficient; the same for every m
    pull_backs: tuple[PullBack, ...]  # from the layer before, back to the first


def tensor_track(l_max: int, num_layers: int, parity: bool, coupled: bool = True) -> tuple[Layer, ...]:
    """Return the layers of an Allegro tensor track (Nat. Commun. 14, 579 (2023); arXiv 2504.16068).

    With parity, every (l, ±1) with l ≤ ``l_max`` that a path reaches is kept between layers, otherwise only the
    parities of the spherical harmonics; the last layer keeps 0e; irreps that cannot reach the end are pruned.
    ``coupled`` says whether path weights are per channel too.
    """
    harmonics = spherical_irreps(l_max)
    allowed = [(ell, p) for ell in range(l_max + 1) for p in (1, -1)] if parity else harmonics
    chain = chain_irreps(harmonics, harmonics, allowed, num_layers)
    layers = []
    for k, (ins, outs) in enumerate(pairwise(chain)):
        paths = admissible_paths(ins, harmonics, outs)
        scalar = outs.index((0, 1))
        rows = {ins[path.in1][0]: row for row, path in enumerate(paths) if path.out == scalar}
        layers.append(
            Layer(
                irreps_in=ins,
                irreps_out=outs,
                num_paths=len(paths),
                scalar_rows=tuple(rows[ell] for ell in range(l_max + 1)),
                scalar_factors=tuple(float(coupling(ell, ell, 0)[0, 0, 0]) for ell in range(l_max + 1)),
                pull_backs=_pull_backs(chain, harmonics, k, coupled),
            )
        )
    return tuple(layers)


def _pull_backs(
    chain: tuple[tuple[Irrep, ...], ...], harmonics: tuple[Irrep, ...], k: int, coupled: bool
) -> tuple[PullBack, ...]:
    """Return the steps from the covector of layer ``k``, which lives on the harmonics' irreps, back to layer 0."""
    steps = []
    support = tuple(ir for ir in chain[k] if ir in harmonics)
    for m in reversed(range(k)):
        before = tuple(a for a in chain[m] if any(couples(a, b, o) for b in harmonics for o in support))
        rows = tuple(
            row
            for row, path in enumerate(admissible_paths(chain[m], harmonics, chain[m + 1]))
            if chain[m + 1][path.out] in support and chain[m][path.in1] in before
        )
        steps.append(PullBack(m, TensorProduct(before, harmonics, support, coupled), rows))
        support = before
    return tuple(steps)
