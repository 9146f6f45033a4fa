"""Steps of OpenMM beside ASE: the same exported model, systems and time step, one thread, in one process.

    python -m benchmarks.bench_openmm --work out --json benchmarks/results/openmm.json

The shipped potential runs ethanol in vacuum and a periodic box of water in ASE's VelocityVerlet and OpenMM's
VerletIntegrator (platform Reference, double precision); rounds alternate and the least time of each is kept. Energies
and forces of the same positions are compared before and after. Then ethanol runs at constant energy in both programs,
and a crystal of carbon dioxide at constant pressure in OpenMM, whose snapshots are compared with ASE: by a new
neighbor list, whose edges come in another order than those of a running list and sum to other roundings of float32.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import openmm
from ase import Atoms, units
from ase.build import molecule
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS
from ase.spacegroup import crystal
from benchmarks.bench_relax import compiled
from benchmarks.common import least_times, write_record
from benchmarks.systems import box
from openmm import unit

from mlip_export.ase import Calculator
from mlip_export.openmm import EV, force

FEMTOSECONDS = 0.25
FORCE = unit.kilojoule_per_mole / unit.nanometer


class InOpenMM:
    """A context of the Reference platform with the model's force."""

    def __init__(self, atoms: Atoms, path: Path, integrator: Any, *more: Any):
        system = openmm.System()
        for mass in atoms.get_masses():
            system.addParticle(mass)
        if atoms.pbc.all():
            system.setDefaultPeriodicBoxVectors(*(openmm.Vec3(*row) for row in atoms.cell.array / 10))
        system.addForce(force(path, atoms.get_chemical_symbols(), periodic=bool(atoms.pbc.all())))
        for added in more:
            system.addForce(added)
        self.integrator = integrator
        self.context = openmm.Context(system, integrator, openmm.Platform.getPlatformByName("Reference"))
        self.context.setPositions(atoms.positions / 10)

    def total(self) -> float:
        """Return the total energy, eV."""
        state = self.context.getState(energy=True)
        energy = state.getPotentialEnergy() + state.getKineticEnergy()
        return float(energy.value_in_unit(unit.kilojoule_per_mole)) / EV

    def differences(self, atoms: Atoms, path: Path) -> dict[str, float]:
        """Return the relative difference of energies and the largest of forces from ASE at the same positions."""
        state = self.context.getState(energy=True, forces=True, positions=True)
        copy = Atoms(
            atoms.symbols,
            state.getPositions(asNumpy=True).value_in_unit(unit.angstrom),
            cell=state.getPeriodicBoxVectors(asNumpy=True).value_in_unit(unit.angstrom)
            if atoms.pbc.all()
            else None,
            pbc=atoms.pbc,
        )
        copy.calc = Calculator(path)
        energy = copy.get_potential_energy() * EV
        found = state.getPotentialEnergy().value_in_unit(unit.kilojoule_per_mole)
        forces = state.getForces(asNumpy=True).value_in_unit(FORCE)
        return {
            "energy_relative": abs(found / energy - 1),
            "force_kJ_mol_nm": float(np.abs(forces - copy.get_forces() * EV * 10).max()),
        }


def steps(name: str, atoms: Atoms, path: Path, seconds: float) -> dict[str, Any]:
    """Time steps of both programs from one start."""
    count = 20
    ours = InOpenMM(atoms, path, openmm.VerletIntegrator(FEMTOSECONDS / 1000))
    before = ours.differences(atoms, path)
    moving = atoms.copy()
    moving.calc = Calculator(path, compute_stress=False)
    md = VelocityVerlet(moving, FEMTOSECONDS * units.fs)
    calls = {"ASE": lambda: md.run(count), "OpenMM": lambda: ours.integrator.step(count)}
    times = least_times(calls, seconds)
    after = ours.differences(atoms, path)
    return {
        "system": name,
        "atoms": len(atoms),
        "steps_per_s": {key: count / value.wall for key, value in times.items()},
        **{key: max(before[key], after[key]) for key in before},
    }


def conservation(path: Path, picoseconds: float) -> dict[str, Any]:
    """Run ethanol at constant energy in both programs; the slope and the largest deviation of the total energy."""
    atoms = molecule("CH3CH2OH")
    atoms.calc = Calculator(path, compute_stress=False)
    BFGS(atoms, logfile=None).run(fmax=0.01, steps=200)
    size = np.sqrt(600 * units.kB * atoms.get_masses())[:, None]  # half of it becomes potential energy
    momenta = np.random.default_rng(0).normal(size=(len(atoms), 3)) * size
    momenta -= atoms.get_masses()[:, None] * momenta.sum(0) / atoms.get_masses().sum()
    atoms.set_momenta(momenta)
    start = atoms.copy()
    count, stride = round(1000 * picoseconds / FEMTOSECONDS), 10
    totals: dict[str, list[float]] = {"ASE": [], "OpenMM": []}
    md = VelocityVerlet(atoms, FEMTOSECONDS * units.fs)
    md.attach(lambda: totals["ASE"].append(atoms.get_total_energy()), interval=stride)
    md.run(count)
    ours = InOpenMM(start, path, openmm.VerletIntegrator(FEMTOSECONDS / 1000))
    ours.context.setVelocities(start.get_velocities() * units.fs * 100)  # Å/fs to nm/ps
    totals["OpenMM"].append(ours.total())
    for _ in range(count // stride):
        ours.integrator.step(stride)
        totals["OpenMM"].append(ours.total())
    found: dict[str, Any] = {"system": "ethanol", "picoseconds": picoseconds, "femtoseconds": FEMTOSECONDS}
    for key, values in totals.items():
        each = 1000 * (np.array(values) - values[0]) / len(atoms)
        time = np.linspace(0, picoseconds, len(each))
        found[key] = {
            "drift_meV_atom_ps": float(np.polyfit(time, each, 1)[0]),
            "largest_meV_atom": float(np.abs(each).max()),
        }
    return found


def pressure(path: Path, count: int) -> dict[str, Any]:
    """Run a crystal under MonteCarloBarostat; the range of volumes, and the largest differences from ASE."""
    cell = [5.624] * 3 + [90] * 3
    atoms = crystal(["C", "O"], [(0, 0, 0), (0.1185,) * 3], spacegroup=205, cellpar=cell) * (2, 2, 2)
    integrator = openmm.LangevinMiddleIntegrator(100, 5, FEMTOSECONDS / 1000)
    integrator.setRandomNumberSeed(1)
    barostat = openmm.MonteCarloBarostat(1000, 100, 2)
    barostat.setRandomNumberSeed(1)
    ours = InOpenMM(atoms, path, integrator, barostat)
    ours.context.setVelocitiesToTemperature(100, 1)
    volumes, worst = [], {"energy_relative": 0.0, "force_kJ_mol_nm": 0.0}
    for _ in range(count // 20):
        integrator.step(20)
        state = ours.context.getState()
        volumes.append(state.getPeriodicBoxVolume().value_in_unit(unit.angstrom**3))
        found = ours.differences(atoms, path)
        worst = {key: max(worst[key], found[key]) for key in worst}
    return {
        "system": "carbon dioxide, 96 atoms",
        "steps": count,
        "volumes_A3": [min(volumes), max(volumes)],
    } | worst


def main() -> None:
    """Print and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the exported models")
    parser.add_argument("--seconds", type=float, default=15, help="per system")
    parser.add_argument("--picoseconds", type=float, default=1.0, help="at constant energy")
    parser.add_argument("--npt", type=int, default=200, help="steps at constant pressure")
    parser.add_argument("--json", type=Path, help="where the record goes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    path = compiled(options.work, "float32")
    rows = [steps("ethanol in vacuum", molecule("CH3CH2OH"), path, options.seconds)]
    rows.append(steps("periodic water", box(4).to_ase(), path, options.seconds))
    for row in rows:
        print(row, flush=True)
    nve = conservation(path, options.picoseconds)
    print(nve, flush=True)
    npt = pressure(path, options.npt)
    print(npt, flush=True)
    write_record(options.json, rows=rows, nve=nve, npt=npt)


if __name__ == "__main__":
    main()
