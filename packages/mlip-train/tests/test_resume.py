"""Resumption: killed runs, finished runs, other configurations."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mlip_train import TrainConfig, fit, from_plain
from mlip_train.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


SCRIPT = """
import importlib.util, json, os, signal, sys
import torch, localgraph
spec = importlib.util.spec_from_file_location("toys", sys.argv[1])
toys = importlib.util.module_from_spec(spec)
spec.loader.exec_module(toys)
from mlip_train import TrainConfig, TrainingModule, fit, from_plain
die = int(sys.argv[3])
if die:
    original = TrainingModule.training_step
    def training_step(self, batch, index):
        if self.steps == die:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(self, batch, index)
    TrainingModule.training_step = training_step
fit(from_plain(TrainConfig, json.loads(sys.argv[2])))
"""


@pytest.mark.slow
def test_killed_in_mid_epoch_resumes_to_the_same_numbers(plain_run: dict[str, Any], tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    plain = copy.deepcopy(plain_run)
    plain |= {"ema": 0.95, "stages": [{"epoch": 2, "energy": 5.0, "lr": 0.003}]}
    plain["batch"]["accumulate"] = 2
    plain["stop"]["epochs"] = 4
    plain["optimizer"]["clip"] = 1.0
    plain["schedule"] = {"patience": 0}
    plain["logging"] |= {"checkpoint_steps": 1, "report": False}

    def start(name: str, die: int) -> int:
        text = json.dumps({**plain, "output": str(tmp_path / name)})
        conftest = str(Path(__file__).with_name("conftest.py"))
        environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}
        return subprocess.run(
            [sys.executable, str(script), conftest, text, str(die)], env=environment
        ).returncode

    assert start("whole", 0) == 0
    for die in (3, 9):  # inside the first and the third epoch (4 steps each)
        assert start("broken", die) == -signal.SIGKILL
    assert start("broken", 0) == 0
    a, b = (
        np.genfromtxt(tmp_path / n / "metrics.csv", delimiter=",", names=True) for n in ("whole", "broken")
    )
    assert len(a) == 4
    for name in a.dtype.names:
        if name != "seconds":
            assert np.array_equal(a[name], b[name]), name
    x, y = (checkpoint.load(tmp_path / n / "checkpoint.safetensors") for n in ("whole", "broken"))
    assert all(torch.equal(x["model"][k], y["model"][k]) for k in x["model"])
    assert all(torch.equal(x["average"][k], y["average"][k]) for k in x["average"])


def test_a_finished_run_does_nothing_again(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    stamp = (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns
    again = run(plain_run)
    assert again.history == first.history
    assert (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[:2] == first.history
    assert len(longer.history) == 3
    with pytest.raises(ValueError, match=r"resume must be 'auto' or 'must' where a checkpoint exists"):
        run(plain_run, resume="never")


def test_truncated_checkpoint_is_refused(toy: Any, plain_run: dict[str, Any]) -> None:
    run(plain_run)
    path = Path(plain_run["output"]) / "checkpoint.safetensors"
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"required a complete checkpoint, got the damaged or foreign file"
        ):
            run(plain_run)
    path.unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint: required an existing checkpoint"):
        run(plain_run, resume="must")


def test_another_configuration_is_not_continued(
    toy: Any, plain_run: dict[str, Any], frames_file: Path, tmp_path: Path
) -> None:
    plain = plain_run | {"logging": {"progress": False, "report": False}}
    plain["data"] = {"train": plain["data"]["train"], "loaders": 0}
    first = run(plain)
    moved = tmp_path / "moved.xyz"
    moved.write_bytes(frames_file.read_bytes())
    data = plain["data"]
    free = {
        "data": data | {"train": [{"path": str(moved), "subset": "frames"}]},
        "stop": {"epochs": 2, "steps": 99},
    }
    assert run(plain, **free).history == first.history
    for changes, message in (
        (
            {"optimizer": {"lr": 1.0}},
            r"optimizer.lr \(0.01 in the checkpoint, now 1.0\); choose another output",
        ),
        (
            {"seed": 5, "loss": {"forces": 9.0}},
            r"values of loss.forces \(1.0 .* now 9.0\), seed \(0 .* now 5\)",
        ),
        ({"model": {"name": "toy", "config": {"cutoff": 4.0, "width": 6}}}, r"model.config.width \(None in"),
        ({"stages": [{"epoch": 1, "lr": 0.01}]}, r"stages\[0\].epoch \(None in the checkpoint, now 1\)"),
        (
            {"data": data | {"train": [{"path": str(moved), "take": ":30"}]}},
            "data.train must be the frames",
        ),
        (
            {"data": data | {"validation": data["train"]}},
            "data.validation must be the frames",
        ),
    ):
        with pytest.raises(ValueError, match=message):
            run(plain, **changes)


def test_time_is_counted_over_restarts(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    time.sleep(0.05)
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[2]["seconds"] > first.history[1]["seconds"]
