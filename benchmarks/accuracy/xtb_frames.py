"""Frames around a configuration's training structures, labeled by GFN2-xTB, for pretraining.

    python -m benchmarks.accuracy.xtb_frames benchmarks/accuracy/acac.yaml --workers 2 --output runs/acac_xtb.xyz

From every structure that the configuration trains on, and from no other, starts a Langevin trajectory whose
temperature is one of ``TEMPERATURES`` in turn; frames are taken from it at regular times. Energies (eV) and forces
(eV/Å) are those of GFN2-xTB (Bannwarth, Ehlert and Grimme, J. Chem. Theory Comput. 15, 1652 (2019)), by tblite. A
worker takes one core. The same command gives the same frames, whatever the number of workers.
"""

from __future__ import annotations

import argparse
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import ase
import ase.io
import numpy as np
from ase import units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin
from ase.md.velocitydistribution import MaxwellBoltzmannDistribution
from benchmarks.common import whole
from tqdm import tqdm

from mlip_train.config.load import load_config
from mlip_train.data.sources import open_sources

TEMPERATURES = (300.0, 600.0, 1200.0)
"""Of the trajectories in turn, K."""
TIME_STEP = 1.0
"""fs."""
FRICTION = 0.02
"""1/fs."""
BEFORE = 30
"""Steps before the first frame."""
BETWEEN = 6
"""Steps from one frame to the next."""


def trained_on(configuration: Path) -> list[ase.Atoms]:
    """Return the training structures of a configuration of mlip-train.

    Raises
    ------
    ValueError
        If the configuration has no validation files, so that some of these are held out; for a periodic, charged or
        open-shell structure.
    """
    data, found = load_config(configuration).data, []
    if not data.validation:
        raise ValueError(
            f"data.validation of {configuration} must name files: otherwise training frames are held out, and "
            "trajectories would start at them; got none"
        )
    with TemporaryDirectory() as cache:
        for source in open_sources(data.train, cache):
            for row in source.rows:
                frame = source.store[int(row)]
                electrons = int(frame.numbers.sum()) - frame.charge
                if frame.pbc.any() or frame.charge or electrons % 2:
                    raise source.error(
                        int(row),
                        "the structure must be a molecule without charge and with an even number of electrons, got "
                        f"pbc {frame.pbc.tolist()}, charge {frame.charge}, {electrons} electrons",
                    )
                found.append(ase.Atoms(frame.numbers, frame.positions))
    return found


def trajectory(task: tuple[int, ase.Atoms], frames: int) -> list[ase.Atoms]:
    """Return frames with labels from the trajectory of a numbered structure."""
    from tblite.ase import TBLite

    number, start = task
    atoms, rng = start.copy(), np.random.default_rng(number)
    atoms.calc = TBLite(method="GFN2-xTB", verbosity=0)
    kelvin = TEMPERATURES[number % len(TEMPERATURES)]
    MaxwellBoltzmannDistribution(atoms, temperature_K=kelvin, rng=rng)
    dynamics = Langevin(
        atoms,
        TIME_STEP * units.fs,
        temperature_K=kelvin,
        friction=FRICTION / units.fs,
        fixcm=False,
        rng=rng,
    )
    found = []
    for k in range(frames):
        dynamics.run(BETWEEN if k else BEFORE)
        frame = ase.Atoms(atoms.numbers, atoms.positions)
        frame.calc = SinglePointCalculator(
            frame, energy=atoms.get_potential_energy(), forces=atoms.get_forces()
        )
        found.append(frame)
    return found


def main() -> None:
    """Run the trajectories, write their frames."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("configuration", type=Path)
    parser.add_argument("--each", type=int, default=12, help="frames of a trajectory (%(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="processes (%(default)s)")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"  # read when a worker loads tblite
    tasks = list(enumerate(trained_on(options.configuration)))
    run: Any = partial(trajectory, frames=options.each)
    with ProcessPoolExecutor(options.workers) as pool:
        parts = list(tqdm(pool.map(run, tasks), total=len(tasks), unit="trajectory"))
    frames = [frame for part in parts for frame in part]
    with whole(options.output) as part:
        ase.io.write(part, frames, format="extxyz")
    largest = max(np.abs(frame.get_forces()).max() for frame in frames)
    print(f"{len(frames)} frames, largest component of a force {largest:.1f} eV/Å: {options.output}")


if __name__ == "__main__":
    main()
