"""The moving average of the weights."""

from __future__ import annotations

import pytest
import torch

from mlip_train.training.average import exchanged, moving_average


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.999])
def test_moving_average(decay: float) -> None:
    model = torch.nn.Linear(2, 1)
    average = moving_average(model, decay)
    expected = model.weight.detach().clone()
    for n in range(1, 15):
        with torch.no_grad():
            model.weight.add_(1.0)
        average.update_parameters(model)
        d = min(decay, (1 + n) / (10 + n)) if decay else 0.0
        expected = d * expected + (1 - d) * model.weight.detach()
    kept = model.weight.detach().clone()
    before = average.module.weight.clone()
    with exchanged(model, average):
        assert torch.allclose(model.weight, expected)
        assert torch.equal(average.module.weight, kept)
    assert torch.equal(model.weight, kept) and torch.equal(average.module.weight, before)


def test_decay_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"ema must be in \[0, 1\), got 1.0"):
        moving_average(torch.nn.Linear(2, 1), 1.0)
