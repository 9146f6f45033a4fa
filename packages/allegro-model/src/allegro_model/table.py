"""The two-body features of an edge as piecewise polynomials of its length, by ordered pair of types."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

ORDER = 6
"""Coefficients of a polynomial: quintic, with two continuous derivatives where two meet."""


class TableWeights(NamedTuple):
    """Coefficients of the polynomials: pair by pair, cell by cell, interval by interval.

    The lengths from 0 to the cutoff make equal cells, and each cell equal intervals, more where the features bend more.
    """

    intervals: Tensor  # (T² · cells,) float64, of each cell
    first: Tensor  # (T² · cells,) int64, the first interval of each cell
    hidden: Tensor  # (intervals · 6, H), by ascending power of the position in the interval, 0 to 1
    tensor: Tensor  # (intervals · 6, R · C), of the weights of the two-body tensor


def tabulated(w: TableWeights, cells: int, x: Tensor, pair: Tensor) -> tuple[Tensor, Tensor]:
    """Return hidden layer (E, H) and tensor weights (E, R·C) of scaled lengths x (E,) and type pairs (E,).

    Both are zero, as are their derivatives, at x ≥ 1.
    """
    in_cells = x.clamp(max=1.0) * cells
    cell = in_cells.detach().floor().clamp(max=cells - 1.0)
    index = pair * cells + cell.long()
    intervals = w.intervals[index]
    position = (in_cells - cell) * intervals
    interval = torch.minimum(position.detach().floor(), intervals - 1.0)
    row = ORDER * (w.first[index] + interval.long())
    t = (position - interval).to(w.hidden.dtype).unsqueeze(1)
    powers = [torch.where(x < 1.0, 1.0, 0.0).to(t.dtype).unsqueeze(1)]
    for _ in range(1, ORDER):
        powers.append(powers[-1] * t)

    def value(coefficients: Tensor) -> Tensor:
        terms = [power * coefficients[row + k] for k, power in enumerate(powers)]
        total: Tensor = sum(terms[1:], terms[0])
        return total

    return value(w.hidden), value(w.tensor)


def polynomials(function: Callable[[Tensor], Tensor], intervals: Sequence[int]) -> Tensor:
    """Return the coefficients (Σ intervals · 6, columns) of a function of x (E,) to (E, columns), float64.

    They match its value and two derivatives at both ends of every interval, except at 0, near which derivatives of
    Bessel functions suffer from cancellation: there they match its values at three points of the first interval.
    """

    def slope(x: Tensor) -> Tensor:
        derivative: Tensor = torch.func.jvp(function, (x,), (torch.ones_like(x),))[1]
        return derivative

    parts = [
        (cell + torch.arange(n, dtype=torch.float64) / n) / len(intervals) for cell, n in enumerate(intervals)
    ]
    x = torch.cat([*parts, torch.ones(1, dtype=torch.float64)])
    width = x.diff().unsqueeze(1)
    inner = x[1:]
    first, second = torch.func.jvp(slope, (inner,), (torch.ones_like(inner),))[:2]
    value = function(inner)
    ends = torch.stack([value, first * width, second * width**2])  # derivatives by position in the interval
    starts = torch.stack([value[:-1], first[:-1] * width[1:], second[:-1] * width[1:] ** 2])
    points = torch.tensor([0.0, 0.3, 0.65], dtype=torch.float64)
    nearest = torch.cat([function(points * width[0]), ends[:, 0]]).unsqueeze(1)
    at_ends = _powers(torch.tensor([0.0, 1.0], dtype=torch.float64))
    low, high = at_ends[:, 0], at_ends[:, 1]
    solved = [
        _solved(torch.cat([_powers(points)[0], high]), nearest),
        _solved(torch.cat([low, high]), torch.cat([starts, ends[:, 1:]])),
    ]
    return torch.cat(solved, 1).transpose(0, 1).flatten(0, 1)


def _powers(t: Tensor) -> Tensor:
    """Return the powers of t (P,) below 6, their first and their second derivatives, (3, P, 6)."""
    k = torch.arange(ORDER, dtype=t.dtype)
    factors = torch.ones_like(k), k, k * (k - 1)
    return torch.stack([f * t.unsqueeze(1) ** (k - d).clamp(min=0) for d, f in enumerate(factors)])


def _solved(matrix: Tensor, given: Tensor) -> Tensor:
    """Return the coefficients (6, I, columns) of polynomials of which six numbers (6, I, columns) are given."""
    solved: Tensor = torch.linalg.solve(matrix, given.flatten(1))
    return solved.view(given.shape)
