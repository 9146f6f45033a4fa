"""Pair potentials beside the network: ZBL repulsion, Lennard-Jones and inverse powers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from allegro_model._fields import is_number, plain, require

STYLES = ("lj", "repulsive")
LENGTHS_AND_ENERGIES = ("sigma", "epsilon", "delta")


@dataclasses.dataclass(frozen=True)
class LennardJones:
    """Lennard-Jones or inverse-power pair potential, with parameters per unordered pair of types.

    The energy of a pair at distance r, times the cutoff envelope:

    - ``"lj"``: 4 ε [(σ/(r − δ))^2n − (σ/(r − δ))^n]
    - ``"repulsive"``: ε (σ (r − δ))^−n

    Parameters
    ----------
    sigma : float or (T, T) numbers
        σ ≥ 0, Å (1/Å in the style ``"repulsive"``): one number, or a symmetric table in the order of the types.
    epsilon : float or (T, T) numbers
        ε ≥ 0, eV.
    delta : float or (T, T) numbers
        δ ≥ 0, Å.
    exponent : float
        n > 0.
    style : str
        ``"lj"`` or ``"repulsive"``.
    trainable : sequence of str
        Which of ``"sigma"``, ``"epsilon"`` and ``"delta"`` are trained.
    """

    sigma: float | Sequence[Sequence[float]]
    epsilon: float | Sequence[Sequence[float]]
    delta: float | Sequence[Sequence[float]] = 0.0
    exponent: float = 6.0
    style: str = "lj"
    trainable: Sequence[str] = ()

    def __post_init__(self) -> None:
        for field in LENGTHS_AND_ENERGIES:
            value = plain(getattr(self, field))
            object.__setattr__(self, field, value)
            rows = value if isinstance(value, tuple) else ((value,),)
            square = all(isinstance(row, tuple) and len(row) == len(rows) for row in rows)
            numbers: list[Any] = [entry for row in rows for entry in row] if square else [None]
            ok = all(is_number(n) and math.isfinite(n) and n >= 0 for n in numbers)
            ok = ok and list(zip(*rows, strict=True)) == list(rows)
            required = "a finite number ≥ 0 or a symmetric table of them"
            require(ok, f"lennard_jones.{field}", required, value)
        n = self.exponent
        ok = is_number(n) and math.isfinite(n) and n > 0
        require(ok, "lennard_jones.exponent", "a finite number > 0", n)
        object.__setattr__(self, "exponent", float(n))
        require(self.style in STYLES, "lennard_jones.style", f"one of {STYLES}", self.style)
        ok = not isinstance(self.trainable, str) and set(self.trainable) <= set(LENGTHS_AND_ENERGIES)
        require(ok, "lennard_jones.trainable", f"a sequence among {LENGTHS_AND_ENERGIES}", self.trainable)
        object.__setattr__(self, "trainable", tuple(self.trainable))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LennardJones:
        """Build from plain data; ``ValueError`` names keys that do not exist or are missing."""
        known = [f.name for f in dataclasses.fields(cls)]
        unknown = sorted(set(data) - set(known), key=str)
        require(not unknown, "lennard_jones", f"a mapping with keys among {known}", unknown)
        missing = {"sigma", "epsilon"} - set(data)
        require(not missing, "lennard_jones", "a mapping with the keys sigma and epsilon", sorted(data))
        return cls(**data)

    def check_size(self, num_types: int) -> None:
        """Raise ``ValueError`` where a table is not of ``num_types`` types."""
        for field in LENGTHS_AND_ENERGIES:
            value = getattr(self, field)
            ok = not isinstance(value, tuple) or len(value) == num_types
            require(
                ok,
                f"lennard_jones.{field}",
                f"one number or a table of {num_types} × {num_types} numbers",
                value,
            )

    def table(self, field: str, num_types: int) -> Tensor:
        """Return a parameter of each pair of types, (T, T) float64."""
        value = torch.tensor(getattr(self, field), dtype=torch.float64)
        return value.expand(num_types, num_types).clone()


def symmetric(table: Tensor) -> Tensor:
    """Return the parameters as applied: the upper triangle for both orders of a pair, and none below 0."""
    return (table.triu() + table.triu(1).T).relu()


def lennard_jones_edge_energy(
    length: Tensor, sigma: Tensor, epsilon: Tensor, delta: Tensor, exponent: float, style: str
) -> Tensor:
    """Compute half of the energy of a pair, eV (the other half belongs to the reverse edge); all (E,)."""
    if style == "repulsive":
        return 0.5 * epsilon * (sigma * (length - delta)) ** -exponent
    attraction = (sigma / (length - delta)) ** exponent
    return 2.0 * epsilon * (attraction.square() - attraction)


def zbl_edge_energy(length: Tensor, z_center: Tensor, z_neighbor: Tensor) -> Tensor:
    """Compute half of the screened nuclear repulsion of an edge, eV (the other half belongs to the reverse edge).

    Ziegler, Biersack, Littmark, The Stopping and Range of Ions in Solids (1985), with the constants of the LAMMPS
    page of ``pair_style zbl``; e²/4πε₀ = 14.399645 eV Å. ``length`` (E,) Å; atomic numbers (E,).
    """
    x = (z_center**0.23 + z_neighbor**0.23) * length / 0.46850
    screening = (
        0.02817 * torch.exp(-0.20162 * x)
        + 0.28022 * torch.exp(-0.40290 * x)
        + 0.50986 * torch.exp(-0.94229 * x)
        + 0.18175 * torch.exp(-3.19980 * x)
    )
    return 0.5 * 14.399645 * z_center * z_neighbor / length * screening
