"""Couplings of irreps: admissible paths, specifications of products, pruning, sparse coefficients."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from equitensor.irreps import Irrep, as_irreps, irreps_slices, irreps_string
from equitensor.wigner import coupling


class Path(NamedTuple):
    """One coupling in1 ⊗ in2 → out, as positions in the three lists of irreps."""

    in1: int
    in2: int
    out: int


class Table(NamedTuple):
    """The non-zero coefficients of every path, as parallel arrays sorted by path, then a, b, o.

    ``path`` numbers the path, ``a``, ``b`` and ``o`` the components of the first input, the second
    input and the output (int64), ``value`` is the coefficient (float64).
    """

    path: np.ndarray
    a: np.ndarray
    b: np.ndarray
    o: np.ndarray
    value: np.ndarray


def couples(first: Irrep, second: Irrep, out: Irrep) -> bool:
    """Return whether ``first ⊗ second`` contains ``out``: the triangle rule and the product of parities."""
    return abs(first[0] - second[0]) <= out[0] <= first[0] + second[0] and first[1] * second[1] == out[1]


def admissible_paths(
    irreps_in1: Sequence[Irrep], irreps_in2: Sequence[Irrep], irreps_out: Sequence[Irrep]
) -> tuple[Path, ...]:
    """Return every coupling of the first two lists into the third, ordered by out, then in1, then in2.

    Examples
    --------
    >>> admissible_paths([(0, 1), (1, -1)], [(0, 1), (1, -1)], [(0, 1)])
    (Path(in1=0, in2=0, out=0), Path(in1=1, in2=1, out=0))
    """
    return tuple(
        Path(i, j, k)
        for k, out in enumerate(irreps_out)
        for i, first in enumerate(irreps_in1)
        for j, second in enumerate(irreps_in2)
        if couples(first, second, out)
    )


def reachable(
    irreps_in1: Sequence[Irrep], irreps_in2: Sequence[Irrep], allowed: Sequence[Irrep]
) -> tuple[Irrep, ...]:
    """Return those of ``allowed``, in their order, that some product of the first two lists contains."""
    return tuple(o for o in allowed if any(couples(a, b, o) for a in irreps_in1 for b in irreps_in2))


def chain_irreps(
    first: Any, second: Any, allowed: Any, num_products: int, last: Any = ((0, 1),)
) -> tuple[tuple[Irrep, ...], ...]:
    """Return the irreps before, between and after ``num_products`` successive products with ``second``.

    Product k maps entry k to entry k + 1. Forward, each product keeps what it can reach of ``allowed``
    (the last one of ``last``); backward, an irrep from which the following product reaches nothing that
    was kept is dropped, in the input too. This is Allegro's tensor track (arXiv 2504.16068).

    Parameters
    ----------
    first, second, allowed, last : irreps
        The features before the first product, the operand of every product, what may lie between
        products, and the output of the last; anything :func:`as_irreps` takes.
    num_products : int
        At least 1.

    Raises
    ------
    ValueError
        If a product reaches nothing, or ``num_products`` is below 1.

    Examples
    --------
    >>> chain_irreps("0e+1o", "0e+1o", "0e+1o+0o+1e", 2)
    (((0, 1), (1, -1)), ((0, 1), (1, -1)), ((0, 1),))
    """
    first, second = as_irreps(first, "first"), as_irreps(second, "second")
    allowed, last = as_irreps(allowed, "allowed"), as_irreps(last, "last")
    if num_products < 1:
        raise ValueError(f"num_products must be at least 1, got {num_products!r}")
    chain = [first]
    for k in range(num_products):
        wanted = last if k == num_products - 1 else allowed
        kept = reachable(chain[-1], second, wanted)
        if not kept:
            raise ValueError(
                f"irreps must have a path from product {k}, {irreps_string(chain[-1])} ⊗ "
                f"{irreps_string(second)}, to one of {irreps_string(wanted)}, got none"
            )
        chain.append(kept)
    for k in range(num_products - 1, -1, -1):
        chain[k] = tuple(a for a in chain[k] if any(couples(a, b, o) for b in second for o in chain[k + 1]))
    return tuple(chain)


class Spec(NamedTuple):
    """The three lists of irreps of a product in1 ⊗ in2 → out, with every admissible path between them."""

    in1: tuple[Irrep, ...]
    in2: tuple[Irrep, ...]
    out: tuple[Irrep, ...]

    @property
    def num_paths(self) -> int:
        """Number of admissible paths."""
        return len(admissible_paths(*self))

    def __str__(self) -> str:
        return ";".join(irreps_string(s) for s in self)


def make_spec(irreps_in1: Any, irreps_in2: Any, irreps_out: Any) -> Spec:
    """Return a specification; raise ``ValueError`` if no path connects the irreps or an output irrep has no path."""
    spec = Spec(
        as_irreps(irreps_in1, "irreps_in1"),
        as_irreps(irreps_in2, "irreps_in2"),
        as_irreps(irreps_out, "irreps_out"),
    )
    reached = {p.out for p in admissible_paths(*spec)}
    missing = [ir for k, ir in enumerate(spec.out) if k not in reached]
    if missing or not spec.out:
        raise ValueError(
            f"irreps_out must be irreps in {irreps_string(spec.in1)} ⊗ {irreps_string(spec.in2)}, "
            f"got {irreps_string(spec.out)!r}"
            + (f", of which no path reaches {irreps_string(missing)}" if missing else "")
        )
    return spec


@cache
def parse_spec(text: str) -> Spec:
    """Return the specification that ``str(spec)`` describes."""
    return Spec(*(as_irreps(part) for part in text.split(";")))


@cache
def coupling_table(
    irreps_in1: tuple[Irrep, ...], irreps_in2: tuple[Irrep, ...], irreps_out: tuple[Irrep, ...]
) -> Table:
    """Return the sparse coefficients of all admissible paths, see :class:`Table`.

    Examples
    --------
    >>> coupling_table(((1, -1),), ((1, -1),), ((0, 1),)).value.round(3).tolist()
    [0.577, 0.577, 0.577]
    """
    s1, s2, s3 = irreps_slices(irreps_in1), irreps_slices(irreps_in2), irreps_slices(irreps_out)
    columns: list[tuple[np.ndarray, ...]] = []
    for number, (i, j, k) in enumerate(admissible_paths(irreps_in1, irreps_in2, irreps_out)):
        dense = coupling(irreps_in1[i][0], irreps_in2[j][0], irreps_out[k][0])
        a, b, o = np.nonzero(dense)
        path = np.full(a.shape, number)
        columns.append((path, a + s1[i].start, b + s2[j].start, o + s3[k].start, dense[a, b, o]))
    if not columns:
        empty = np.zeros(0, dtype=np.int64)
        return Table(empty, empty, empty, empty, np.zeros(0))
    return Table(*(np.concatenate(c) for c in zip(*columns, strict=True)))
