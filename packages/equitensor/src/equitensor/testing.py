"""Equivariance checks for functions of any package."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product
from typing import Any

import torch
from torch import Tensor

from equitensor._spherical_harmonics import spherical_harmonics
from equitensor.irreps import Irrep, as_irreps


def random_orthogonal(generator: torch.Generator, inversion: bool) -> Tensor:
    """Return a random rotation, times −1 if ``inversion``; (3, 3) float64."""
    q: Tensor
    q, r = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=generator))
    q = q * torch.sign(torch.diagonal(r))
    q = q * torch.det(q).sign()
    return -q if inversion else q


def representation(irreps: Sequence[Irrep], matrix: Tensor) -> Tensor:
    """Return the matrix, (D, D) float64, by which components of these irreps change under an orthogonal matrix.

    Found from the spherical harmonics themselves, Y(R v) = D Y(v) for many v, by least squares.
    """
    proper = matrix * torch.det(matrix).sign()
    improper = bool(torch.det(matrix) < 0)
    l_max = max((ell for ell, _ in irreps), default=0)
    v = torch.randn(20 * (l_max + 1) ** 2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    before, after = spherical_harmonics(l_max, v), spherical_harmonics(l_max, v @ proper.T)
    blocks = []
    for ell, p in irreps:
        k = slice(ell * ell, (ell + 1) ** 2)
        blocks.append((p if improper else 1) * torch.linalg.lstsq(before[:, k], after[:, k]).solution.T)
    found: Tensor = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
    return found


def assert_equivariant(
    function: Callable[..., Any],
    inputs: Sequence[Tensor],
    irreps_in: Sequence[Any],
    irreps_out: Any,
    atol: float = 1e-10,
    rtol: float = 1e-10,
    trials: int = 2,
    seed: int = 0,
    axis: int = -1,
) -> None:
    """Assert that ``function`` commutes with rotations and inversion.

    Parameters
    ----------
    function : callable
        Called as ``function(*inputs)``; returns a tensor, or a sequence of tensors.
    inputs : sequence of Tensor
        One set of inputs.
    irreps_in : sequence
        For each input its irreps (as :func:`equitensor.paths.as_irreps` takes them, e.g. ``"1o"`` for
        vectors), or None for one that does not change.
    irreps_out : irreps, None, or a list of these
        The same for the output, or a list with an entry per output (so pairs (l, p) go in a tuple).
    atol, rtol : float
        Tolerances of the comparison.
    trials : int
        Number of random rotations; each is tried with and without the inversion.
    seed : int
        Seed of the rotations (a generator of its own: no global state is touched).
    axis : int
        The axis that holds components; −2 where channels are last.

    Raises
    ------
    AssertionError
        With the output's number, the matrix and the largest difference.

    Examples
    --------
    >>> a, b = torch.randn(2, 5, 3, dtype=torch.float64)
    >>> assert_equivariant(torch.linalg.cross, [a, b], ["1o", "1o"], "1e")
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = irreps_out if isinstance(irreps_out, list) else [irreps_out]
    plain = _as_list(function(*inputs))
    if len(plain) != len(wanted):
        raise AssertionError(f"function must return {len(wanted)} outputs (irreps_out), got {len(plain)}")
    for trial, inversion in product(range(trials), (False, True)):
        matrix = random_orthogonal(generator, inversion)
        turned = [_turn(x, irreps, matrix, axis) for x, irreps in zip(inputs, irreps_in, strict=True)]
        results = zip(_as_list(function(*turned)), plain, wanted, strict=True)
        for number, (got, before, irreps) in enumerate(results):
            where = f"output {number}, irreps {irreps}, trial {trial}, inversion {inversion}"
            try:
                torch.testing.assert_close(got, _turn(before, irreps, matrix, axis), atol=atol, rtol=rtol)
            except AssertionError as error:
                raise AssertionError(f"{where}: f(R x) differs from R f(x)\n{error}") from None


def _as_list(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else list(value)


def _turn(x: Tensor, irreps: Any, matrix: Tensor, axis: int) -> Tensor:
    if irreps is None:
        return x
    d = representation(as_irreps(irreps), matrix).to(x)
    return (x.transpose(axis, -1) @ d.T).transpose(axis, -1)
