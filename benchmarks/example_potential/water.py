"""Add clusters cut from liquid water of a flexible TIP3P model (OpenMM), labeled by xTB.

    python benchmarks/example_potential/water.py DATA [--seed 21] [--frames 20]

DATA receives liquid-SEED.xyz: neighborhoods of random molecules at four temperatures and three densities; in a third of
them a molecule is pushed into its neighbor, so that the repulsion between molecules is seen before dynamics meet it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import openmm
from ase import Atoms
from ase.io import write
from generate import labeled
from liquid import cluster, length
from molecules import waters
from openmm import app, unit

KELVIN, DENSITIES = (280.0, 330.0, 400.0, 500.0), (0.92, 1.0, 1.08)


def dynamics(atoms: Atoms, kelvin: float, seed: int) -> app.Simulation:
    """Return minimized Langevin dynamics of the waters, by TIP3P with its flexible bonds and angles."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(len(atoms) // 3):
        residue = topology.addResidue("HOH", chain)
        names = (("O", "O"), ("H1", "H"), ("H2", "H"))
        o, *hydrogens = (topology.addAtom(n, app.Element.getBySymbol(e), residue) for n, e in names)
        for h in hydrogens:
            topology.addBond(o, h)
    topology.setPeriodicBoxVectors(atoms.cell.array / 10)
    field = app.ForceField("tip3p.xml")
    reach = 0.049 * atoms.cell.lengths().min()
    system = field.createSystem(
        topology,
        nonbondedMethod=app.PME,
        nonbondedCutoff=reach,
        rigidWater=False,
        constraints=None,
    )
    integrator = openmm.LangevinMiddleIntegrator(kelvin, 5.0 / unit.picosecond, 0.0005 * unit.picosecond)
    integrator.setRandomNumberSeed(seed)
    platform = openmm.Platform.getPlatformByName("CPU")
    run = app.Simulation(topology, system, integrator, platform, {"Threads": "1"})
    run.context.setPositions(atoms.positions / 10)
    run.minimizeEnergy()
    run.context.setVelocitiesToTemperature(kelvin, seed)
    return run


def pushed(piece: Atoms, rng: np.random.Generator) -> Atoms:
    """Return the cluster with its first molecule moved until an atom of it is 0.9 to 1.6 Å from one of another."""
    piece, target = piece.copy(), rng.uniform(0.9, 1.6)
    distances = piece.get_all_distances()[:3, 3:]
    a, b = np.unravel_index(rng.choice(np.argsort(distances.ravel())[:6]), distances.shape)
    along = piece.positions[3 + b] - piece.positions[a]
    shift = along * max(0.0, 1 - target / np.linalg.norm(along))
    piece.positions[:3] += shift
    return piece


def main() -> None:
    """Run the dynamics, label the clusters, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=21)
    parser.add_argument(
        "--frames", type=int, default=20, help="of each temperature and density, 250 fs apart"
    )
    arguments = parser.parse_args()
    rng, kept = np.random.default_rng(arguments.seed), []
    for density in DENSITIES:
        for kelvin in KELVIN:
            atoms = waters(4, length(density), rng, closest=1.6)
            run = dynamics(atoms, kelvin, int(rng.integers(1, 10**6)))
            run.step(2000)
            for _ in range(arguments.frames):
                run.step(500)
                state = run.context.getState(getPositions=True)
                atoms.positions = state.getPositions(asNumpy=True).value_in_unit(unit.angstrom)
                for push in (False, False, True):
                    size = int(rng.integers(2, 6) if push else rng.integers(4, 15))
                    piece = cluster(atoms, int(rng.integers(len(atoms))), size)
                    piece = pushed(piece, rng) if push else piece
                    kept.append(labeled(piece.numbers, piece.positions, smiles="O", kind="liquid"))
    kept = [frame for frame in kept if frame is not None]
    write(arguments.data / f"liquid-{arguments.seed}.xyz", kept, format="extxyz")
    print(f"{len(kept)} clusters, mean of {np.mean([len(f) for f in kept]):.0f} atoms")


if __name__ == "__main__":
    main()
