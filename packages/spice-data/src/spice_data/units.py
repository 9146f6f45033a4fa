"""Units of length, energy, force and stress: factors to Å, eV, eV/Å and eV/Å³."""

from __future__ import annotations

BOHR = 0.529177210903
"""Å per bohr (CODATA 2018)."""

HARTREE = 27.211386245988
"""eV per hartree (CODATA 2018)."""

KCAL = 1 / 23.060547830619026
"""eV per kcal/mol."""

LENGTH: dict[str, float] = {"bohr": BOHR, "angstrom": 1.0, "nanometers": 10.0, "nanometer": 10.0}
"""Å per unit of length."""

ENERGY: dict[str, float] = {
    "hartree": HARTREE,
    "eV": 1.0,
    "kcal/mol": KCAL,
    "kJ/mol": KCAL / 4.184,
    "rydberg": HARTREE / 2,
}
"""eV per unit of energy."""

GRADIENT: dict[str, float] = {f"{e}/{x}": ENERGY[e] / LENGTH[x] for e in ENERGY for x in ("bohr", "angstrom")}
"""eV/Å per unit of energy gradient."""

STRESS: dict[str, float] = {"eV/angstrom^3": 1.0, "GPa": 1 / 160.2176634, "kbar": 1 / 1602.176634}
"""eV/Å³ per unit of stress."""
