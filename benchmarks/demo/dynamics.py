"""Second half of the demo, run in its folder: the package in ASE and LAMMPS, checked against each other and drawn."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
from ase import Atoms, units
from ase.io.lammpsdata import write_lammps_data
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import spice_data
from mlip_export.ase import Calculator

matplotlib.use("agg")
import matplotlib.pyplot as plt

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
    """Predict, run, compare, draw; write demo.json."""
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
    runs = {}
    for dt in (0.5, 0.25):
        runs[f"ASE, {dt} fs"] = ase_energies(start, package, dt, round(5 / dt))
        print(f"ASE, {dt} fs: {len(start)} atoms, {PICOSECONDS} ps", flush=True)
    first = None
    for ranks in (1, 2):
        rows = lammps_energies(sys.argv[1], types, package, 0.5, 10, ranks)
        first = rows if first is None else first
        runs[f"LAMMPS, 0.5 fs, {ranks} rank{'s' if ranks > 1 else ''}"] = rows[:, 0], rows[:, 2]
        print(f"LAMMPS on {ranks} rank(s): {PICOSECONDS} ps", flush=True)
    difference = abs(first[0, 1] - start.get_potential_energy())
    spread = {name: float(np.std(e)) / len(start) * 1000 for name, (_, e) in runs.items()}
    if difference > 1e-8:
        sys.exit(f"LAMMPS differs from ASE by {difference} eV at step 0")

    evaluation = json.loads(Path("evaluation/evaluation.json").read_text())
    draw(reference, ours, runs, len(start))
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


def draw(
    reference: np.ndarray, ours: np.ndarray, runs: dict[str, tuple[np.ndarray, np.ndarray]], atoms: int
) -> None:
    """Learning curve, parity of held-out forces, conservation of energy: demo.png."""
    rows = list(csv.DictReader(Path("run/metrics.csv").open()))
    figure, (left, middle, right) = plt.subplots(1, 3, figsize=(13, 3.9), layout="constrained")
    epochs = [int(row["epoch"]) + 1 for row in rows]
    for part, style in (("train", ":"), ("validation", "-")):
        for quantity, color in (("energy_per_atom", "tab:blue"), ("forces", "tab:orange")):
            values = [1000 * float(row[f"{part}/{quantity}_mae"]) for row in rows]
            unit = "meV/atom" if quantity != "forces" else "meV/Å"
            left.plot(epochs, values, style, color=color, label=f"{part} {quantity.split('_')[0]}, {unit}")
    left.set(xlabel="epoch", ylabel="mean absolute error", yscale="log", title="training")
    left.legend(fontsize=8)
    edge = 1.05 * np.abs(reference).max()
    middle.plot([-edge, edge], [-edge, edge], color="0.7", lw=1)
    middle.plot(reference, ours, ".", ms=2, alpha=0.5)
    middle.set(
        xlabel="reference force, eV/Å",
        ylabel="model force, eV/Å",
        title="molecules never seen, from the .pt2",
    )
    for name, (t, e) in runs.items():
        right.plot(t, 1000 * (e - e[0]) / atoms, label=name, lw=1.2, ls="--" if "2 ranks" in name else "-")
    right.set(
        xlabel="time, ps",
        ylabel="total energy − start, meV/atom",
        title="constant-energy dynamics, one package",
    )
    right.legend(fontsize=8)
    figure.savefig("demo.png", dpi=130)


if __name__ == "__main__":
    main()
