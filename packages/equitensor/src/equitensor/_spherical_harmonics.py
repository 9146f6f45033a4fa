"""Real spherical harmonics of any degree, as polynomials in x, y, z built by recursion."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

_SCALE: dict[str, Callable[[int], float]] = {
    "component": lambda ell: 1.0,
    "norm": lambda ell: 1.0 / math.sqrt(2 * ell + 1),
    "integral": lambda ell: 1.0 / math.sqrt(4 * math.pi),
}

_INLINED = 4
"""Up to this ``l_max`` a compiler is left to inline the recursions into every component (see :func:`_stored`)."""


def spherical_harmonics(
    l_max: int,
    vectors: Tensor,
    normalize: bool = True,
    normalization: str = "component",
    dtype: torch.dtype | None = None,
) -> Tensor:
    r"""Compute real spherical harmonics of degrees 0 to ``l_max``, in e3nn's order and with its signs.

    With the polar axis along y, :math:`s + it = z + ix` and :math:`r^2 = x^2 + y^2 + z^2`,

    .. math:: Y_{l,\pm m} = N_{lm}\, Q_{lm}(y, r^2)\, \{\mathrm{Re}, \mathrm{Im}\}(z + ix)^m

    where :math:`Q_{lm}` is the associated Legendre function without its :math:`(1-y^2)^{m/2}`, built by
    the normalized three-term recursion in l. Apart from the normalization of v, everything is a polynomial in
    x, y, z: no angle, no division, exact at the poles and differentiable to any order. (Formulas: Abramowitz &
    Stegun 8.5.3; solid harmonics, e.g. Helgaker, Jørgensen & Olsen, section 6.4.)

    Parameters
    ----------
    l_max : int
        Largest degree, ≥ 0.
    vectors : Tensor, (..., 3)
        Floating point, any length unit.
    normalize : bool
        Evaluate on v/‖v‖. Otherwise the homogeneous polynomials themselves, of degree l in the length.
        A zero vector has no direction: it gives 1 (times the normalization) for l = 0 and 0 for l > 0, with
        finite derivatives, and not NaN; this is a convention and not a limit, so callers for which a zero
        vector is an error must check for it.
    normalization : {"component", "norm", "integral"}
        Σ_m Y² is 2l + 1, 1, or (2l + 1)/4π on the unit sphere.
    dtype : torch.dtype, optional
        Of the result, by default that of ``vectors``, in which it is computed either way. Each component is
        converted before they are put together, so a compiler stores them once, in this dtype.

    Returns
    -------
    Tensor, (..., (l_max + 1)²)
        Components l, m at l² + l + m, m = −l … l.

    Raises
    ------
    ValueError
        For a negative ``l_max``, an unknown ``normalization``, or vectors whose last axis is not 3.
    TypeError
        If ``vectors`` is not floating point.

    Examples
    --------
    >>> v = torch.tensor([[0.0, 2.0, 0.0]])
    >>> spherical_harmonics(1, v)
    tensor([[1.0000, 0.0000, 1.7321, 0.0000]])
    """
    if l_max < 0:
        raise ValueError(f"l_max must be ≥ 0, got {l_max!r}")
    if normalization not in _SCALE:
        raise ValueError(f"normalization must be one of {sorted(_SCALE)}, got {normalization!r}")
    if vectors.dim() == 0 or vectors.shape[-1] != 3:
        raise ValueError(f"vectors must have shape (..., 3), got {tuple(vectors.shape)}")
    if not vectors.is_floating_point():
        raise TypeError(f"vectors must have a floating dtype, got {vectors.dtype}")
    scale = _SCALE[normalization]
    x, y, z = vectors.unbind(-1)
    one = torch.ones_like(x)
    if l_max == 0:
        return (one * scale(0)).unsqueeze(-1).to(dtype or vectors.dtype)
    r2 = x * x + y * y + z * z
    if normalize:
        zero = r2 == 0
        inverse = torch.rsqrt(torch.where(zero, 1.0, r2))
        x, y, z = x * inverse, y * inverse, z * inverse
        # constant on the sphere: the derivative of the direction has no radial part for it to meet
        r2 = torch.where(zero, torch.zeros_like(one), one)
    columns = _components(l_max, (x, y, z), r2, one, scale)
    return torch.stack([c.to(dtype or vectors.dtype) for c in columns], dim=-1)


def _components(
    l_max: int,
    direction: tuple[Tensor, Tensor, Tensor],
    r2: Tensor,
    one: Tensor,
    scale: Callable[[int], float],
) -> list[Tensor]:
    """Return the polynomials in the order of components; ``scale`` multiplies each degree."""
    columns: list[Tensor | None] = [None] * (l_max + 1) ** 2
    x, y, z = direction
    real, imaginary = one, torch.zeros_like(x)
    for m in range(l_max + 1):
        if m == 1:
            real, imaginary = z, x
        elif m > 1:
            real, imaginary = real * z - imaginary * x, real * x + imaginary * z
            if l_max > _INLINED and m % 2 == 0:
                real, imaginary = _stored(real, imaginary)
        for ell, q in _legendre(m, l_max, y, r2):
            factor = scale(ell) * (1.0 if m == 0 else math.sqrt(2.0))
            place = ell * ell + ell
            if isinstance(q, float):
                columns[place + m] = real * (q * factor)
                if m:
                    columns[place - m] = imaginary * (q * factor)
            else:
                scaled = q * factor if factor != 1.0 else q
                columns[place + m] = scaled * real if m else scaled
                if m:
                    columns[place - m] = scaled * imaginary
    return [c for c in columns if c is not None]


def _legendre(m: int, l_max: int, y: Tensor, r2: Tensor) -> list[tuple[int, Tensor | float]]:
    """Return (l, Q_lm √((2l+1) (l−m)!/(l+m)!)) for l = m … l_max; a number where it does not depend on y."""
    start = math.sqrt(2 * m + 1)
    for k in range(1, m + 1):
        start *= math.sqrt((2 * k - 1) / (2 * k))
    found: list[tuple[int, Tensor | float]] = [(m, start)]
    before: Tensor | float = start
    if m < l_max:
        current = y * (math.sqrt(2 * m + 3) * start)
        found.append((m + 1, current))
        for ell in range(m + 2, l_max + 1):
            step = math.sqrt((4 * ell * ell - 1) / (ell * ell - m * m))
            back = math.sqrt((2 * ell + 1) * ((ell - 1) ** 2 - m * m) / ((2 * ell - 3) * (ell * ell - m * m)))
            before, current = current, (y * step) * current - (r2 * back) * before
            if l_max > _INLINED and (ell - m) % 2 == 1:
                before, current = _stored(before, current)
            found.append((ell, current))
    return found


def _stored(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return the same two tensors as columns of one that a compiler keeps in memory.

    Inductor inlines a recursion into each of the (l_max + 1)² components, again for every use: at l = 6 its graph of
    600 nodes became 93,000 inlined loads, and l = 8 did not finish. Kept every second step, the work is bounded.
    """
    first, second = torch.stack((a, b), -1).unbind(-1)
    return first, second
