"""Make `copper.safetensors`, a small potential of copper, in the working directory: `python docs/example.py`.

Thirty crystals with displaced atoms, labeled by ASE's effective-medium theory, and about a minute of training. It is
for trying the programs of this repository, not for studying copper.
"""

import shutil
import tempfile
from pathlib import Path

import ase.io
from ase.build import bulk
from ase.calculators.emt import EMT

from mlip_train import TrainConfig, fit, from_plain

frames = []
for seed in range(30):
    atoms = bulk("Cu", a=3.52 + 0.006 * seed, cubic=True) * (2, 2, 1)
    atoms.rattle(0.05 + 0.005 * seed, seed=seed)
    atoms.calc = EMT()
    atoms.get_forces()
    frames.append(atoms)

with tempfile.TemporaryDirectory() as folder:
    data = f"{folder}/copper.xyz"
    ase.io.write(data, frames)
    settings = {
        "output": f"{folder}/run",
        "model": {
            "config": {
                "cutoff": 4.0,
                "l_max": 1,
                "num_layers": 1,
                "num_scalar_features": 16,
                "num_tensor_features": 8,
                "latent_width": 32,
                "dtype": "float64",
            }
        },
        "data": {"train": [{"path": data}], "validation_fraction": 0.2},
        "batch": {"frames": 4},
        "compile": {"mode": "eager"},
        "stop": {"epochs": 40},
        "hardware": {"accelerator": "cpu", "threads": 1},
        "logging": {"progress": False, "report": False},
    }
    model = fit(from_plain(TrainConfig, settings)).model
    shutil.copyfile(model, Path("copper.safetensors"))
