"""Predictions per frame."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from samples import model_of, table_of

from mlip_train.report.evaluate import evaluate
from mlip_train.report.predictions import predictions, worst_rows


def test_files_hold_every_frame_with_labels_and_predictions(
    toy: Any, make_frames: Any, tmp_path: Path
) -> None:
    given = [*make_frames(4, periodic=True), *make_frames(5, seed=1)]
    given[6].calc.results.pop("energy")
    table, model = table_of(given, tmp_path), model_of(toy)
    with predictions(tmp_path, table) as found:
        result = evaluate(model, table, np.zeros(2), each=found.add)
    frames = ase.io.read(tmp_path / "predictions.xyz", ":")
    assert len(frames) == len(given) == len(found.rows)
    squares = np.zeros(2)
    for before, after in zip(given, frames, strict=True):
        assert after.get_chemical_symbols() == before.get_chemical_symbols()
        assert np.allclose(after.positions, before.positions, atol=1e-7)
        assert np.array_equal(after.pbc, before.pbc)
        assert np.allclose(after.calc.results["forces"], before.calc.results["forces"], atol=1e-7)
        assert ("energy" in after.calc.results) == ("energy" in before.calc.results)
        error = after.arrays["predicted_forces"] - after.calc.results["forces"]
        squares += (error**2).sum(), error.size
        if before.pbc.all():
            stress = before.calc.results["stress"].flatten()[[0, 4, 8, 5, 2, 1]]
            assert np.allclose(after.calc.results["stress"], stress, atol=1e-7)
            assert after.info["predicted_stress"].shape == (3, 3)
    overall = result.tables["overall"]
    assert np.sqrt(squares[0] / squares[1]) == pytest.approx(overall["forces_rmse"], rel=1e-6)

    with (tmp_path / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    errors = [float(row["energy_error_per_atom"]) for row in rows if row["energy"]]
    assert len(errors) == 8
    assert np.sqrt(np.mean(np.square(errors))) == pytest.approx(overall["energy_per_atom_rmse"], rel=1e-12)
    largest = max(rows, key=lambda row: float(row["force_rmse"]))
    assert found.worst("force_rmse", 1)[0]["frame"] == largest["frame"]
    assert largest["frame"] in worst_rows(found)[1][0]
    assert torch.isfinite(torch.tensor([float(row["force_max"]) for row in rows])).all()
