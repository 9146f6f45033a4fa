"""Structure and diffusion of liquid water: 64 molecules at 0.997 g/cm³, with a thermostat of 300 K, then without.

The shipped potential was trained on GFN2-xTB, a semi-empirical method whose water is known to be too mobile, with
hydrogen bonds that are too weak (Wu et al., arXiv 2503.11867); of water it has seen clusters only. So the bounds ask
for a liquid, not for agreement with experiment, whose values are given for orientation. Bounds for any length of run:

- Every O has its own two H within 1.2 Å, in every frame.
- No O-H pair between 1.2 and 1.4 Å, no O-O pair below 2.2 Å, no H-H pair below 1.1 Å.
- The mean number of other O within half the box, from the integral of g(r), is what the density gives, less one, to
  10 %: a sum rule of liquids of small compressibility, approximate because the shells do not end within half the box.
- The first peak of g(O-O) lies between 2.6 and 3.0 Å.
- The total energy at constant energy drifts by less than 0.2 meV/atom (quick) or 0.02 meV/atom/ps (full).

Bounds of the full run: the mean temperature is 300 ± 25 K; self-diffusion is 0.5 to 15 x 10⁻⁹ m²/s, and more than
three standard errors from zero; g(O-O) is 1 ± 0.25 in the last Å before half the box, where the second shell ends.

Diffusion is a sixth of the slope of the mean square displacement of O (Einstein) between 1 and 2 ps, with all time
origins of a block; error bars are standard errors of the mean over blocks. The correction for the size of the box,
2.837297 kT/(6πηL) (Yeh and Hummer, J. Phys. Chem. B 108, 15873 (2004)), is given with the viscosity of real water,
not of the model.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from ase import Atoms, units
from ase.build import molecule
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary
from ase.md.verlet import VelocityVerlet
from ase.optimize import FIRE
from benchmarks.physics.outcome import Models, Outcome
from matplotlib.axes import Axes

from mlip_export.ase import Calculator

TEMPERATURE, DENSITY, STEP, EVERY = 300.0, 0.997, 0.5, 20
"""K, g/cm³, fs, steps between samples."""
VISCOSITY = 0.85e-3
"""Pa s, of real water at 300 K."""
PAIRS = {"O-O": (0, 0), "O-H": (0, 1), "H-H": (1, 1)}
"""Kinds of atoms: 0 O, 1 H."""
HOLES = {"O-H": (1.2, 1.4), "O-O": (0.0, 2.2), "H-H": (0.0, 1.1)}
"""Å between which no pair may be."""


class Length(NamedTuple):
    """Molecules along an edge of the box, ps of both parts, blocks, and ps between which slopes are fitted."""

    per_side: int
    equilibration: float
    production: float
    blocks: int
    window: tuple[float, float]


QUICK, FULL = Length(3, 0.2, 0.3, 2, (0.05, 0.1)), Length(4, 2.0, 12.0, 4, (1.0, 2.0))


def box(per_side: int, rng: np.random.Generator) -> Atoms:
    """Return molecules (O, H, H in a row) on a grid in random orientations, in a cube of the density."""
    side = (per_side**3 * 18.0153 / DENSITY / units.mol * 1e24) ** (1 / 3)
    atoms = Atoms(cell=[side] * 3, pbc=True)
    for place in np.ndindex(per_side, per_side, per_side):
        water = molecule("H2O")
        water.euler_rotate(*rng.uniform(0, 360, 3), center=water.positions[0])
        water.translate(side / per_side * np.array(place) - water.positions[0])
        atoms += water
    return atoms


class Run(NamedTuple):
    """Unwrapped positions (frames, atoms, 3), and total energies and temperatures of the frames."""

    positions: np.ndarray
    energies: np.ndarray
    temperatures: np.ndarray


def simulate(calculator: Calculator, length: Length, seed: int = 0) -> tuple[Atoms, Run]:
    """Relax a grid of molecules, thermostat it, and return the run at constant energy."""
    rng = np.random.default_rng(seed)
    atoms = box(length.per_side, rng)
    atoms.calc = calculator
    FIRE(atoms, logfile=None, dt=0.05).run(fmax=1.0, steps=50)
    MaxwellBoltzmannDistribution(atoms, temperature_K=TEMPERATURE, rng=rng)
    step = STEP * units.fs
    thermostat = Langevin(
        atoms, step, temperature_K=TEMPERATURE, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    thermostat.run(round(1000 * length.equilibration / STEP))
    Stationary(atoms, preserve_temperature=True)
    positions, energies, temperatures = [], [], []

    def sample() -> None:
        positions.append(atoms.get_positions())
        energies.append(atoms.get_total_energy())
        temperatures.append(atoms.get_temperature())

    dynamics = VelocityVerlet(atoms, step)
    dynamics.attach(sample, interval=EVERY)
    dynamics.run(round(1000 * length.production / STEP))
    return atoms, Run(np.array(positions), np.array(energies), np.array(temperatures))


def distances(positions: np.ndarray, side: float, first: int, second: int) -> np.ndarray:
    """Return the distances of all pairs of two kinds in a frame, each once."""
    kinds = [positions[0::3], np.delete(positions, np.s_[0::3], axis=0)]
    vectors = kinds[first][:, None] - kinds[second][None]
    vectors -= side * np.round(vectors / side)
    lengths = np.linalg.norm(vectors, axis=-1)
    return lengths[np.triu_indices(len(lengths), 1)] if first == second else lengths.ravel()


def distributions(run: Run, side: float, edges: np.ndarray) -> dict[str, np.ndarray]:
    """Return g(r) of each frame, (frames, bins), for O-O, O-H and H-H."""
    molecules, shells = run.positions.shape[1] // 3, 4 / 3 * np.pi * np.diff(edges**3)
    out = {}
    for name, (first, second) in PAIRS.items():
        counts = np.array([np.histogram(distances(p, side, first, second), edges)[0] for p in run.positions])
        numbers = (molecules * (1 + first), molecules * (1 + second))
        pairs = numbers[0] * numbers[1] / (2 if first == second else 1)
        out[name] = counts / (pairs * shells / side**3)
    return out


def whole(positions: np.ndarray, side: float, bond: float = 1.2) -> bool:
    """Return whether every O has its own two H, and no other, within ``bond``."""
    molecules = len(positions) // 3
    near = distances(positions, side, 0, 1).reshape(molecules, 2 * molecules) < bond
    return bool((near == np.repeat(np.eye(molecules, dtype=bool), 2, axis=1)).all())


def displacements(oxygen: np.ndarray, count: int) -> np.ndarray:
    """Return ``count`` mean square displacements of trajectories (frames, atoms, 3), over all time origins."""
    lags = range(1, count)
    return np.array([0.0] + [float(((oxygen[k:] - oxygen[:-k]) ** 2).sum(-1).mean()) for k in lags])


def in_blocks(values: np.ndarray, blocks: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean of values over frames (the first axis), and its standard error from means of blocks."""
    means = np.array([block.mean(0) for block in np.array_split(values, blocks)])
    return values.mean(0), means.std(0, ddof=1) / np.sqrt(blocks)


def spread(mean: float, error: float) -> dict[str, float]:
    """Return a mean and its standard error as a record holds them."""
    return {"mean": round(float(mean), 2), "standard error": round(float(error), 2)}


def diffusion(run: Run, length: Length) -> tuple[float, float, np.ndarray, np.ndarray]:
    """Return self-diffusion and its standard error in 10⁻⁹ m²/s, and times (ps) and displacements (Å²) for a plot."""
    oxygen = run.positions[:, 0::3] - run.positions[:, 0::3].mean(1, keepdims=True)
    frame = STEP * EVERY / 1000
    times = frame * np.arange(round(length.window[1] / frame) + 1)
    inside = times >= length.window[0]
    curves = np.array([displacements(b, len(times)) for b in np.array_split(oxygen, length.blocks)])
    values = np.polyfit(times[inside], curves[:, inside].T, 1)[0] / 6 * 10  # Å²/ps is 10⁻⁸ m²/s
    error = values.std(ddof=1) / np.sqrt(len(values))
    return float(values.mean()), float(error), times, curves.mean(0)


def structure(run: Run, side: float, length: Length) -> Outcome:
    """Radial distribution functions, their holes, peak and normalization."""
    molecules, faults = run.positions.shape[1] // 3, []
    edges = np.arange(0.0, side / 2, 0.1 if length is QUICK else 0.05)
    middle, shells = (edges[1:] + edges[:-1]) / 2, 4 / 3 * np.pi * np.diff(edges**3)
    mean = {k: in_blocks(g, length.blocks) for k, g in distributions(run, side, edges).items()}
    broken = sum(not whole(p, side) for p in run.positions)
    if broken:
        faults.append(f"{broken} of {len(run.positions)} frames have a molecule that is not whole")
    for name, (low, high) in HOLES.items():
        if mean[name][0][(middle > low) & (middle < high)].any():
            faults.append(f"{name} pairs between {low} and {high} Å")
    oo = mean["O-O"][0]
    within = float((oo * shells).sum() * (molecules - 1) / side**3)
    expected = float(molecules * 4 / 3 * np.pi * edges[-1] ** 3 / side**3) - 1
    if abs(within - expected) > 0.1 * expected:
        faults.append(f"{within:.2f} O within {edges[-1]:.2f} Å of another, the density gives {expected:.2f}")
    top = int(np.where(middle < 3.5, oo, 0.0).argmax())
    if not 2.6 <= middle[top] <= 3.0:
        faults.append(f"the first O-O peak is at {middle[top]:.2f} Å, not 2.6 to 3.0")
    last = float(oo[middle > edges[-1] - 1].mean())
    if length is not QUICK and abs(last - 1) > 0.25:
        faults.append(f"g(O-O) is {last:.2f} in the last Å, not 1 ± 0.25")
    figures = {
        "first O-O peak, Å (measured 2.80)": round(float(middle[top]), 3),
        "its height (measured 2.57)": spread(*(x[top] for x in mean["O-O"])),
        "O within half the box, and from the density": [round(within, 2), round(expected, 2)],
        "g(O-O) in the last Å": round(last, 3),
    }

    def panel(axis: Axes) -> None:
        for name, (value, error) in mean.items():
            axis.plot(middle, value, label=name)
            axis.fill_between(middle, value - error, value + error, alpha=0.3)
        axis.set(xlabel="distance, Å", ylabel="g(r)", ylim=(0, 4), title="Water: structure")
        axis.legend(frameon=False)

    return Outcome(figures, faults, (panel,))


def motion(run: Run, side: float, length: Length) -> Outcome:
    """Conservation of energy, temperature and self-diffusion."""
    faults, quick, frames = [], length is QUICK, len(run.energies)
    times = STEP * EVERY / 1000 * np.arange(frames)
    drift = float(np.polyfit(times, 1000 * run.energies / run.positions.shape[1], 1)[0])
    if abs(drift) * (length.production if quick else 1.0) > (0.2 if quick else 0.02):
        faults.append(f"the energy drifts by {drift:.2g} meV/atom/ps")
    heat, heat_error = map(float, in_blocks(run.temperatures, length.blocks))
    d, d_error, lags, curve = diffusion(run, length)
    size = 2.837297 * units._k * heat / (6 * np.pi * VISCOSITY * side * 1e-10) * 1e9
    if not quick and abs(heat - TEMPERATURE) > 25:
        faults.append(f"the mean temperature is {heat:.0f} K, not 300 ± 25")
    if not quick and (not 0.5 <= d <= 15 or d < 3 * d_error):
        faults.append(f"diffusion is {d:.2f} ± {d_error:.2f} x 10⁻⁹ m²/s, not 0.5 to 15")
    figures = {
        "drift, meV/atom/ps": float(f"{drift:.2g}"),
        "mean temperature, K": spread(heat, heat_error),
        "diffusion, 10⁻⁹ m²/s (measured 2.3)": spread(d, d_error),
        "to add for the size of the box, with real water's viscosity": round(size, 2),
    }

    def panel(axis: Axes) -> None:
        axis.plot(lags, curve, color="#1668b4")
        inside = lags >= length.window[0]
        line = np.polyfit(lags[inside], curve[inside], 1)
        axis.plot(lags[inside], np.polyval(line, lags[inside]), "--", color="#c8553d", label="fitted slope")
        axis.set(xlabel="time, ps", ylabel="mean square displacement of O, Å²", title="Water: diffusion")
        axis.legend(frameon=False)

    return Outcome(figures, faults, (panel,))


def water(models: Models, quick: bool) -> Outcome:
    """Radial distribution functions, self-diffusion and conservation of energy of the liquid."""
    length = QUICK if quick else FULL
    atoms, run = simulate(models.used, length)
    parts = [part(run, float(atoms.cell[0, 0]), length) for part in (structure, motion)]
    head = {"molecules": len(atoms) // 3, "ps": length.production}
    faults = [fault for part in parts for fault in part.faults]
    return Outcome(
        head | parts[0].figures | parts[1].figures, faults, tuple(p for part in parts for p in part.panels)
    )
