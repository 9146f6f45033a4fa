"""Errors by subset: the table of energy and force errors that a paper prints, gathered frame by frame."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class Row(NamedTuple):
    """Errors of one subset.

    Attributes
    ----------
    subset : str
        Its name; ``"all"`` for everything.
    frames, atoms : int
        How much there was.
    energy_mae, energy_rmse : float
        Per atom, meV/atom.
    force_mae, force_rmse : float
        Per component, meV/Å.
    """

    subset: str
    frames: int
    atoms: int
    energy_mae: float
    energy_rmse: float
    force_mae: float
    force_rmse: float


@dataclass
class _Sums:
    frames: int = 0
    atoms: int = 0
    energy: float = 0.0
    energy2: float = 0.0
    force: float = 0.0
    force2: float = 0.0

    def row(self, name: str) -> Row:
        f, c = max(self.frames, 1), max(3 * self.atoms, 1)
        return Row(
            name,
            self.frames,
            self.atoms,
            1e3 * self.energy / f,
            1e3 * math.sqrt(self.energy2 / f),
            1e3 * self.force / c,
            1e3 * math.sqrt(self.force2 / c),
        )


@dataclass
class ErrorTable:
    """Mean absolute and root mean square errors of energies per atom and force components, by subset.

    Examples
    --------
    >>> table = ErrorTable()
    >>> table.update("water", -1.0, -0.97, [[0.1, 0, 0]] * 3, [[0.0, 0, 0]] * 3)
    >>> row = table.rows()[0]
    >>> round(row.energy_mae, 6), round(row.force_mae, 6)
    (10.0, 33.333333)
    """

    _sums: dict[str, _Sums] = field(default_factory=dict)

    def update(
        self,
        subset: str,
        energy: float,
        reference_energy: float,
        forces: ArrayLike,
        reference_forces: ArrayLike,
    ) -> None:
        """Add one frame.

        Parameters
        ----------
        subset : str
            Its subset.
        energy, reference_energy : float
            eV.
        forces, reference_forces : (N, 3) array_like
            eV/Å.

        Raises
        ------
        ValueError
            When the forces are not both (N, 3) of one N ≥ 1.
        """
        a, b = np.asarray(forces, np.float64), np.asarray(reference_forces, np.float64)
        if a.shape != b.shape or a.ndim != 2 or a.shape[1] != 3 or len(a) == 0:
            raise ValueError(f"forces: required shape (N, 3) like the reference's {b.shape}, got {a.shape}")
        difference, per_atom = a - b, (energy - reference_energy) / len(a)
        sums = self._sums.setdefault(subset, _Sums())
        sums.frames += 1
        sums.atoms += len(a)
        sums.energy += abs(per_atom)
        sums.energy2 += per_atom**2
        sums.force += float(np.abs(difference).sum())
        sums.force2 += float((difference**2).sum())

    def rows(self) -> list[Row]:
        """One row per subset, by name, then ``"all"``: over frames and components, not over subsets."""
        total = _Sums()
        for s in self._sums.values():
            for name in vars(total):
                setattr(total, name, getattr(total, name) + getattr(s, name))
        return [self._sums[k].row(k) for k in sorted(self._sums)] + [total.row("all")]

    def markdown(self) -> str:
        """The rows as a Markdown table."""
        lines = [
            "| subset | frames | E MAE (meV/atom) | E RMSE | F MAE (meV/Å) | F RMSE |",
            "|---|---:|---:|---:|---:|---:|",
        ]
        for r in self.rows():
            lines.append(
                f"| {r.subset} | {r.frames:,} | {r.energy_mae:.3f} | {r.energy_rmse:.3f} "
                f"| {r.force_mae:.2f} | {r.force_rmse:.2f} |"
            )
        return "\n".join(lines)
