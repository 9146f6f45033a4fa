"""Learning rates, stages and the end of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import localgraph
from mlip_train import TrainConfig, TrainingModule, fit, from_plain
from mlip_train.config import ScheduleConfig, StageConfig
from mlip_train.training.prepare import prepare
from mlip_train.training.schedule import Schedule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


STOPS = [
    {"steps": 5},
    {"patience": 0, "epochs": 50},
    {"seconds": 1e-3, "epochs": 50},
    {"lr": 1e-6, "epochs": 50},
]


@pytest.mark.parametrize("stop", STOPS)
def test_stopping(toy: Any, plain_run: dict[str, Any], stop: dict[str, Any]) -> None:
    lr = {"lr": 1e-3 if "steps" in stop else 0.3}
    plain = plain_run | {"stop": stop, "optimizer": lr, "logging": {"progress": False, "report": False}}
    plain["schedule"] = {"name": "plateau", "patience": 0, "factor": 1e-9}
    result = run(plain)
    assert run(plain).history == result.history  # the same command again trains no further
    if "steps" in stop:
        assert result.history[-1]["step"] == 5
    elif "seconds" in stop:
        assert [row["step"] for row in result.history] == [1]
        assert "validation/loss" in result.history[0]
    elif "lr" in stop:
        assert len(result.history) < 50
    else:
        scores = [row["validation/loss"] for row in result.history]
        assert scores[-1] >= min(scores[:-1])
        assert len(scores) < 50


def test_schedules() -> None:
    plateau = Schedule(
        ScheduleConfig(name="plateau", factor=0.5, patience=1, warmup=4),
        1.0,
        (StageConfig(epoch=3, lr=0.2),),
        100,
    )
    assert [plateau.rate(s) for s in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert [plateau.end_epoch(m) for m in (3.0, 2.0, 2.5, 2.1)] == [True, True, False, False]
    assert plateau.rate(9) == 0.5
    plateau.begin_epoch(3)
    assert plateau.rate(9) == 0.2 and plateau.bad_epochs == 0
    assert not plateau.end_epoch(9.0) and plateau.stage == 0  # scores of one loss can be compared
    weighted = Schedule(ScheduleConfig(), 1.0, (StageConfig(epoch=1, energy=5.0),), 100)
    assert weighted.end_epoch(1.0)
    weighted.begin_epoch(1)
    assert weighted.stage == 1 and weighted.end_epoch(9.0)
    stages = (StageConfig(epoch=2, lr=0.1), StageConfig(epoch=4, forces=1.0, ramp=3))
    ramped = Schedule(ScheduleConfig(), 1.0, stages, 100)
    assert [ramped.settled(epoch) for epoch in range(8)] == [False] * 6 + [True] * 2
    ramped.bad_epochs = 2
    for epoch, bad in ((1, 2), (3, 2), (6, 0)):
        ramped.begin_epoch(epoch)
        assert ramped.bad_epochs == bad
    cosine = Schedule(ScheduleConfig(name="cosine", minimum=0.1, warmup=0), 1.0, (), 100)
    assert [cosine.rate(s) for s in (0, 50, 100)] == pytest.approx([1.0, 0.55, 0.1])


def test_the_end_of_the_run_may_be_a_time() -> None:
    timed = Schedule(ScheduleConfig(minimum=0.0), 1.0, (), 10_000)  # a warm-up of 100 steps
    assert timed.rate(0) == pytest.approx(0.01)
    assert timed.rate(49) == pytest.approx(0.5, rel=1e-3)
    assert timed.rate(0, 0.025) == pytest.approx(0.5, rel=1e-2)  # slow steps warm up by time
    assert timed.rate(100, 0.5) == pytest.approx(0.5)
    assert timed.rate(5000, 0.2) == pytest.approx(0.5)
    assert timed.rate(100, 1.5) == pytest.approx(0.0)
    assert Schedule(ScheduleConfig(), 1.0, (), 1).rate(0) == 1.0


@pytest.mark.parametrize(
    ("world", "accumulate", "steps"), [(1, 1, None), (2, 1, None), (2, 3, None), (2, 1, 3)]
)
def test_cosine_ends_with_the_run(
    toy: Any,
    plain_run: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    world: int,
    accumulate: int,
    steps: Any,
) -> None:
    plain = plain_run | {
        "schedule": {"name": "cosine", "minimum": 0.0},
        "stop": {"epochs": 2, "steps": steps},
    }
    config = from_plain(TrainConfig, plain | {"batch": {"frames": 4, "accumulate": accumulate}})
    prepared = prepare(config)
    module = TrainingModule(prepared.model, config, prepared.train, prepared.validation)
    monkeypatch.setattr("mlip_train.training.module.place", lambda: (world, 1))
    module.on_fit_start()
    taken = 2 * len(module.train_dataloader()) // accumulate  # of this process
    last = min(taken, steps or taken)
    assert module.schedule.rate(last) == 0.0 < module.schedule.rate(last - 1)


def test_scores_of_a_ramp_have_one_weight(toy: Any, plain_run: dict[str, Any]) -> None:
    stages = [{"epoch": 1, "energy": 40.0, "forces": 2.0, "ramp": 3}]
    stop, logging = {"epochs": 4, "patience": 0}, {"progress": False, "report": False}
    result = run(
        plain_run,
        stages=stages,
        stop=stop,
        logging=logging,
        optimizer={"lr": 1e-12},
        schedule={"minimum": 0.0},
    )
    assert len(result.history) == 4  # patience waits for the end of the ramp
    for row, (e, f) in zip(result.history, [(1, 1), (14, 4 / 3), (27, 5 / 3), (40, 2)], strict=True):
        final = (1, 1) if row["epoch"] == 0 else (40, 2)
        for part, (a, b) in (("train", (e, f)), ("validation", final)):
            rmse = row[f"{part}/energy_per_atom_rmse"], row[f"{part}/forces_rmse"]
            assert row[f"{part}/loss"] == pytest.approx(a * rmse[0] ** 2 + b * rmse[1] ** 2)


def test_precision_follows_the_stages(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    original = TrainingModule.training_step

    def step(self: Any, batch: Any, index: int) -> Any:
        if index == 0:
            seen.append(torch.get_float32_matmul_precision())
        return original(self, batch, index)

    monkeypatch.setattr(TrainingModule, "training_step", step)
    stages = [{"epoch": 2, "matmul_precision": "highest"}, {"epoch": 1, "lr": 0.001}]
    hardware = plain_run["hardware"] | {"matmul_precision": "high"}
    before = torch.get_float32_matmul_precision()
    plain = plain_run | {"logging": {"progress": False, "report": False}, "hardware": hardware}
    run(plain, stages=stages, stop={"epochs": 3})
    run(plain, stages=stages, stop={"epochs": 4})  # continued
    assert seen == ["high", "high", "highest", "highest"]
    assert torch.get_float32_matmul_precision() == before


def test_f5_stages_keep_their_best_models(toy: Any, plain_run: dict[str, Any]) -> None:
    folder = Path(plain_run["output"])
    plain = plain_run | {"logging": {"progress": False, "report": False}, "stop": {"epochs": 4}}

    def best(name: str) -> Any:
        return localgraph.load_model(folder / name)[1]["training"]["best"]

    # a stage that only diverges does not replace the best model
    result = run(plain, stages=[{"epoch": 2, "lr": 5.0}])
    scores = [row["validation/loss"] for row in result.history]
    assert scores[3] > scores[1] and best("model.safetensors")["epoch"] == int(np.argmin(scores))
    assert [p.name for p in folder.glob("model*")] == ["model.safetensors"]
    # scores of other loss weights cannot be compared: the best of each stage is kept
    folder = folder.with_name("weighted")
    stages = [{"epoch": 2, "energy": 50.0, "forces": 0.0}]
    result = run(plain, output=str(folder), stages=stages)
    scores = [row["validation/loss"] for row in result.history]
    assert best("model.stage0.safetensors")["epoch"] == int(np.argmin(scores[:2]))
    assert best("model.safetensors")["epoch"] == 2 + int(np.argmin(scores[2:]))
    assert best("model.safetensors")["stage"] == 1
