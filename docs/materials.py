"""Make `materials.safetensors`, the potential of the guide on materials: `python docs/materials.py`.

It took 28 minutes on a core that other work shared, labels and compilation apart.

The architecture is that of the public Allegro-OAM-L, with small widths. The labels are those of ASE's effective-medium
theory of copper for strained, rattled and melting crystals of five structures and vacancies, so that every
result of the guide can be compared with the theory itself.
"""

import shutil
import sys
import tempfile
from pathlib import Path

import ase.io
import numpy as np
from ase import units
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.langevin import Langevin

from mlip_train import TrainConfig, fit, from_plain

rng = np.random.default_rng(0)
frames = []


def keep(atoms):
    """Label a copy of the atoms and keep it."""
    atoms = atoms.copy()
    atoms.calc = EMT()
    results = {name: atoms.calc.get_property(name, atoms) for name in ("energy", "forces", "stress")}
    if np.abs(results["forces"]).max() < 15:
        atoms.calc = SinglePointCalculator(atoms, **results)
        frames.append(atoms)


def strained(atoms, most):
    """Return the atoms in a cell that is stretched and sheared at random."""
    atoms = atoms.copy()
    strain = np.eye(3) * (1 + rng.uniform(-most, 1.3 * most)) + 0.3 * most * rng.standard_normal((3, 3))
    atoms.set_cell(atoms.cell @ strain, scale_atoms=True)
    return atoms


structures = {  # each in a cell of a few atoms
    "fcc": bulk("Cu", a=3.59, cubic=True),
    "hcp": bulk("Cu", "hcp", a=2.54, c=4.14) * (2, 1, 1),
    "bcc": bulk("Cu", "bcc", a=2.86, cubic=True) * (2, 1, 1),
    "sc": bulk("Cu", "sc", a=2.38) * (2, 2, 1),
    "diamond": bulk("Cu", "diamond", a=5.3, cubic=True),
}
for name, atoms in structures.items():
    for k in range(160 if name == "fcc" else 24):
        frame = strained(atoms, 0.05)
        frame.rattle(0.06 * (k % 4), rng=rng)
        keep(frame)
for k in range(60):  # near the minimum: elastic constants and phonons
    frame = strained(structures["fcc"] * (2, 2, 1), 0.01)
    frame.rattle((0.01, 0.03, 0.08)[k % 3], rng=rng)
    keep(frame)
for k in range(60):  # a vacancy, and a neighbor on its way into it
    atoms = strained(bulk("Cu", a=3.59, cubic=True) * 2, 0.01)
    nearest = int(np.argsort(atoms.get_distances(0, np.arange(len(atoms)), mic=True))[1])
    way = atoms.get_distance(0, nearest, mic=True, vector=True)
    atoms.positions[nearest] -= way * rng.uniform(0, 0.5) * (k % 3 > 0)
    del atoms[0]
    atoms.rattle((0.02, 0.05, 0.1)[k % 3], rng=rng)
    keep(atoms)
for a in (3.6, 3.75, 3.9):  # melting
    atoms = bulk("Cu", a=a, cubic=True) * (2, 2, 2)
    atoms.calc = EMT()
    for kelvin in (800, 1500, 2200, 3000):
        run = Langevin(
            atoms, 4 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False
        )
        for _ in range(10):
            run.run(25)
            keep(atoms)

with tempfile.TemporaryDirectory() as folder:
    data = f"{folder}/copper.xyz"
    ase.io.write(data, frames)
    print(f"{len(frames)} frames")
    settings = {
        "output": f"{folder}/run",
        "ema": 0.999,
        "model": {
            "config": {
                "cutoff": 5.6,
                "l_max": 3,
                "parity": False,
                "num_layers": 2,
                "num_scalar_features": 32,
                "num_tensor_features": 8,
                "num_bessels": 12,
                "bessel_trainable": True,
                "polynomial_cutoff_p": 8,
                "embed_dim": 32,
                "scalar_embed_depth": 1,
                "scalar_embed_width": 32,
                "latent_depth": 1,
                "latent_width": 64,
                "readout_width": 32,
                "readout_nonlinearity": "silu",
                "energy_scales_trainable": True,
                "dtype": "float32",
            }
        },
        "data": {"train": [{"path": data}], "validation_fraction": 0.05},
        "batch": {"edges": 3000},
        "loss": {"energy": 200.0, "forces": 10.0, "stress": 4000.0},
        "compile": {"mode": "full"},
        "optimizer": {"lr": 0.02, "clip": 10.0},
        "schedule": {"name": "cosine", "warmup": 50},
        "stop": {"epochs": int(sys.argv[1]) if len(sys.argv) > 1 else 45},
        "hardware": {"accelerator": "cpu", "threads": 1},
        "logging": {"progress": False, "report": False},
    }
    model = fit(from_plain(TrainConfig, settings)).model
    shutil.copyfile(model, Path("materials.safetensors"))
