"""Training with hidden layers in bfloat16: it learns as in float32, and forces stay derivatives of the energy."""

from __future__ import annotations

from pathlib import Path

import ase.io
import pytest
import torch
from ase.build import bulk
from ase.calculators.emt import EMT
from benchmarks.bench_bf16 import works

import localgraph
from mlip_train import TrainConfig, fit, from_plain

MODEL = {"cutoff": 4.0, "l_max": 1, "num_layers": 1, "num_scalar_features": 8, "num_tensor_features": 4}
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def test_bf16_learns_and_its_forces_are_derivatives(tmp_path: Path) -> None:
    """Equal seeds, steps and data; the work along lines is compared with energies, as differences are all rounding."""
    frames = []
    for seed in range(60):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.pbc = False
        atoms.rattle(0.15, seed=seed)
        atoms.calc = EMT()
        atoms.get_forces()
        frames.append(atoms)
    ase.io.write(tmp_path / "clusters.xyz", frames)
    losses, left = {}, {}
    for layers in (None, "bfloat16"):
        plain = {
            "output": str(tmp_path / str(layers)),
            "ema": 0.9,
            "model": {"config": MODEL | {"latent_width": 16, "mlp_dtype": layers}},
            "data": {"train": [{"path": str(tmp_path / "clusters.xyz")}], "loaders": 0},
            "batch": {"frames": 4},
            "stop": {"epochs": 8},
            "compile": {"mode": "eager"},
            "hardware": {"accelerator": "cpu", "threads": 1},
            "logging": {"progress": False, "report": False},
        }
        result = fit(from_plain(TrainConfig, plain))
        losses[layers] = [row["validation/loss"] for row in result.history]
        model, _ = localgraph.load_model(result.model)
        assert model.to_config()["mlp_dtype"] == layers
        assert all(p.dtype != torch.bfloat16 for p in model.parameters())
        left[layers] = works(model, frames[:3])
    assert losses["bfloat16"] != losses[None]
    for found in losses.values():
        assert min(found) < 0.6 * found[0]
    assert min(losses["bfloat16"]) < 1.3 * min(losses[None])
    assert left[None][0] < 1e-3 * left[None][1]
    assert left["bfloat16"][0] < 0.05 * left["bfloat16"][1]  # 8 bits of mantissa
