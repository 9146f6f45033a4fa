"""Error metrics."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from samples import model_of

from mlip_train.data.batches import collate
from mlip_train.data.frames import FrameTable
from mlip_train.report.metrics import Errors
from mlip_train.steps.loss import predict


def test_metrics_by_subset_and_element(toy: Any, table: FrameTable) -> None:
    batch = collate(table, np.arange(16))
    batch = batch._replace(subset=torch.arange(16) % 2)
    out = predict(model_of(toy), batch)
    metrics = Errors(["a", "b"], ["H", "O"])
    halves = Errors(["a", "b"], ["H", "O"])
    metrics.update(batch, out)
    for rows in (np.arange(8), np.arange(8, 16)):
        part = collate(table, rows)._replace(subset=torch.from_numpy(rows % 2))
        halves.update(part, predict(model_of(toy), part))
    a, b = metrics.state(), halves.state()
    assert a.keys() == {"by_subset", "by_element", "terms", "norms"}
    assert all(torch.allclose(a[name], b[name], rtol=1e-12) for name in a)
    restored = Errors(["a", "b"], ["H", "O"])
    restored.load_state_dict(a)
    assert restored.tables() == metrics.tables()
    df = (out.forces - batch.forces).numpy()
    tables = metrics.tables()
    assert tables["overall"]["forces_rmse"] == pytest.approx(np.sqrt((df**2).mean()))
    oxygen = df[batch.types.numpy() == 1]
    assert tables["forces_by_element"]["O"]["mae"] == pytest.approx(np.abs(oxygen).mean())
    de = ((out.energy - batch.energy) / batch.atoms).numpy()[1::2]
    assert tables["subsets"]["b"]["energy_per_atom_rmse"] == pytest.approx(np.sqrt((de**2).mean()))
