"""Check the compiled example potential: errors on held-out frames, and energy conservation of NVE dynamics.

mlip-export compile example -o example.pt2
python benchmarks/example_potential/check.py errors example.pt2 DATA
python benchmarks/example_potential/check.py nve example.pt2 paracetamol --picoseconds 100
python benchmarks/example_potential/check.py nve example.pt2 water64 --picoseconds 20
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import read
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution, Stationary, ZeroRotation
from ase.md.verlet import VelocityVerlet
from ase.neighborlist import build_neighbor_list, natural_cutoffs
from ase.optimize import BFGS
from liquid import LENGTH
from molecules import DRUGS, waters

from mlip_export import GeometryError
from mlip_export.ase import Calculator
from spice_data.example.generate import build
from spice_data.example.molecules import Entry

KELVIN, STEP = 300.0, 0.5  # fs


def name(frame: Atoms) -> tuple[str, ...]:
    """Return the SMILES of the fragments, in alphabetical order."""
    return tuple(sorted(str(frame.info["smiles"]).split(".")))


def errors(package: str, data: Path) -> dict:
    """Return errors per file of test frames; those above 10 eV/Å apart, since few users go there.

    Molecules and pairs that are also trained on, in either order of the pair, are left out; water clusters are other
    geometries of the sizes that are trained on.
    """
    out, trained = {}, {name(frame) for frame in read(data / "train.xyz", ":")}
    for path in sorted(data.glob("test-*.xyz")):
        frames, calculator = read(path, ":"), Calculator(package)
        rows = {"thermal": [], "forced": []}
        for frame in frames:
            if frame.info["kind"] not in ("water", "liquid") and name(frame) in trained:
                continue
            energy, forces = frame.get_potential_energy(), frame.get_forces()
            frame.calc = calculator
            error = (frame.get_potential_energy() - energy) / len(frame), frame.get_forces() - forces
            rows["thermal" if np.abs(forces).max() < 10 else "forced"].append(error)
        for kind, found in rows.items():
            if found:
                e, f = np.array([r[0] for r in found]), np.concatenate([r[1].ravel() for r in found])
                out[f"{path.stem} {kind}"] = {
                    "frames": len(found),
                    "energy MAE, meV/atom": round(float(np.abs(e).mean()) * 1000, 2),
                    "forces MAE, meV/Å": round(float(np.abs(f).mean()) * 1000, 1),
                    "forces RMSE, meV/Å": round(float((f**2).mean() ** 0.5) * 1000, 1),
                }
    return out


def bonds(atoms: Atoms) -> set[str]:
    """Return the pairs within 1.3 times the sum of covalent radii, such as C4-H12, the lower index first."""
    near = build_neighbor_list(atoms, natural_cutoffs(atoms, mult=1.3), skin=0.0, self_interaction=False)
    name = [f"{symbol}{i}" for i, symbol in enumerate(atoms.get_chemical_symbols())]
    pairs = {(min(i, j), max(i, j)) for i in range(len(atoms)) for j in near.get_neighbors(i)[0]}
    return {f"{name[i]}-{name[j]}" for i, j in pairs}


def prepared(name: str, calculator: Calculator) -> tuple[Atoms, set[str]]:
    """Return the system relaxed and thermalized, at rest as a whole, and its bonds before."""
    rng = np.random.default_rng(0)
    if name == "water64":
        atoms = waters(4, LENGTH, rng, closest=1.75)
    else:
        molecule, positions = build(Entry("drug", DRUGS[name], name), rng)
        atoms = Atoms([a.GetAtomicNum() for a in molecule.GetAtoms()], positions)
    start = bonds(atoms)
    atoms.calc = calculator
    BFGS(atoms, logfile=None).run(fmax=0.05, steps=150 if len(atoms) < 50 else 40)
    MaxwellBoltzmannDistribution(atoms, temperature_K=KELVIN, rng=rng)
    Langevin(atoms, STEP * units.fs, temperature_K=KELVIN, friction=0.05 / units.fs, rng=rng).run(2000)
    Stationary(atoms)
    if not atoms.pbc.any():
        ZeroRotation(atoms)
    return atoms, start


def nve(package: str, name: str, picoseconds: float, minutes: float, state: Path | None) -> dict:
    """Return drift and fluctuation of the total energy of NVE dynamics, and whether the bonds are intact.

    The dynamics end after ``minutes`` of wall time; ``picoseconds`` of the result is how far they came. With
    ``state``, a file, they go on from where the last call ended.
    """
    calculator, rows, done, spent = Calculator(package), [], 0, 0.0
    if state is not None and state.exists():
        kept = np.load(state)
        atoms = Atoms(kept["numbers"], kept["positions"], cell=kept["cell"], pbc=kept["pbc"])
        atoms.set_momenta(kept["momenta"])
        atoms.calc = calculator
        rows, start = kept["rows"].tolist(), set(kept["bonds"].tolist())
        done, spent = int(kept["done"]), float(kept["spent"])
    else:
        atoms, start = prepared(name, calculator)
    run = VelocityVerlet(atoms, STEP * units.fs)
    first = done

    def record() -> None:
        if run.nsteps or not first:
            total = atoms.get_total_energy() / len(atoms) * 1000
            rows.append([(first + run.nsteps) * STEP / 1000, total, atoms.get_temperature()])

    run.attach(record, interval=20)
    began, steps = time.perf_counter(), round(picoseconds * 1000 / STEP)
    while done < steps and time.perf_counter() - began < 60 * minutes:
        try:
            run.run(min(2000, steps - done))
        except GeometryError as error:
            raise SystemExit(
                f"{name} fell apart after {(first + run.nsteps) * STEP:g} fs: {error}"
            ) from error
        done = first + run.nsteps
        if state is not None:
            content = {name: getattr(atoms, name) for name in ("numbers", "positions", "pbc")}
            content |= {"cell": atoms.cell.array, "momenta": atoms.get_momenta(), "bonds": sorted(start)}
            with state.with_suffix(".part").open("wb") as file:
                elapsed = spent + time.perf_counter() - began
                np.savez(file, rows=rows, done=done, spent=elapsed, **content)
            state.with_suffix(".part").replace(state)
    times, totals, kelvin = np.array(rows).T
    slope, offset = np.polyfit(times, totals, 1)
    return {
        "atoms": len(atoms),
        "picoseconds": done * STEP / 1000,
        "drift, meV/atom/ps": float(f"{slope:.3g}"),
        "std around the line, meV/atom": float(f"{np.std(totals - (slope * times + offset)):.3g}"),
        "largest deviation from the start, meV/atom": float(f"{np.abs(totals - totals[0]).max():.3g}"),
        "mean temperature, K": round(float(kelvin.mean()), 1),
        "largest temperature, K": round(float(kelvin.max()), 1),
        "bonds changed": sorted(bonds(atoms) ^ start),
        "ms per step": round((spent + time.perf_counter() - began) / done * 1000, 2),
    }


def main() -> None:
    """Print the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["errors", "nve"])
    parser.add_argument("package")
    parser.add_argument("target", help="folder of the data, or a drug of molecules.py, or water64")
    parser.add_argument("--picoseconds", type=float, default=100.0)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="wall time at most")
    parser.add_argument(
        "--state", type=Path, help=".npz, written as the dynamics go; another call goes on from it"
    )
    arguments = parser.parse_args()
    if arguments.what == "errors":
        found = errors(arguments.package, Path(arguments.target))
    else:
        options = (arguments.picoseconds, arguments.minutes, arguments.state)
        found = {arguments.target: nve(arguments.package, arguments.target, *options)}
    print(json.dumps(found, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
