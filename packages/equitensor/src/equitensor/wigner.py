"""Coupling coefficients of the real spherical harmonics, from Racah's formula in exact arithmetic."""

from __future__ import annotations

from fractions import Fraction
from functools import cache
from math import copysign, factorial, sqrt

import numpy as np


@cache
def coupling(l1: int, l2: int, l3: int) -> np.ndarray:
    """Return √(2 l3 + 1) times the real Wigner 3j symbol, (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) float64, read-only.

    Component normalization: inputs with components of unit variance give such an output. The basis is that of
    :func:`equitensor.spherical_harmonics`, order and signs as in e3nn. Every entry is the root of an exact rational
    number, so that entries of equal magnitude are exactly equal (kernels share them) and zeros are exact.

    Raises
    ------
    ValueError
        If the degrees do not satisfy the triangle rule.
    """
    if not abs(l1 - l2) <= l3 <= l1 + l2:
        raise ValueError(f"l3 must be in {abs(l1 - l2)} … {l1 + l2} (|l1 - l2| … l1 + l2), got {l3!r}")
    squares, c = {}, np.zeros((2 * l1 + 1, 2 * l2 + 1, 2 * l3 + 1))
    for m1 in range(-l1, l1 + 1):
        for m2 in range(max(-l2, -l3 - m1), min(l2, l3 - m1) + 1):
            sign, square = clebsch_gordan(l1, m1, l2, m2, l3, m1 + m2)
            squares[m1, m2] = square
            c[l1 + m1, l2 + m2, l3 + m1 + m2] = sign * sqrt(square)
    real = np.einsum("ia,jb,kc,ijk->abc", _basis(l1), _basis(l2), _basis(l3).conj(), c).real
    # An entry of the real basis joins the coefficients of (m1, m2, m3) and (−m1, −m2, −m3), equal but for a sign, with
    # a factor 1/√2 for each m ≠ 0: its square is theirs, or half of it if no m is 0. Its sign and zeros are as summed.
    found = np.zeros(real.shape)
    for a, b, o in np.argwhere(np.abs(real) > 1e-12).tolist():
        m1, m2, m3 = abs(a - l1), abs(b - l2), abs(o - l3)
        square = squares[m1, m2 if m1 + m2 == m3 else -m2]
        found[a, b, o] = copysign(sqrt(square / 2 if m1 and m2 and m3 else square), real[a, b, o])
    found.setflags(write=False)
    return found


def clebsch_gordan(j1: int, m1: int, j2: int, m2: int, j3: int, m3: int) -> tuple[int, Fraction]:
    """Return sign and square of ⟨j1 m1 j2 m2 | j3 m3⟩, m3 = m1 + m2, in the Condon-Shortley phase.

    Racah's formula, Abramowitz & Stegun 27.9.1.
    """
    f = factorial
    square = Fraction(
        (2 * j3 + 1) * f(j1 + j2 - j3) * f(j1 - j2 + j3) * f(-j1 + j2 + j3), f(j1 + j2 + j3 + 1)
    ) * (f(j1 + m1) * f(j1 - m1) * f(j2 + m2) * f(j2 - m2) * f(j3 + m3) * f(j3 - m3))
    total = Fraction(0)
    for k in range(max(0, j2 - j3 - m1, j1 - j3 + m2), min(j1 + j2 - j3, j1 - m1, j2 + m2) + 1):
        terms = f(k) * f(j1 + j2 - j3 - k) * f(j1 - m1 - k) * f(j2 + m2 - k)
        total += Fraction((-1) ** k, terms * f(j3 - j2 + m1 + k) * f(j3 - j1 - m2 + k))
    return (1 if total >= 0 else -1), square * total**2


def _basis(ell: int) -> np.ndarray:
    """Return the unitary matrix (complex component, real component) of degree ``ell``, times (−i)^l.

    The phase makes the coefficients of three real representations real, whatever the parity of l1 + l2 + l3.
    """
    q = np.zeros((2 * ell + 1, 2 * ell + 1), dtype=np.complex128)
    q[ell, ell] = 1
    for m in range(1, ell + 1):
        sign = (-1) ** m
        q[ell - m, [ell + m, ell - m]] = sqrt(0.5), -1j * sqrt(0.5)
        q[ell + m, [ell + m, ell - m]] = sign * sqrt(0.5), 1j * sign * sqrt(0.5)
    return (-1j) ** ell * q
