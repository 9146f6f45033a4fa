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

from mlip_train import TrainConfig, TrainingModule, fit, from_plain
from mlip_train.training import checkpoint
from mlip_train.training.lock import locked

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


@pytest.mark.slow
def test_killed_in_mid_epoch_resumes_to_the_same_numbers(plain_run: dict[str, Any], tmp_path: Path) -> None:
    plain = copy.deepcopy(plain_run)
    plain |= {"ema": 0.95, "stages": [{"epoch": 2, "energy": 5.0, "lr": 0.003}]}
    plain["batch"]["accumulate"] = 2
    plain["stop"]["epochs"] = 4
    plain["optimizer"]["clip"] = 1.0
    plain["schedule"] = {"patience": 0}
    plain["logging"] |= {"checkpoint_steps": 1, "report": False}

    whole, broken = ({**plain, "output": str(tmp_path / n)} for n in ("whole", "broken"))
    assert fit_in_a_process(whole, "go").returncode == 0
    for step in (3, 9):  # inside the first and the third epoch (4 steps each)
        assert fit_in_a_process(broken, f"SIGKILL:{step}").returncode == -signal.SIGKILL
    assert fit_in_a_process(broken, "go").returncode == 0
    assert len(np.genfromtxt(tmp_path / "whole" / "metrics.csv", delimiter=",", names=True)) == 4
    assert same_to_the_last_bit(tmp_path / "whole", tmp_path / "broken")


def fit_in_a_process(plain: dict[str, Any], end: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/fit.py with a configuration; ``end`` says how it ends."""
    here = Path(__file__).parent
    return subprocess.run(
        [sys.executable, str(here / "scripts" / "fit.py"), str(here / "conftest.py"), json.dumps(plain), end],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=900,
    )


def same_to_the_last_bit(a: Path, b: Path) -> bool:
    """Whether two runs ended with the same metrics, weights and averages."""
    x, y = (np.genfromtxt(p / "metrics.csv", delimiter=",", names=True) for p in (a, b))
    metrics = all(np.array_equal(x[name], y[name]) for name in x.dtype.names if name != "seconds")
    s, t = (checkpoint.load(p / "checkpoint.safetensors") for p in (a, b))
    return metrics and all(
        torch.equal(s[part][key], t[part][key]) for part in ("model", "average") for key in s[part]
    )


@pytest.mark.slow
@pytest.mark.parametrize(("name", "step"), [("SIGTERM", 2), ("SIGUSR1", 5), ("SIGINT", 9)])
def test_f3_f23_signals_stop_between_steps(
    plain_run: dict[str, Any], tmp_path: Path, name: str, step: int
) -> None:
    plain = copy.deepcopy(plain_run) | {"ema": 0.9, "stop": {"epochs": 2}}
    plain["logging"]["report"] = False
    whole, broken = ({**plain, "output": str(tmp_path / n)} for n in ("whole", "broken"))
    assert fit_in_a_process(whole, "go").returncode == 0
    done = fit_in_a_process(broken, f"{name}:{step}")
    assert done.returncode == 128 + getattr(signal, name)
    assert (
        f"Interrupted {name}: stopped after step {step + 1}; the same command continues from "
        f"{tmp_path / 'broken' / 'checkpoint.safetensors'}" in done.stderr
    )
    assert checkpoint.load(tmp_path / "broken" / "checkpoint.safetensors")["steps"] == step + 1
    assert fit_in_a_process(broken, "go").returncode == 0
    assert same_to_the_last_bit(tmp_path / "whole", tmp_path / "broken")


@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT"])
def test_f3_f23_fit_raises_keyboard_interrupt(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    original = TrainingModule.training_step

    def step(self: Any, batch: Any, index: int) -> Any:
        if self.steps == 3:
            os.kill(os.getpid(), number)
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    with pytest.raises(KeyboardInterrupt, match=rf"{name}: stopped after step 4; the same command") as error:
        run(plain_run)
    assert getattr(error.value, "signum", 0) == number
    assert signal.getsignal(number) == before
    state = checkpoint.load(Path(plain_run["output"]) / "checkpoint.safetensors")
    assert (state["steps"], state["position"], state["epoch"]) == (4, 4, 0)
    monkeypatch.setattr(TrainingModule, "training_step", original)
    assert len(run(plain_run).history) == 2


def test_f4_one_run_per_output(toy: Any, plain_run: dict[str, Any]) -> None:
    folder = Path(plain_run["output"])
    folder.mkdir()
    with locked(folder):
        with pytest.raises(
            ValueError,
            match=rf"output must be a folder that no other run uses, got '.*run', in use by process {os.getpid()} on",
        ):
            run(plain_run)
        assert not (folder / "metrics.csv").exists()
    assert len(run(plain_run).history) == 2


def test_f25_a_model_without_its_checkpoint_is_not_replaced(toy: Any, plain_run: dict[str, Any]) -> None:
    result = run(plain_run)
    before = result.model.read_bytes()
    (result.model.parent / "checkpoint.safetensors").unlink()
    with pytest.raises(ValueError, match=r"output must be a folder without a model, or with its checkpoint"):
        run(plain_run)
    with pytest.raises(
        ValueError, match=r"resume must be 'auto' or 'must' where a checkpoint or model exists"
    ):
        run(plain_run, resume="never")
    assert result.model.read_bytes() == before


def test_a_finished_run_does_nothing_again(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    stamp = (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns
    again = run(plain_run)
    assert again.history == first.history
    assert (Path(plain_run["output"]) / "checkpoint.safetensors").stat().st_mtime_ns == stamp
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[:2] == first.history
    assert len(longer.history) == 3
    with pytest.raises(
        ValueError, match=r"resume must be 'auto' or 'must' where a checkpoint or model exists"
    ):
        run(plain_run, resume="never")


def test_truncated_checkpoint_is_refused(toy: Any, plain_run: dict[str, Any]) -> None:
    run(plain_run)
    path = Path(plain_run["output"]) / "checkpoint.safetensors"
    whole = path.read_bytes()
    for size in (0, 7, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:size])
        with pytest.raises(
            ValueError, match=r"must be a complete checkpoint, got the damaged or foreign file"
        ):
            run(plain_run)
    path.unlink()
    (path.parent / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"checkpoint must be an existing checkpoint"):
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
        "data": data | {"train": [{"path": str(moved)}]},
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


def test_f22_leftovers_of_killed_processes_are_removed(toy: Any, plain_run: dict[str, Any]) -> None:
    cache = Path(plain_run["output"]) / "cache"
    for name in (".0123456789abcdef.x1y2z3", ".fedcba9876543210.abcdef"):
        (cache / name).mkdir(parents=True)
        (cache / name / "forces").write_bytes(b"part")
    run(plain_run)
    assert not list(cache.glob(".*"))
    assert len(list(cache.iterdir())) == 2  # the table, and the elements in the files
