"""Losses and weights that are not finite stop a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mlip_train import TrainConfig, fit, from_plain
from mlip_train.steps.eager import EagerStep
from mlip_train.training import checkpoint

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


def test_a_loss_that_is_not_finite_stops_the_run(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = plain_run | {"logging": {"progress": False, "report": False, "checkpoint_steps": 1}}
    original = EagerStep.__call__

    def broken(self: Any, batch: Any, coefficients: Any) -> Any:
        result = original(self, batch, coefficients)
        if 7 in batch.row:
            result.prediction.forces[batch.frame == batch.row.tolist().index(7)] = torch.nan
            return result._replace(loss=result.loss * torch.nan, terms=result.terms * torch.nan)
        return result

    monkeypatch.setattr(EagerStep, "__call__", broken)
    with pytest.raises(
        FloatingPointError, match=r"loss must be finite, got \[nan.* in a batch with .*frames.xyz, frame 7 \("
    ):
        run(plain)
    path = Path(plain["output"]) / "checkpoint.safetensors"
    if path.exists():  # the frame was not in the first batch
        state = checkpoint.load(path)
        assert all(torch.isfinite(v).all() for v in state["model"].values())
    monkeypatch.setattr(EagerStep, "__call__", original)
    assert len(run(plain).history) == 2


def test_weights_that_are_not_finite_are_not_saved(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "torch.optim.swa_utils.AveragedModel.update_parameters",
        lambda self, model: model.pair.data.fill_(torch.inf),
    )
    with pytest.raises(FloatingPointError, match=r"step 1: weights must be finite, got others in 'pair'"):
        run(plain_run, logging={"progress": False, "checkpoint_steps": 1})
    assert not (Path(plain_run["output"]) / "checkpoint.safetensors").exists()
