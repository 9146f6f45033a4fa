"""Lists of irreps of O(3): notation, number of components, slices."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

Irrep = tuple[int, int]
"""Degree l ≥ 0 and parity p = ±1."""

_IRREP = re.compile(r"\s*(?:(\d+)\s*x\s*)?(\d+)\s*([eoy])\s*")


def as_irreps(irreps: Any, name: str = "irreps") -> tuple[Irrep, ...]:
    """Return a tuple of (l, p), from such pairs, from a string such as ``"0e + 1o"`` or from e3nn ``Irreps``.

    Channels are an axis of the tensors and not a multiplicity, so every multiplicity must be 1.

    Parameters
    ----------
    irreps : str, e3nn.o3.Irreps, or iterable of (l, p)
        The irreps, each once or more, in the order of their components.
    name : str
        Name of the argument in errors.

    Raises
    ------
    ValueError
        For text that is no list of irreps, a multiplicity other than 1, a negative degree, or a parity other than ±1.

    Examples
    --------
    >>> as_irreps("0e + 1o")
    ((0, 1), (1, -1))
    """
    if isinstance(irreps, str) or hasattr(irreps, "num_irreps"):  # e3nn is not imported to ask for its type
        return _parse(str(irreps), name)
    result = tuple((int(ell), int(p)) for ell, p in irreps)
    for ell, p in result:
        if ell < 0 or p not in (-1, 1):
            raise ValueError(f"{name} must be pairs (l ≥ 0, p = ±1), got {(ell, p)!r}")
    return result


def _parse(text: str, name: str) -> tuple[Irrep, ...]:
    """Return the (l, p) of e3nn's notation, ``"1x0e+1o"``; the parity ``y`` is (−1)^l."""
    found = []
    for part in text.split("+") if text.strip() else ():
        match = _IRREP.fullmatch(part)
        if match is None:
            raise ValueError(f"{name} must be irreps such as '0e+1o', got {text!r}")
        if match[1] not in (None, "1"):
            raise ValueError(
                f"{name} must have multiplicity 1 for every irrep (channels are an axis), got {text!r}"
            )
        ell = int(match[2])
        found.append((ell, {"e": 1, "o": -1, "y": (-1) ** ell}[match[3]]))
    return tuple(found)


def irreps_string(irreps: Iterable[Irrep]) -> str:
    """Return the irreps as e3nn writes them, ``"0e+1o"``."""
    return "+".join(f"{ell}{'e' if p == 1 else 'o'}" for ell, p in irreps)


def irreps_dim(irreps: Iterable[Irrep]) -> int:
    """Return the number of components, Σ (2l + 1)."""
    return sum(2 * ell + 1 for ell, _ in irreps)


def irreps_slices(irreps: Iterable[Irrep]) -> tuple[slice, ...]:
    """Return the slice of each irrep's components."""
    slices, start = [], 0
    for ell, _ in irreps:
        slices.append(slice(start, start + 2 * ell + 1))
        start += 2 * ell + 1
    return tuple(slices)


def spherical_irreps(l_max: int) -> tuple[Irrep, ...]:
    """Return the irreps of the spherical harmonics, l = 0 … l_max with parity (−1)^l."""
    return tuple((ell, (-1) ** ell) for ell in range(l_max + 1))
