"""Resumption: killed runs, finished runs, other configurations."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from processes import Ended, run_alone

import localgraph
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
    plain["schedule"] = {"name": "plateau", "patience": 0, "warmup": 0}
    plain["logging"] |= {"checkpoint_steps": 1, "report": False}

    whole, broken = ({**plain, "output": str(tmp_path / n)} for n in ("whole", "broken"))
    # inside the first and the third epoch (4 steps each)
    ends = ("SIGKILL:3", "SIGKILL:9", "go")
    found = fit_in_processes((whole, "go"), *((broken, end) for end in ends))
    assert [end.returncode for end in found] == [0, -signal.SIGKILL, -signal.SIGKILL, 0]
    assert len(np.genfromtxt(tmp_path / "whole" / "metrics.csv", delimiter=",", names=True)) == 4
    assert same_to_the_last_bit(tmp_path / "whole", tmp_path / "broken")


def fit_in_processes(*runs: tuple[dict[str, Any], str]) -> list[Ended]:
    """Run scripts/fit.py with configurations, one after the other; a string says how each ends."""
    return run_alone("fit.py", [[json.dumps(plain), end] for plain, end in runs])


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
    found = fit_in_processes((whole, "go"), (broken, f"{name}:{step}"), (broken, "go"))
    assert [end.returncode for end in found] == [0, 128 + getattr(signal, name), 0]
    assert (
        f"Interrupted {name}: stopped after step {step + 1}; the same command continues from "
        f"{tmp_path / 'broken' / 'checkpoint.safetensors'}" in found[1].stderr
    )
    assert f"checkpoint of {step + 1} steps" in found[1].stderr
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
        ValueError, match=r"resume.mode must be 'auto' or 'must' where a checkpoint or model exists"
    ):
        run(plain_run, resume={"mode": "never"})
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
        ValueError, match=r"resume.mode must be 'auto' or 'must' where a checkpoint or model exists"
    ):
        run(plain_run, resume={"mode": "never"})


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
        run(plain_run, resume={"mode": "must"})


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
            r"optimizer.lr \(0.01 in the checkpoint, now 1.0\); choose another output, remove the",
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


def continued(plain: dict[str, Any], allow: list[str], epochs: int = 4, **changes: Any) -> Any:
    return run(plain, resume={"allow": allow}, stop={"epochs": epochs}, **changes)


def test_another_rate_is_continued_with_the_moments(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_run["optimizer"] = {"name": "adamw", "lr": 0.01}
    first = run(plain_run)
    state = checkpoint.load(Path(plain_run["output"]) / "checkpoint.safetensors")
    seen: list[tuple[int, float, float]] = []
    original = TrainingModule.on_train_start

    def start(self: Any) -> None:
        (optimizer,) = self.trainer.optimizers
        steps = {int(s["step"]) for s in optimizer.state.values()}
        seen.append((*steps, optimizer.param_groups[0]["eps"], self.schedule.lr))
        for p, q in zip(self.model.state_dict().values(), state["model"].values(), strict=True):
            assert torch.equal(p, q)
        original(self)

    monkeypatch.setattr(TrainingModule, "on_train_start", start)
    result = continued(plain_run, ["optimizer"], optimizer={"name": "adamw", "lr": 0.002, "eps": 1e-6})
    assert seen == [(state["steps"], 1e-6, 0.002)]
    assert [row["lr"] for row in result.history] == [0.01, 0.01, 0.002, 0.002]
    assert result.history[:2] == first.history
    monkeypatch.setattr(TrainingModule, "on_train_start", original)
    again = continued(plain_run, [], epochs=5, optimizer={"name": "adamw", "lr": 0.002, "eps": 1e-6})
    assert len(again.history) == 5  # what was allowed once is the run's configuration now


def test_another_loss_keeps_the_best_model_so_far(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    before = first.model.read_bytes()
    result = continued(
        plain_run, ["loss", "stages"], loss={"forces": 50.0}, stages=[{"epoch": 3, "lr": 1e-3}]
    )
    assert (first.model.parent / "model.stage0.safetensors").read_bytes() == before
    assert result.history[2]["validation/loss"] > 2 * first.history[1]["validation/loss"]
    assert result.history[3]["lr"] == 1e-3
    with pytest.raises(ValueError, match=r"stop.epochs must leave something to train where resume.allow"):
        continued(plain_run, ["loss"], loss={"forces": 2.0}, stages=[{"epoch": 3, "lr": 1e-3}])


def test_more_data_leave_the_constants_of_the_model(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    first = run(plain_run)
    more = tmp_path / "more.xyz"
    ase.io.write(more, make_frames(30, seed=9))
    data = plain_run["data"] | {"train": [*plain_run["data"]["train"], {"path": str(more)}]}
    with pytest.raises(
        ValueError, match=r"data.train must be the frames.* or name what may change in resume.allow"
    ):
        run(plain_run, data=data, stop={"epochs": 4})
    result = continued(plain_run, ["data.train"], data=data)
    assert result.history[2]["step"] - result.history[1]["step"] > first.history[0]["step"]
    models = [
        localgraph.load_model(p)[0].to_config()
        for p in (result.model, first.model.parent / "model.stage0.safetensors")
    ]
    assert models[0] == models[1]


def test_within_an_epoch_another_batch_begins_it_again(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    original = TrainingModule.training_step

    def step(self: Any, batch: Any, index: int) -> Any:
        if self.steps == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    with pytest.raises(KeyboardInterrupt):
        run(plain_run)
    monkeypatch.setattr(TrainingModule, "training_step", original)
    with caplog.at_level("INFO"):
        result = continued(plain_run, ["batch"], epochs=1, batch={"frames": 5})
    assert "batch.frames (4 in the checkpoint, now 5); epoch 0 begins again" in caplog.text
    assert result.history[0]["step"] == 4 + 6  # 30 frames in batches of 5


@pytest.mark.parametrize("key", ["model.config.cutoff", "optimizer.name", "lr"])
def test_some_keys_never_change(plain_run: dict[str, Any], key: str) -> None:
    with pytest.raises(ValueError, match=rf"resume.allow must name keys among or below .*got '{key}'"):
        continued(plain_run, [key])


def test_models_are_kept_as_asked_for(toy: Any, plain_run: dict[str, Any]) -> None:
    keep = {"keep_every": 2, "keep_last": True, "keep_raw": True}
    result = run(plain_run, stop={"epochs": 5}, ema=0.9, logging=plain_run["logging"] | keep)
    folder = result.model.parent
    assert sorted(p.name for p in folder.glob("model.*.safetensors")) == [
        "model.epoch1.safetensors",
        "model.epoch3.safetensors",
        "model.last.safetensors",
        "model.raw.safetensors",
    ]
    state = checkpoint.load(folder / "checkpoint.safetensors")
    raw, last = (localgraph.load_model(folder / f"model.{name}.safetensors") for name in ("raw", "last"))
    assert last[1]["training"]["epoch"] == result.history[-1]
    for name, value in raw[0].named_parameters():
        assert torch.equal(value, state["model"][name])
        assert torch.equal(last[0].get_parameter(name), state["average"][f"module.{name}"])


def test_time_is_counted_over_restarts(toy: Any, plain_run: dict[str, Any]) -> None:
    first = run(plain_run)
    time.sleep(0.05)
    longer = run(plain_run, stop={"epochs": 3})
    assert longer.history[2]["seconds"] > first.history[1]["seconds"]


def test_f22_leftovers_of_killed_processes_are_removed(toy: Any, plain_run: dict[str, Any]) -> None:
    cache = Path(plain_run["output"]) / "cache"
    for name in (".0123456789abcdef.part", ".fedcba9876543210.part"):
        (cache / name).mkdir(parents=True)
        (cache / name / "forces").write_bytes(b"part")
    run(plain_run)
    assert not list(cache.glob("*.part"))
    assert len([p for p in cache.iterdir() if p.suffix != ".lock"]) == 2  # the store and the table
