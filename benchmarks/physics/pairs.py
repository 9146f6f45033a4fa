"""Checks that any potential must pass: dimers, cutoffs, extensivity, random places, conservation of energy."""

from __future__ import annotations

from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.data import atomic_numbers, covalent_radii
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from benchmarks.physics.outcome import Models, Outcome
from matplotlib.axes import Axes
from numpy.typing import ArrayLike
from scipy.spatial.distance import pdist

from mlip_export.ase import Calculator

DRIFT = {"full": 0.01, "quick": 0.2}
"""Largest drift of the total energy with steps of 0.25 fs, meV/atom/ps; oscillations tilt the line of a short run."""


def _pair(a: str, b: str, r: float, calculator: Calculator) -> tuple[float, float]:
    """Return the energy of two atoms ``r`` apart, and the force on the second along the axis."""
    atoms = Atoms([a, b], [[0, 0, 0], [r, 0, 0]])
    calculator.calculate(atoms)
    return float(calculator.results["energy"]), float(calculator.results["forces"][1, 0])


def dimers(models: Models, quick: bool) -> Outcome:
    """Energies of all pairs from 0.5 Å to beyond the cutoff."""
    names = models.exact.potential.type_names
    r = np.linspace(0.5, 6.0, 56 if quick else 221)
    curves, faults, depth = {}, [], {}
    for a, b in combinations_with_replacement(names, 2):
        energy = np.array([_pair(a, b, x, models.exact)[0] for x in r])
        curves[a, b] = energy - energy[-1]
        inner = r < 0.5 * sum(covalent_radii[atomic_numbers[x]] for x in (a, b)) + 0.25
        if (np.diff(energy[inner]) >= 0).any():
            where = r[inner][1:][np.diff(energy[inner]) >= 0]
            faults.append(f"{a}-{b} is not repulsive at {where.min():.2f} to {where.max():.2f} Å")
        depth[f"{a}-{b}"] = round(float(curves[a, b][0]), 1)

    def draw(axis: Axes) -> None:
        for energy in curves.values():
            axis.plot(r, energy, color="0.6", linewidth=0.6)
        for name in (("C", "C"), ("H", "O"), ("O", "O")):
            if name in curves:
                axis.plot(r, curves[name], label="–".join(name))
        axis.set(xlabel="distance, Å", ylabel="energy less the atoms', eV", ylim=(-15, 60), title="Dimers")
        axis.legend(frameon=False)

    lowest = min(depth, key=depth.__getitem__)
    figures = {"pairs": len(curves), "least energy at 0.5 Å less the atoms', eV": {lowest: depth[lowest]}}
    return Outcome(figures, faults, (draw,))


def cutoff(models: Models, quick: bool) -> Outcome:
    """The force of each pair just inside its cutoff."""
    potential, faults, orders, curves = models.exact.potential, [], [], {}
    names = potential.type_names
    steps = np.geomspace(2e-5, 2e-4, 4 if quick else 10)
    for i, j in combinations_with_replacement(range(len(names)), 2):
        edge = float(max(potential.cutoffs[i, j], potential.cutoffs[j, i]))
        force = np.array([abs(_pair(names[i], names[j], edge - x, models.exact)[1]) for x in steps])
        if _pair(names[i], names[j], edge + 1e-6, models.exact)[1] != 0.0:
            faults.append(f"{names[i]}-{names[j]} has a force beyond its cutoff of {edge} Å")
        curves[names[i], names[j]] = force
        orders.append(float(np.polyfit(np.log(steps), np.log(force), 1)[0]))
        if not 1.9 < orders[-1] < 2.1:
            faults.append(
                f"{names[i]}-{names[j]}: the force is of order {orders[-1]:.2f} at the cutoff, not 2"
            )

    def draw(axis: Axes) -> None:
        for force in curves.values():
            axis.loglog(steps, force, color="0.6", linewidth=0.8)
        axis.loglog(steps, 0.1 * steps**2, "--", color="#c8553d", label="∝ distance²")
        axis.set(xlabel="distance inside the cutoff, Å", ylabel="|force|, eV/Å", title="Forces at the cutoff")
        axis.legend(frameon=False)

    figures = {
        "pairs": len(orders),
        "least and largest order": [round(min(orders), 3), round(max(orders), 3)],
    }
    return Outcome(figures, faults, (draw,))


def _crowd(rng: np.random.Generator, names: list[str], count: int, apart: float) -> Atoms:
    """Return ``count`` atoms of random elements at random places in a cube, no two closer than ``apart``."""
    size = 1.9 * count ** (1 / 3)
    while True:
        positions = rng.uniform(0, size, (count, 3))
        if count < 2 or pdist(positions).min() >= apart:
            return Atoms(rng.choice(names, count), positions)


def extensivity(models: Models, quick: bool) -> Outcome:
    """Energies of systems side by side and of repeated cells."""
    rng, worst, faults = np.random.default_rng(0), {}, []
    names = list(models.exact.potential.type_names)
    for label, calculator in (("exported", models.used), ("float64", models.exact)):

        def energy(atoms: Atoms, calculator: Calculator = calculator) -> float:
            calculator.calculate(atoms)
            return float(calculator.results["energy"])

        differences = []
        for _ in range(3 if quick else 20):
            a, b = _crowd(rng, names, 8, 0.9), _crowd(rng, names, 11, 0.9)
            both = a.copy()
            moved = b.copy()
            moved.translate([60.0, 0, 0])
            both += moved
            differences.append(abs(energy(both) - energy(a) - energy(b)) / len(both))
            a.set_cell([7.0, 7.5, 8.0])
            a.pbc = True
            differences.append(abs(energy(a.repeat((2, 1, 2))) - 4 * energy(a)) / (4 * len(a)))
        worst[label] = float(f"{max(differences):.2g}")
    for label, bound in (("exported", 2e-5), ("float64", 1e-10)):
        if worst[label] > bound:
            faults.append(f"{label}: energies are extensive to {worst[label]} eV/atom, not {bound}")

    def draw(axis: Axes) -> None:
        axis.bar(list(worst), list(worst.values()), color=["#1668b4", "#b8b8b8"])
        axis.set(yscale="log", ylabel="largest difference, eV/atom", title="Extensivity")

    return Outcome({"largest difference, eV/atom": worst}, faults, (draw,))


def random(models: Models, quick: bool) -> Outcome:
    """Energies and forces of random configurations."""
    rng, faults, count = np.random.default_rng(1), [], 200 if quick else 10_000
    names, largest, sums = list(models.used.potential.type_names), [], []
    for number in range(count):
        atoms = _crowd(rng, names, int(rng.integers(1, 25)), 0.7)
        models.used.calculate(atoms)
        energy, force = models.used.results["energy"], models.used.results["forces"]
        if not (np.isfinite(energy) and np.isfinite(force).all()):
            faults.append(f"configuration {number} has energy {energy}")
            continue
        largest.append(float(np.abs(force).max()))
        sums.append(float(np.abs(force.sum(0)).max() / max(1.0, largest[-1])))
    if max(sums) > 1e-5:
        faults.append(f"forces sum to {max(sums):.1e} of the largest, not zero")

    def draw(axis: Axes) -> None:
        axis.hist(np.log10([x for x in largest if x > 0]), bins=40, color="#1668b4")
        axis.set(xlabel="log₁₀ of the largest force, eV/Å", ylabel="configurations", title="Random places")

    figures = {"configurations": count, "median largest force, eV/Å": round(float(np.median(largest)), 1)}
    figures["largest sum of forces over the largest force"] = float(f"{max(sums):.2g}")
    return Outcome(figures, faults, (draw,))


def drift(times: ArrayLike, totals: ArrayLike, atoms: int) -> float:
    """Return the slope of the line through total energies (eV) over times (fs), meV/atom/ps."""
    return float(np.polyfit(np.asarray(times) / 1000, 1000 * np.asarray(totals) / atoms, 1)[0])


def _rounded(found: dict[str, dict[float, float]]) -> dict[str, dict[str, float]]:
    return {label: {str(dt): float(f"{x:.3g}") for dt, x in d.items()} for label, d in found.items()}


def energy(models: Models, quick: bool) -> Outcome:
    """Fluctuation and drift of the total energy of ethanol at 300 K by time step, in both precisions."""
    start = molecule("CH3CH2OH")
    start.calc = models.exact
    BFGS(start, logfile=None).run(fmax=0.01, steps=200)
    MaxwellBoltzmannDistribution(start, temperature_K=600, rng=np.random.default_rng(0))
    Stationary(start)
    ZeroRotation(start)
    length = 100.0 if quick else 2000.0  # fs
    deviation: dict[str, dict[float, float]] = {}
    slope: dict[str, dict[float, float]] = {}
    for label, calculator in (("exported", models.used), ("float64", models.exact)):
        for dt in (0.25, 0.5, 1.0):
            atoms, totals = start.copy(), []
            atoms.calc = calculator
            run = VelocityVerlet(atoms, dt * units.fs)
            run.attach(lambda a=atoms, t=totals: t.append(a.get_total_energy()), interval=round(1 / dt))
            run.run(round(length / dt))
            deviation.setdefault(label, {})[dt] = float(np.std(totals)) / len(atoms) * 1000
            times = np.arange(len(totals)) * dt * round(1 / dt)
            slope.setdefault(label, {})[dt] = drift(times, totals, len(atoms))
    faults, orders = [], {}
    for label, found in deviation.items():
        orders[label] = float(np.polyfit(np.log(list(found)), np.log(list(found.values())), 1)[0])
        if not 1.7 < orders[label] < 2.3:
            faults.append(f"{label}: the error of the energy is of order {orders[label]:.2f} in dt, not 2")
        bound = DRIFT["quick" if quick else "full"]
        if not abs(slope[label][0.25]) <= bound:
            faults.append(f"{label}: the energy drifts by {slope[label][0.25]:.2g} meV/atom/ps, not {bound}")

    def draw(axis: Axes) -> None:
        for (label, found), marker in zip(deviation.items(), "ox", strict=True):
            axis.loglog(
                list(found), list(found.values()), marker, label=f"{label}, fitted order {orders[label]:.2f}"
            )
        dt = np.array([0.22, 1.1])
        axis.loglog(dt, deviation["float64"][0.25] * (dt / 0.25) ** 2, color="0.7", zorder=0, label="∝ dt²")
        axis.set(xlabel="time step, fs", ylabel="std of total energy, meV/atom", title="Energy conservation")
        axis.set_xticks(list(deviation["float64"]), list(map(str, deviation["float64"])))
        axis.legend(frameon=False)

    figures = {
        "length_fs": length,
        "std of total energy by dt in fs, meV/atom": _rounded(deviation),
        "drift by dt in fs, meV/atom/ps": _rounded(slope),
        "order": {k: round(v, 3) for k, v in orders.items()},
    }
    return Outcome(figures, faults, (draw,))
