"""Protocols of matbench-discovery with an exported model: discovery, kappa, diatomics, molecular dynamics, with times.

    python -m benchmarks.protocols.matbench model.pt2 --reference emt --json benchmarks/results/matbench.json

The settings of each protocol are those of matbench-discovery (janosh/matbench-discovery: ``discovery.py``,
``phonons/``, ``diatomics.py``, ``md.py``); structures and lengths are small, and the reference is another calculator
where that project has DFT. ``--structures`` takes structures of your own, whose first frame of each element alone is
its elemental reference.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms, units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.filters import FrechetCellFilter
from ase.geometry import get_distances
from ase.md.nose_hoover_chain import NoseHooverChainNVT
from ase.optimize import FIRE
from benchmarks.common import write_record

Make = Callable[[], Any]
SYSTEMS, STEPS = 17, 80_000
"""Of the molecular dynamics of matbench-discovery."""
DISPLACEMENT, MESH, TEMPERATURE = 0.03, 9, 300.0
"""Å, q points along each axis, and K of kappa; matbench-discovery's meshes are those of each structure's reference."""


def polymorphs(symbol: str, a: float) -> list[Atoms]:
    """Return crystals of one element, away from their minima, the ground state of an fcc metal first."""
    volume = a**3 / 4
    found = [
        bulk(symbol, "fcc", a=0.98 * a, cubic=True),
        bulk(symbol, "hcp", a=0.98 * a / 2**0.5),
        bulk(symbol, "bcc", a=(2 * volume) ** (1 / 3)),
        bulk(symbol, "sc", a=0.95 * volume ** (1 / 3)),
        bulk(symbol, "diamond", a=1.4 * a),
    ]
    for atoms, name in zip(found, ("fcc", "hcp", "bcc", "sc", "diamond"), strict=True):
        atoms.info["name"] = f"{symbol}, {name}"
        atoms.rattle(0.01, seed=0)
    return found


def discovery(make: Make, structures: Sequence[Atoms]) -> list[dict[str, Any]]:
    """Relax every structure (FIRE, FrechetCellFilter, 0.05 eV/Å, 500 steps); formation energies, eV per atom.

    The elemental reference is the first structure of one element alone, relaxed alike.
    """
    rows, elemental = [], {}
    for atoms in sorted(structures, key=lambda s: len(set(s.symbols))):
        atoms = atoms.copy()
        atoms.calc = make()
        begin = time.perf_counter()
        run = FIRE(FrechetCellFilter(atoms), logfile=None)
        converged = bool(run.run(fmax=0.05, steps=500))
        energy = float(atoms.get_potential_energy()) / len(atoms)
        seconds = time.perf_counter() - begin
        symbols = list(atoms.symbols)
        if len(set(symbols)) == 1:
            elemental.setdefault(symbols[0], energy)
        unknown = sorted(set(symbols) - set(elemental))
        if unknown:
            raise SystemExit(f"structures must hold a structure of each element alone, got none of {unknown}")
        reference = sum(elemental[s] for s in symbols) / len(atoms)
        rows.append(
            {
                "structure": atoms.info.get("name", atoms.get_chemical_formula()),
                "atoms": len(atoms),
                "steps": run.get_number_of_steps(),
                "converged": converged,
                "formation_energy": energy - reference,
                "volume": atoms.get_volume() / len(atoms),
                "seconds": seconds,
            }
        )
    return rows


def kappa(make: Make, atoms: Atoms, repeats: int = 2) -> dict[str, Any]:
    """Relax (1e-4 eV/Å, 300 steps), then the conductivity of the lattice with isotopes, W/(m K), and of its modes.

    In the relaxation-time approximation; matbench-discovery adds the coherences of Wigner's equation.
    """
    from phono3py import Phono3py
    from phonopy.structure.atoms import PhonopyAtoms
    from phonopy.structure.cells import guess_primitive_matrix

    begin = time.perf_counter()
    atoms = atoms.copy()
    atoms.calc = make()
    FIRE(FrechetCellFilter(atoms), logfile=None).run(fmax=1e-4, steps=300)
    cell = PhonopyAtoms(
        symbols=list(atoms.symbols), cell=atoms.cell, scaled_positions=atoms.get_scaled_positions()
    )
    matrix = repeats * np.eye(3, dtype=int)
    primitive = guess_primitive_matrix(cell, symprec=1e-3)
    third = Phono3py(cell, matrix, phonon_supercell_matrix=matrix, primitive_matrix=primitive, symprec=1e-3)
    third.mesh_numbers = [MESH] * 3
    third.generate_displacements(distance=DISPLACEMENT)

    def forces_of(supercells: Sequence[Any]) -> np.ndarray:
        """Forces of every displaced supercell, with one calculator, whose neighbor list is reused."""
        calculator, forces = make(), []
        for s in supercells:
            moved = Atoms(s.symbols, cell=s.cell, positions=s.positions, pbc=True, calculator=calculator)
            forces.append(moved.get_forces())
        return np.array(forces)

    third.phonon_forces = forces_of(third.phonon_supercells_with_displacements)
    third.forces = forces_of(third.supercells_with_displacements)
    evaluations = len(third.phonon_supercells_with_displacements) + len(third.supercells_with_displacements)
    seconds = time.perf_counter() - begin
    third.produce_fc2()
    third.symmetrize_fc2()
    third.produce_fc3()
    third.symmetrize_fc3()
    third.init_phph_interaction()
    third.run_thermal_conductivity(temperatures=[TEMPERATURE], is_isotope=True)
    result = third.thermal_conductivity
    modes = np.asarray(result.mode_kappa[0]) / np.asarray(result.grid_weights).sum()
    return {
        "kappa": float(np.asarray(result.kappa)[0, 0, :3].mean()),
        "modes": modes[..., :3].mean(-1),
        "lowest_THz": float(np.asarray(result.frequencies).min()),
        "evaluations": evaluations,
        "seconds": seconds,
    }


def srme(found: dict[str, Any], reference: dict[str, Any]) -> float:
    """Return the symmetric relative mean error of mode conductivities, 0 to 2; 2 for imaginary frequencies."""
    if found["lowest_THz"] < -0.01 or found["modes"].shape != reference["modes"].shape:
        return 2.0
    difference = np.abs(found["modes"] - reference["modes"]).sum()
    return float(2 * difference / (found["kappa"] + reference["kappa"]))


def diatomics(make: Make, symbol: str, shortest: float = 0.9, points: int = 100) -> dict[str, Any]:
    """Curve of a pair in a box of 50 Å, and what is wrong with its shape."""
    distances = np.linspace(shortest, 6.0, points)
    calculator, energies, forces = make(), [], []
    begin = time.perf_counter()
    for d in distances:
        atoms = Atoms([symbol] * 2, positions=[[25, 25, 25], [25 + d, 25, 25]], cell=[50] * 3, pbc=True)
        energies.append(calculator.get_potential_energy(atoms))
        forces.append(calculator.get_forces(atoms)[1, 0])
    e, f = np.array(energies), np.array(forces)
    steps = np.diff(e)
    signs = np.sign(steps[np.abs(steps) > 1e-3])
    middle = 0.5 * (f[1:] + f[:-1]) + steps / np.diff(distances)
    return {
        "pair": f"{symbol}-{symbol}",
        "minimum": float(distances[e.argmin()]),
        "energy_flips": int((np.diff(signs) != 0).sum()),
        "force_flips": int((np.diff(np.sign(f[np.abs(f) > 1e-2])) != 0).sum()),
        "tortuosity": float(np.abs(steps).sum() / (abs(e[0] - e.min()) + (e[-1] - e.min()))),
        "conservation": float(np.abs(middle).mean()),
        "seconds": time.perf_counter() - begin,
    }


def dynamics(make: Make, atoms: Atoms, temperature: float, steps: int, seed: int = 0) -> dict[str, Any]:
    """NVT of 0.25 fs (Nosé–Hoover, 25 fs), a frame every 10 steps; pair distribution and seconds per step."""
    atoms = atoms.copy()
    atoms.calc = make()
    spread = np.sqrt(atoms.get_masses() * units.kB * temperature)[:, None]
    atoms.set_momenta(spread * np.random.default_rng(seed).standard_normal((len(atoms), 3)))
    timestep = 0.25 * units.fs
    run = NoseHooverChainNVT(
        atoms, timestep=timestep, temperature_K=temperature, tdamp=100 * timestep, tchain=1
    )
    frames: list[np.ndarray] = []
    run.attach(lambda: frames.append(atoms.positions.copy()), interval=10)
    atoms.get_forces()
    begin = time.perf_counter()
    run.run(steps)
    seconds = time.perf_counter() - begin
    half = len(frames) // 2
    radii, g = pair_distribution(frames[half:], atoms)
    return {
        "atoms": len(atoms),
        "temperature": float(atoms.get_temperature()),
        "seconds_per_step": seconds / steps,
        "radii": radii,
        "g": g,
    }


def pair_distribution(
    frames: Sequence[np.ndarray], atoms: Atoms, bins: int = 100
) -> tuple[np.ndarray, np.ndarray]:
    """Return g(r) up to half the shortest cell length."""
    edges = np.linspace(0, 0.5 * atoms.cell.lengths().min(), bins + 1)
    counts, pairs = np.zeros(bins), np.triu_indices(len(atoms), 1)
    for positions in frames:
        _, distances = get_distances(positions, cell=atoms.cell, pbc=True)
        counts += np.histogram(distances[pairs], edges)[0]
    shells = 4 / 3 * np.pi * np.diff(edges**3)
    ideal = 0.5 * len(atoms) ** 2 / atoms.get_volume() * shells * len(frames)
    return 0.5 * (edges[1:] + edges[:-1]), counts / ideal


def rdf_error(found: dict[str, Any], reference: dict[str, Any]) -> float:
    """Return 100 min(1, ∫|g − g_ref| / ∫|g_ref − 1|), percent."""
    above = np.trapezoid(np.abs(found["g"] - reference["g"]), found["radii"])
    return float(100 * min(1.0, above / np.trapezoid(np.abs(reference["g"] - 1), found["radii"])))


def full_seconds(runs: Sequence[dict[str, Any]]) -> float:
    """Return the seconds that matbench-discovery reports: of 80,000 steps for each of 17 systems.

    Here from the mean time of a step and atom, and 17 systems of the mean size of those that ran.
    """
    per_atom = np.mean([r["seconds_per_step"] / r["atoms"] for r in runs])
    return float(SYSTEMS * STEPS * per_atom * np.mean([r["atoms"] for r in runs]))


def calculator_of(name: str) -> Make:
    """Return what makes a calculator: of an exported model, or of EMT."""
    if name == "emt":
        return EMT
    from mlip_export.ase import Calculator

    return lambda: Calculator(name)


def compare(model: Make, reference: Make, options: argparse.Namespace) -> dict[str, Any]:
    """Run the four protocols with both calculators."""
    symbol, a = options.element, options.lattice
    structures = ase.io.read(options.structures, ":") if options.structures else polymorphs(symbol, a)
    found, expected = (discovery(make, structures) for make in (model, reference))
    for row, other in zip(found, expected, strict=True):
        row["reference"], row["reference_steps"] = other["formation_energy"], other["steps"]
    errors = [abs(row["formation_energy"] - row["reference"]) for row in found]
    crystal = bulk(symbol, a=a, cubic=True)
    k, k_reference = (kappa(make, crystal, options.repeats) for make in (model, reference))
    curve, curve_reference = (diatomics(make, symbol) for make in (model, reference))
    box = bulk(symbol, a=1.02 * a, cubic=True) * 2
    runs = {}
    for temperature in options.temperatures:
        pair = [dynamics(make, box, temperature, options.steps) for make in (model, reference)]
        runs[temperature] = {
            "atoms": len(box),
            "steps": options.steps,
            "rdf_error_percent": rdf_error(*pair),
            "ms_per_step": 1e3 * pair[0]["seconds_per_step"],
            "seconds_per_step": pair[0]["seconds_per_step"],
        }
    return {
        "discovery": {"rows": found, "mae": float(np.mean(errors))},
        "kappa": {
            "kappa": k["kappa"],
            "reference": k_reference["kappa"],
            "srme": srme(k, k_reference),
            "evaluations": k["evaluations"],
            "seconds": k["seconds"],
        },
        "diatomics": {"model": curve, "reference": curve_reference},
        "dynamics": {str(t): row for t, row in runs.items()},
        "full_seconds": full_seconds(list(runs.values())),
    }


def main() -> None:
    """Run the protocols, print their results and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", help="exported model, or emt")
    parser.add_argument("--reference", default="emt", help="exported model, or emt")
    parser.add_argument("--element", default="Cu", help="of kappa, diatomics and dynamics")
    parser.add_argument("--lattice", type=float, default=3.59, help="its fcc lattice constant, Å")
    parser.add_argument("--structures", type=Path, help="of discovery, a file that ASE reads")
    parser.add_argument("--repeats", type=int, default=2, help="cells along each axis of kappa")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[300.0, 1500.0], help="K")
    parser.add_argument("--steps", type=int, default=400, help="of dynamics; 80,000 there")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    results = compare(calculator_of(options.model), calculator_of(options.reference), options)
    for name, value in results.items():
        print(name, value, sep="\n  ")
    write_record(options.json, **results)


if __name__ == "__main__":
    main()
