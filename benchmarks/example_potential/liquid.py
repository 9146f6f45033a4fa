"""Add clusters cut from liquid water that a compiled model simulates, labeled by xTB, until the liquid falls apart.

    python benchmarks/example_potential/liquid.py example.pt2 DATA [--seed 11]

DATA receives explored-SEED.xyz: neighborhoods of random molecules and of the atom with the largest force.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.io import write
from ase.md.langevin import Langevin
from ase.optimize import FIRE
from generate import labeled
from molecules import waters

from mlip_export.ase import Calculator


def length(density: float) -> float:
    """Return the side (Å) of the cube of 64 waters at a density in g/cm³."""
    return (4**3 * 18.0153 / density / units.mol * 1e24) ** (1 / 3)


LENGTH = length(0.997)
"""Å, of 64 waters at 0.997 g/cm³."""


def cluster(atoms: Atoms, center: int, count: int) -> Atoms:
    """Return the ``count`` molecules (O, H, H in a row) nearest to the one of atom ``center``, unwrapped."""
    oxygen = center - center % 3
    vectors = atoms.get_distances(oxygen, np.arange(0, len(atoms), 3), mic=True, vector=True)
    near = np.argsort(np.linalg.norm(vectors, axis=1))[:count]
    rows = [3 * i + k for i in near for k in range(3)]
    inner = [atoms.get_distance(3 * i, 3 * i + k, mic=True, vector=True) for i in near for k in range(3)]
    return Atoms(atoms.numbers[rows], np.repeat(vectors[near], 3, axis=0) + np.array(inner))


def main() -> None:
    """Run the dynamics, label the clusters, write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("package", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--seed", type=int, default=11)
    parser.add_argument("--frames", type=int, default=40, help="15 fs apart")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    atoms, kept = waters(4, LENGTH, rng, closest=1.75), []
    atoms.calc = Calculator(arguments.package)
    FIRE(atoms, logfile=None, dt=0.05).run(steps=25)
    run = Langevin(atoms, 0.5 * units.fs, temperature_K=330.0, friction=0.05 / units.fs, rng=rng, fixcm=False)
    for _ in range(arguments.frames):
        run.run(30)
        worst = int(np.linalg.norm(atoms.get_forces(), axis=1).argmax())
        close = atoms.get_all_distances(mic=True)[np.triu_indices(len(atoms), 1)].min()
        for center, count in ((worst, 6), (worst, 12), *((int(c), 12) for c in rng.integers(192, size=2))):
            piece = cluster(atoms, center, count)
            kept.append(labeled(piece.numbers, piece.positions, smiles="O", kind="explored"))
        if close < 0.6:
            break
    kept = [frame for frame in kept if frame is not None]
    write(arguments.data / f"explored-{arguments.seed}.xyz", kept, format="extxyz")
    print(f"{len(kept)} clusters after {run.get_time() / units.fs:.0f} fs, shortest distance {close:.2f} Å")


if __name__ == "__main__":
    main()
