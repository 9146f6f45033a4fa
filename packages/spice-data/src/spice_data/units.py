"""Units: the names that files may carry, and the factors that lead to Å, eV and eV/Å."""

from __future__ import annotations

BOHR = 0.529177210903
"""Å per bohr (CODATA 2018)."""

HARTREE = 27.211386245988
"""eV per hartree (CODATA 2018)."""

LENGTH: dict[str, float] = {"bohr": BOHR, "angstrom": 1.0, "nanometers": 10.0, "nanometer": 10.0}
"""Å per unit of length."""

ENERGY: dict[str, float] = {"hartree": HARTREE, "eV": 1.0}
"""eV per unit of energy."""

GRADIENT: dict[str, float] = {f"{e}/{x}": ENERGY[e] / LENGTH[x] for e in ENERGY for x in ("bohr", "angstrom")}
"""eV/Å per unit of energy gradient."""
