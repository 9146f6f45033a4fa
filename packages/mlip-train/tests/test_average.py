"""The moving average of the weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mlip_train.training.average import MovingAverage

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def test_moving_average(toy: Any) -> None:
    model = torch.nn.Linear(2, 1)
    average = MovingAverage(model, 0.5)
    expected = model.weight.detach().clone()
    for n in range(1, 6):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update()
        d = min(0.5, (1 + n) / (10 + n))
        expected = d * expected + (1 - d) * model.weight.detach()
    kept = model.weight.detach().clone()
    with average.in_place():
        assert torch.allclose(model.weight, expected)
    assert torch.equal(model.weight, kept)
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got 1.0"):
        MovingAverage(model, 1.0)
