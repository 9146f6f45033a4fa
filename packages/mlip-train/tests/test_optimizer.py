"""Optimizers by name, and averages of the weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import localgraph
from mlip_train import TrainConfig, fit, from_plain
from mlip_train.config import OptimizerConfig
from mlip_train.training import checkpoint
from mlip_train.training.average import begin_equal_average, moving_average
from mlip_train.training.optimizer import make_optimizer, read_average

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 5, dtype=torch.float64), nn.Linear(5, 2, dtype=torch.float64))


def step(model: nn.Module, optimizer: torch.optim.Optimizer, seed: int) -> None:
    x = torch.randn(7, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def closure() -> torch.Tensor:
        model.zero_grad()
        loss = (model(x) - x[:, :2]).square().mean()
        loss.backward()
        return loss

    optimizer.step(closure)


def test_muon_trains_matrices_and_adamw_the_rest() -> None:
    config = OptimizerConfig(name="muon", lr=0.01, weight_decay=0.1, adamw=("1.weight",))
    model, reference = network(), network()
    optimizer = make_optimizer(model, config)
    muon = torch.optim.Muon(
        [reference[0].weight], lr=0.01, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
    )
    groups = [
        {"params": [reference[1].weight], "weight_decay": 0.1},
        {"params": [reference[0].bias, reference[1].bias], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, fused=True)
    for seed in range(5):
        step(model, optimizer, seed)
        step(reference, adamw, seed)  # its closure leaves the gradients for muon
        muon.step()
        for group in (*optimizer.param_groups, *adamw.param_groups, *muon.param_groups):
            group["lr"] *= 0.9
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        assert torch.equal(p, q)
    with pytest.raises(ValueError, match=r"optimizer.adamw must be a prefix of a trained parameter's name"):
        make_optimizer(model, OptimizerConfig(name="muon", adamw=("head",)))


@pytest.mark.parametrize("name", ["adamw", "muon", "schedulefree"])
def test_optimizers_continue_from_their_state(name: Any, tmp_path: Path) -> None:
    if name == "schedulefree":
        pytest.importorskip("schedulefree")
    config = OptimizerConfig(name=name, lr=0.01, weight_decay=0.01)

    def run(restart: bool) -> nn.Module:
        model = network()
        optimizer = make_optimizer(model, config)
        for seed in range(6):
            if name == "schedulefree":
                optimizer.train()  # type: ignore[attr-defined]
            if restart and seed == 3:
                checkpoint.save(tmp_path / "c", {"m": dict(model.state_dict()), "o": optimizer.state_dict()})
                model = network()
                state = checkpoint.load(tmp_path / "c")
                model.load_state_dict(state["m"])
                optimizer = make_optimizer(model, config)
                optimizer.load_state_dict(state["o"])
            step(model, optimizer, seed)
        return model

    for p, q in zip(run(False).parameters(), run(True).parameters(), strict=True):
        assert torch.equal(p, q)


def test_average_of_schedule_free_is_its_own() -> None:
    pytest.importorskip("schedulefree")
    model = network()
    optimizer: Any = make_optimizer(model, OptimizerConfig(name="schedulefree", lr=0.1))
    optimizer.train()
    average = moving_average(model, 0.0)
    for seed in range(4):
        step(model, optimizer, seed)
    before = copy.deepcopy(model.state_dict())
    read_average(model, optimizer, average)
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    optimizer.eval()
    for p, a in zip(model.parameters(), average.module.parameters(), strict=True):
        assert torch.equal(p, a)
        assert not torch.equal(p, before["0.weight"])


def test_equal_average_counts_every_step_since_it_began() -> None:
    model = network()
    average = moving_average(model, 0.99)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    kept = []
    for seed in range(9):
        if seed == 4:
            begin_equal_average(average, now=True)
        step(model, optimizer, seed)
        average.update_parameters(model)
        if seed >= 4:
            kept.append(model[0].weight.detach().clone())
    assert torch.allclose(average.module[0].weight, torch.stack(kept).mean(0), rtol=1e-14)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer": {"lr": 0.01, "name": "muon", "clip": 10.0}},
        {
            "optimizer": {"lr": 0.01, "name": "schedulefree"},
            "schedule": {"name": "constant", "warmup": 0},
            "ema": 0,
        },
        {"swa": 2, "ema": 0.9},
        {"loss": {"softadapt": 1.1, "softadapt_epochs": 1, "kind": "huber", "force_deltas": {0: 0.1, 1: 1}}},
        {"loss": {"element_weights": {"H": 0.5}}, "stages": [{"epoch": 2, "matmul_precision": "high"}]},
    ],
    ids=["muon", "schedulefree", "swa", "softadapt", "elements"],
)
def test_runs_learn_and_continue_to_the_same_numbers(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, changes: dict[str, Any]
) -> None:
    if changes.get("optimizer", {}).get("name") == "schedulefree":
        pytest.importorskip("schedulefree")
    plain = {**plain_run, **changes, "logging": {"progress": False, "report": False}}
    whole = fit(from_plain(TrainConfig, plain | {"output": str(tmp_path / "whole"), "stop": {"epochs": 5}}))
    losses = [row["validation/loss"] for row in whole.history]
    assert losses[-1] < losses[0]
    for epochs in (3, 5):
        part = plain | {"output": str(tmp_path / "part"), "stop": {"epochs": epochs}}
        broken = fit(from_plain(TrainConfig, part))
    strip = [{k: v for k, v in row.items() if k != "seconds"} for row in whole.history]
    assert [{k: v for k, v in row.items() if k != "seconds"} for row in broken.history] == strip
    models = [localgraph.load_model(r.model)[0].state_dict() for r in (whole, broken)]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[0])
    assert np.isfinite(losses).all()
