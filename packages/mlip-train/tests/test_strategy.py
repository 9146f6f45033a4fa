"""Several gloo processes against one: the same gradients, and the same training through Lightning."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch

PRELUDE = """
import importlib.util, json, sys
import numpy as np, torch, localgraph
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
torch.set_num_threads(1)
"""

GRADIENTS = (
    PRELUDE
    + """
import torch.distributed as dist
from mlip_train.data.loader import BatchLoader
from mlip_train.config import BatchConfig, LossConfig, SourceConfig
from mlip_train.steps.eager import EagerStep
from mlip_train.training.ddp import broadcast_state, reduce_gradients
from mlip_train.data.build import build_table

folder, cases = sys.argv[2], json.loads(sys.argv[3])
dist.init_process_group("gloo")
rank, world = dist.get_rank(), dist.get_world_size()
results = []
for case in cases:
    torch.manual_seed(100 + rank if case["seeds"] else 100)
    model = toys.ToyModel(
        {"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-9.0, -12.0], "dtype": case["dtype"]}
    )
    model.unused = torch.nn.Parameter(torch.zeros(3, dtype=torch.float64))
    model.sometimes = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    broadcast_state(model)
    source, cache = SourceConfig(path=folder + "/f.xyz"), f"{folder}/cache{rank}of{world}"
    table = build_table([source], ["H", "O"], model.cutoffs, cache)
    config = BatchConfig(frames=3, accumulate=case["group"] // world)
    loader = BatchLoader(table, np.arange(case["frames"]), config, seed=1, rank=rank, world=world, prefetch=0)
    step = EagerStep(model, LossConfig())
    weights = torch.tensor([1.0, 2.0, 0.0], dtype=torch.float64)
    found, losses, local = [], [], torch.zeros((), dtype=torch.float64)
    for i, batch in enumerate(loader):
        loss = step(batch, weights).loss
        if case["unused"] and batch.row[0] % 2 == 0 and batch.row[0] >= 0:
            loss = loss + (model.sometimes ** 2).sum() * float(batch.row[0])
        loss.backward()
        local += loss.detach()
        if (i + 1) % config.accumulate == 0:
            reduce_gradients(list(model.parameters()), bucket_mib=case["bucket"])
            dist.all_reduce(local)
            losses.append(float(local))
            local.zero_()
            named = model.named_parameters()
            found.append({n: None if p.grad is None else p.grad.flatten().tolist() for n, p in named})
            model.zero_grad()
    results.append([found, losses])
if rank == 0:
    with open(f"{folder}/{world}.json", "w") as f:
        json.dump(results, f)
dist.destroy_process_group()
"""
)

FIT = (
    PRELUDE
    + """
from mlip_train import TrainConfig, fit, from_plain
if __name__ == "__main__":
    fit(from_plain(TrainConfig, json.loads(sys.argv[2])))
"""
)

AUTOCAST = """
import sys
import torch
import lightning.pytorch as pl
from mlip_train import SyncAfterBackward

class Other(pl.LightningModule):
    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.layers = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.SiLU(), torch.nn.Linear(16, 1))
    def training_step(self, batch, index):
        x, y = batch
        out = self.layers(x)
        assert out.dtype == torch.bfloat16
        return torch.nn.functional.mse_loss(out.float(), y)
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

if __name__ == "__main__":
    torch.set_num_threads(1)
    x = torch.randn(48, 8, generator=torch.Generator().manual_seed(0))
    data = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x, x.sum(1, keepdim=True)), batch_size=4)
    strategy = SyncAfterBackward(op="mean", bucket_mib=1e-4) if sys.argv[2] == "sync" else "ddp"
    trainer = pl.Trainer(
        max_epochs=3, accelerator="cpu", devices=2, strategy=strategy, precision="bf16-mixed",
        accumulate_grad_batches=2, gradient_clip_val=0.5, gradient_clip_algorithm="value",
        logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )
    module = Other()
    trainer.fit(module, data)
    if trainer.is_global_zero:
        torch.save(module.state_dict(), sys.argv[3])
"""


def launch(script: Path, arguments: list[str], world: int) -> None:
    """Run a script in ``world`` processes as torchrun would."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    common = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}
    common |= {"OMP_NUM_THREADS": "1", "LOCAL_WORLD_SIZE": str(world), "PYTHONWARNINGS": "ignore"}
    running = [
        subprocess.Popen(
            [sys.executable, str(script), str(Path(__file__).with_name("conftest.py")), *arguments],
            env=common
            | {"RANK": str(r), "LOCAL_RANK": str(r), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "x"},
            stderr=subprocess.PIPE,
            text=True,
        )
        for r in range(world)
    ]
    ends = [(p.communicate(timeout=240)[1], p.returncode) for p in running]
    assert all(code == 0 for _, code in ends), "\n".join(text[-2000:] for text, _ in ends)


CASES = [
    {
        "name": "plain",
        "group": 6,
        "frames": 36,
        "unused": False,
        "bucket": 0.0,
        "seeds": False,
        "dtype": "float64",
    },
    {
        "name": "buckets, seeds",
        "group": 6,
        "frames": 36,
        "unused": False,
        "bucket": 1e-4,
        "seeds": True,
        "dtype": "float64",
    },
    {
        "name": "accumulated, uneven",
        "group": 12,
        "frames": 40,
        "unused": False,
        "bucket": 0.0,
        "seeds": False,
        "dtype": "float64",
    },
    {
        "name": "mixed precision",  # float32 weights beside float64 ones
        "group": 12,
        "frames": 40,
        "unused": True,
        "bucket": 0.0,
        "seeds": False,
        "dtype": "float32",
    },
    {
        "name": "unused",
        "group": 6,
        "frames": 31,
        "unused": True,
        "bucket": 0.0,
        "seeds": False,
        "dtype": "float64",
    },
]


@pytest.fixture(scope="module")
def gradients(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Any]:
    """Gradients and losses of every case by 1, 2 and 3 processes."""
    folder = tmp_path_factory.mktemp("gradients")
    conftest = importlib.util.spec_from_file_location("toys", Path(__file__).with_name("conftest.py"))
    assert conftest is not None and conftest.loader is not None
    toys = importlib.util.module_from_spec(conftest)
    conftest.loader.exec_module(toys)
    ase.io.write(folder / "f.xyz", toys.random_frames(40))
    script = folder / "gradients.py"
    script.write_text(GRADIENTS)
    for world in (1, 2, 3):
        launch(script, [str(folder), json.dumps(CASES)], world)
    return {world: json.loads((folder / f"{world}.json").read_text()) for world in (1, 2, 3)}


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)), ids=[str(c["name"]) for c in CASES])
def test_gradients_of_one_two_and_three_processes(number: int, gradients: dict[int, Any]) -> None:
    reference, losses = gradients[1][number]
    assert len(reference) > 1
    assert all(step["unused"] is None for step in reference)
    assert any(step["sometimes"] is not None for step in reference) == CASES[number]["unused"]
    tolerance = 1e-12 if CASES[number]["dtype"] == "float64" else 1e-5
    for world in (2, 3):
        found, other = gradients[world][number]
        assert np.allclose(other, losses, rtol=tolerance, atol=0)
        assert len(found) == len(reference)
        for a, b in zip(found, reference, strict=True):
            for name in b:
                assert (a[name] is None) == (b[name] is None)
                if b[name] is not None:
                    assert np.abs(np.subtract(a[name], b[name])).max() <= tolerance * max(
                        np.abs(b[name]).max(), 1.0
                    )


@pytest.mark.slow
def test_training_does_not_depend_on_the_number_of_processes(
    plain_run: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "fit.py"
    script.write_text(FIT)
    rows = {}
    for world, way in ((1, "eager"), (2, "eager"), (2, "full")):
        plain = json.loads(json.dumps(plain_run))
        plain["output"] = str(tmp_path / f"run{world}{way}")
        plain["data"]["cache"] = str(tmp_path / f"cache{world}")
        plain["batch"] = {"frames": 4, "accumulate": 2 // world}
        plain["optimizer"]["clip"] = 0.5
        plain["ema"] = 0.9
        plain["logging"]["report"] = False
        plain["hardware"] |= {"devices": world}
        plain["compile"] = {"mode": way}
        launch(script, [json.dumps(plain)], world)
        table = np.genfromtxt(tmp_path / f"run{world}{way}" / "metrics.csv", delimiter=",", names=True)
        rows[world, way] = np.array([[row[n] for n in table.dtype.names if n != "seconds"] for row in table])
    assert rows[1, "eager"].shape[0] == 2
    assert np.allclose(rows[1, "eager"], rows[2, "eager"], rtol=1e-10, atol=0)
    assert np.allclose(rows[1, "eager"], rows[2, "full"], rtol=1e-10, atol=0)


KILLED = (
    PRELUDE
    + """
import os
from mlip_train import TrainConfig, fit, from_plain
from mlip_train.training import checkpoint
if sys.argv[3] == "die":
    original = checkpoint.save
    def save(path, tree):
        original(path, tree)
        if tree["consumed"]:
            os._exit(9)
    checkpoint.save = save
if __name__ == "__main__":
    fit(from_plain(TrainConfig, json.loads(sys.argv[2])))
"""
)


@pytest.mark.slow
def test_two_processes_resume_in_mid_epoch_to_the_same_numbers(
    plain_run: dict[str, Any], tmp_path: Path
) -> None:
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    plain = plain_run | {"batch": {"frames": 3}, "schedule": {"name": "cosine", "minimum": 0.0}}
    plain["logging"] = {"progress": False, "report": False, "checkpoint_steps": 3}
    plain["hardware"] = plain_run["hardware"] | {"devices": 2}
    rows = {}
    for name, ends in (("whole", ["go"]), ("broken", ["die", "go"])):
        text = json.dumps(plain | {"output": str(tmp_path / name)})
        for end in ends:
            if end == "die":
                with pytest.raises(AssertionError):
                    launch(script, [text, end], 2)
            else:
                launch(script, [text, end], 2)
        table = np.genfromtxt(tmp_path / name / "metrics.csv", delimiter=",", names=True)
        rows[name] = np.array([[row[n] for n in table.dtype.names if n != "seconds"] for row in table])
        assert table["lr"][-1] == 0.0
    assert np.allclose(rows["whole"], rows["broken"], rtol=1e-12, atol=0)


@pytest.mark.slow
def test_autocast_with_accumulation_and_clipping_equals_standard_ddp(tmp_path: Path) -> None:
    script = tmp_path / "other.py"
    script.write_text(AUTOCAST)
    found = {}
    for strategy in ("sync", "ddp"):
        launch(script, [strategy, str(tmp_path / strategy)], 2)
        found[strategy] = torch.load(tmp_path / strategy, weights_only=True)
    for name, value in found["ddp"].items():
        assert value.dtype == torch.float32
        assert torch.allclose(found["sync"][name], value, rtol=1e-5, atol=1e-7), name


def test_arguments_are_checked() -> None:
    from mlip_train import SyncAfterBackward

    with pytest.raises(ValueError, match="op must be 'sum' or 'mean', got 'max'"):
        SyncAfterBackward(op="max")
