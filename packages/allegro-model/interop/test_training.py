"""Allegro trained by mlip-train: compiled steps equal eager ones, and an imported model is fine-tuned."""

import os
from pathlib import Path

import ase.build
import ase.io
import numpy as np
import pytest
import torch
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from nequip.utils.global_state import set_global_state

import localgraph
from allegro_model.nequip import from_nequip

mlip_train = pytest.importorskip("mlip_train")

from mlip_train.config import BatchConfig, CompileConfig, LossConfig, SourceConfig  # noqa: E402
from mlip_train.data.batches import Batch, collate  # noqa: E402
from mlip_train.data.build import build_table  # noqa: E402
from mlip_train.data.loader import make_loader  # noqa: E402
from mlip_train.data.plan import Plan  # noqa: E402
from mlip_train.steps.compiled import CompiledStep  # noqa: E402
from mlip_train.steps.eager import EagerStep  # noqa: E402
from mlip_train.steps.forces import ForcesStep  # noqa: E402
from mlip_train.steps.verify import batch_kinds, compare, verified_step  # noqa: E402

NAMES = ["H", "C", "O"]
WEIGHTS = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
SMALL = {
    "type_names": NAMES,
    "cutoff": 3.5,
    "l_max": 2,
    "num_layers": 2,
    "num_scalar_features": 6,
    "num_tensor_features": 4,
    "latent_width": 8,
    "scalar_embed_width": 8,
    "readout_width": 8,
    "avg_num_neighbors": 7.0,
    "energy_shifts": [1.0, 2.0, 3.0],
}


@pytest.fixture(autouse=True)
def global_state():
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    torch.set_default_dtype(dtype)


@pytest.fixture
def frames(tmp_path: Path) -> Path:
    """24 distorted molecules of three kinds with EMT's energies and forces."""
    written = []
    for seed in range(24):
        atoms = ase.build.molecule(("H2O", "CH3OH", "CH3CH2OH")[seed % 3])
        atoms.rattle(0.05, seed=seed)
        atoms.calc = EMT()
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        atoms.calc = SinglePointCalculator(atoms, energy=energy, forces=forces)
        written.append(atoms)
    ase.io.write(tmp_path / "frames.xyz", written)
    return tmp_path / "frames.xyz"


def allegro(dtype="float64", **changes):
    torch.manual_seed(0)
    return localgraph.model_class("allegro").from_config({**SMALL, "dtype": dtype, **changes})


def kinds_of(table):
    """Every kind of batch, an isolated atom with nothing beside it among them."""
    kinds = batch_kinds(Plan(table, np.arange(len(table)), BatchConfig(frames=8)))
    isolated = kinds["with an isolated atom"]
    rows = {f: getattr(isolated, f)[-1:] for f in Batch._fields if f not in ("edges", "shifts", "norms")}
    rows["frame"] = torch.zeros(1, dtype=torch.int64)
    alone = isolated._replace(
        **rows,
        edges=torch.zeros(2, 0, dtype=torch.int32),
        shifts=torch.zeros(0, 3, dtype=torch.int16),
    )
    return {**kinds, "everything": collate(table, np.arange(len(table))), "only an isolated atom": alone}


@pytest.mark.skipif(
    "INTEROP_COMPILED" not in os.environ, reason="minutes of compiling: set INTEROP_COMPILED=1"
)
@pytest.mark.parametrize(
    ("mode", "step_type", "dtype", "tolerance", "changes"),
    [
        ("full", CompiledStep, "float64", 1e-12, {}),
        ("full", CompiledStep, "float32", 1e-4, {"l_max": 1, "num_layers": 1}),
        ("forces", ForcesStep, "float64", 1e-12, {"l_max": 1, "num_layers": 1}),
    ],
)
def test_compiled_allegro_equals_eager_on_every_kind_of_batch(
    mode, step_type, dtype, tolerance, changes, frames, tmp_path
):
    # scales are float64 beside any other weights
    model = allegro(dtype, energy_scales_trainable=True, **changes)
    table = build_table([SourceConfig(path=str(frames))], NAMES, model.cutoffs, tmp_path / "cache")
    kinds = kinds_of(table)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step, _ = verified_step(model, LossConfig(), CompileConfig(mode=mode), kinds, WEIGHTS)
    assert isinstance(step, step_type)
    eager = EagerStep(model, LossConfig())
    for kind, batch in kinds.items():
        assert max(compare(step, eager, model, batch, WEIGHTS)) < tolerance, kind
    for epoch in range(2):
        for batch in make_loader(Plan(table, np.arange(len(table)), BatchConfig(edges=150), epoch=epoch)):
            step(batch, WEIGHTS)
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    if mode == "full":
        assert step.graphs == 1
        assert counters["stats"]["unique_graphs"] == 0  # Dynamo saw no frame: nothing can recompile


def test_an_imported_model_is_fine_tuned(frames, small_allegro, tmp_path):
    set_global_state()
    source = small_allegro(NAMES, l_max=1, num_layers=1)
    start = from_nequip(source)
    localgraph.save_model(tmp_path / "start.safetensors", start)
    plain = {
        "output": str(tmp_path / "run"),
        "model": {
            "start_from": str(tmp_path / "start.safetensors"),
            "refit_energies": True,
            "freeze": ["center_embedding", "neighbor_embedding"],
        },
        "data": {"train": [{"path": str(frames)}], "validation_fraction": 0.25},
        "batch": {"frames": 6},
        "optimizer": {"lr": 0.02},
        "schedule": {"name": "constant", "warmup": 0},
        "ema": 0.5,
        "stop": {"epochs": 12},
        "compile": {"mode": "full"},
        "hardware": {"accelerator": "cpu", "threads": 1},
        "logging": {"progress": False, "report": False},
    }
    result = mlip_train.fit(mlip_train.from_plain(mlip_train.TrainConfig, plain))
    tuned, _ = localgraph.load_model(result.model)
    assert torch.equal(tuned.center_embedding, start.center_embedding)
    assert not torch.equal(tuned.products[0], start.products[0])
    first, best = result.history[0], min(r["validation/loss"] for r in result.history)
    assert best < 0.5 * first["validation/loss"]
