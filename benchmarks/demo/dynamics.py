"""Second half of the demo, run in its folder: the exported model in ASE and LAMMPS, compared and recorded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import spice_data
from mlip_export.ase import Calculator

PICOSECONDS = 0.5


def held_out() -> tuple[list[Atoms], list[np.ndarray], np.ndarray]:
    """The test frames, their reference forces and energies (eV)."""
    with spice_data.Store("neutral.store") as store:
        frames = [store[int(i)] for i in spice_data.Split.load("split.json", store).test]
        atoms = [Atoms(f.numbers, f.positions, info={"name": f.name, "smiles": f.smiles}) for f in frames]
        return atoms, [f.forces for f in frames], np.array([f.energy for f in frames])


def start_of_dynamics(frames: list[Atoms], package: str) -> Atoms:
    """The largest held-out molecule that is one piece, in a box, relaxed with the package, at 300 K."""
    whole = [atoms for atoms in frames if "." not in atoms.info["smiles"]]
    atoms = max(whole, key=len).copy()
    atoms.set_cell([24.0] * 3)
    atoms.center()
    atoms.pbc = True
    atoms.calc = Calculator(package)
    BFGS(atoms, logfile=None).run(fmax=0.02, steps=200)
    masses = atoms.get_masses()[:, None]  # 600 K: half of it goes to potential energy
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * np.sqrt(masses * 600 * units.kB)
    atoms.set_momenta(momenta - masses * momenta.sum(0) / masses.sum())
    return atoms


def ase_energies(
    atoms: Atoms, package: str, femtoseconds: float, every: int
) -> tuple[np.ndarray, np.ndarray]:
    """Time (ps) and total energy (eV) of constant-energy dynamics in ASE."""
    atoms = atoms.copy()
    atoms.calc = Calculator(package)
    energies = []
    dynamics = VelocityVerlet(atoms, femtoseconds * units.fs)
    dynamics.attach(lambda: energies.append(atoms.get_total_energy()), interval=every)
    dynamics.run(round(PICOSECONDS * 1000 / femtoseconds))
    return np.arange(len(energies)) * every * femtoseconds / 1000, np.array(energies)


def lammps_energies(
    script: str, types: list[str], package: str, dt: float, every: int, ranks: int
) -> np.ndarray:
    """Thermo rows (time ps, potential energy eV, total energy eV) of the same dynamics in LAMMPS."""
    bin_directory = Path(sys.executable).parent
    launch = [str(bin_directory / "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
    variables = {"data": "start.data", "model": package, "types": " ".join(types), "dt": str(dt / 1000)}
    variables |= {"steps": str(round(PICOSECONDS * 1000 / dt)), "every": str(every)}
    command = [
        *launch,
        str(bin_directory / "lmp"),
        "-in",
        script,
        "-log",
        f"lammps-{ranks}.log",
        "-screen",
        "none",
    ]
    for name, value in variables.items():
        command += ["-var", name, value]
    subprocess.run(command, check=True)
    rows, inside = [], False
    for line in Path(f"lammps-{ranks}.log").read_text().splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            inside = True
        elif inside and line.startswith("Loop"):
            break
        elif inside:
            rows.append([float(words[1]), float(words[3]), float(words[5])])
    return np.array(rows)


def main() -> None:
    """Predict, run, compare; write demo.json, dynamics.json and forces.npz."""
    package = "model.pt2"
    frames, forces, energies = held_out()
    calculator = Calculator(package)
    predicted, predicted_energies = [], []
    for atoms in frames:
        atoms.calc = calculator
        predicted.append(atoms.get_forces())
        predicted_energies.append(atoms.get_potential_energy())
    reference, ours = np.concatenate(forces).ravel(), np.concatenate(predicted).ravel()
    counts = np.array([len(atoms) for atoms in frames])
    energy_errors = 1000 * (np.array(predicted_energies) - energies) / counts

    start = start_of_dynamics(frames, package)
    types = sorted(set(start.get_chemical_symbols()))
    write_lammps_data("start.data", start, specorder=types, masses=True, velocities=True, units="metal")
    runs = []
    for dt in (1.0, 0.5, 0.25):
        times, totals = ase_energies(start, package, dt, round(5 / dt))
        runs.append({"host": "ASE", "dt_fs": dt, "time_ps": times.tolist(), "energy_eV": totals.tolist()})
        print(f"ASE, {dt} fs: {len(start)} atoms, {PICOSECONDS} ps", flush=True)
    first = None
    for ranks in (1, 2):
        rows = lammps_energies(sys.argv[1], types, package, 0.5, 10, ranks)
        first = rows if first is None else first
        series = {"time_ps": rows[:, 0].tolist(), "energy_eV": rows[:, 2].tolist()}
        runs.append({"host": "LAMMPS", "dt_fs": 0.5, "ranks": f"{ranks} rank" + "s" * (ranks > 1), **series})
        print(f"LAMMPS on {ranks} rank(s): {PICOSECONDS} ps", flush=True)
    spread = {}
    for run in runs:
        name = ", ".join(filter(None, (run["host"], f"{run['dt_fs']} fs", run.get("ranks"))))
        spread[name] = float(np.std(run["energy_eV"])) / len(start) * 1000
    difference = abs(first[0, 1] - start.get_potential_energy())
    if difference > 1e-8:
        sys.exit(f"LAMMPS differs from ASE by {difference} eV at step 0")

    evaluation = json.loads(Path("evaluation/evaluation.json").read_text())
    np.savez("forces.npz", reference=reference, predicted=ours)
    Path("dynamics.json").write_text(json.dumps({"atoms": len(start), "runs": runs}))
    summary = {
        "frames held out": len(frames),
        "molecules held out": len({atoms.info["name"] for atoms in frames}),
        "energy MAE, meV/atom": round(float(np.abs(energy_errors).mean()), 2),
        "forces MAE, meV/Å": round(1000 * float(np.abs(ours - reference).mean()), 1),
        "forces RMSE, meV/Å": round(1000 * float(np.sqrt(((ours - reference) ** 2).mean())), 1),
        "forces RMS of the data, meV/Å": round(1000 * float(np.sqrt((reference**2).mean())), 1),
        "LAMMPS − ASE at step 0, eV": float(difference),
        "std of total energy, meV/atom": {name: round(value, 5) for name, value in spread.items()},
        "evaluation": evaluation,
    }
    Path("demo.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
