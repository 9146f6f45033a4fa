"""Losses and weights that are not finite stop a run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import model_of

from mlip_train import TrainConfig, fit, from_plain
from mlip_train.data.batches import collate
from mlip_train.data.frames import FrameTable
from mlip_train.steps.eager import EagerStep
from mlip_train.steps.loss import predict
from mlip_train.training import checkpoint
from mlip_train.training.finite import LossCheck

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
        "mlip_train.training.average.Average.update_parameters",
        lambda self, model: model.pair.data.fill_(torch.inf),
    )
    with pytest.raises(FloatingPointError, match=r"step 1: weights must be finite, got others in 'pair'"):
        run(plain_run, logging={"progress": False, "checkpoint_steps": 1})
    assert not (Path(plain_run["output"]) / "checkpoint.safetensors").exists()


class Copied:
    """An event of a GPU that is not there."""

    waited = 0

    def record(self) -> None:
        pass

    def synchronize(self) -> None:
        Copied.waited += 1


def test_on_a_gpu_a_loss_is_checked_one_step_late(
    toy: Any, table: FrameTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not before, and at the latest when something is written."""

    class Terms(torch.Tensor):
        is_cuda = True

    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *shape, pin_memory=False, **options: empty(*shape, **options))
    monkeypatch.setattr(torch.cuda, "Event", Copied)
    batch, check = collate(table, np.arange(4)), LossCheck(table)
    prediction = predict(model_of(toy), batch)
    good, bad = torch.ones(3).as_subclass(Terms), torch.tensor([1.0, torch.nan, 1.0]).as_subclass(Terms)
    check.add(batch, good, prediction, "step 0")
    check.add(batch, bad, prediction, "step 1")
    assert Copied.waited == 1
    with pytest.raises(
        FloatingPointError, match=r"^step 1: loss must be finite, got \[1.0, nan, 1.0\].*frame 0"
    ):
        check.add(batch, good, prediction, "step 2")
    check.add(batch, bad, prediction, "step 3")
    with pytest.raises(FloatingPointError, match=r"^step 3: "):
        check.finish()
    check.finish()
