"""Defaults that the data decide, and the smallest configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest

import localgraph
from mlip_train import TrainConfig, fit, from_plain
from mlip_train.config import load_config
from mlip_train.training.prepare import prepare

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def prepared(plain: dict[str, Any], **changes: Any) -> Any:
    plain = {k: v for k, v in plain.items() if k != "batch"}
    return prepare(from_plain(TrainConfig, {**plain, **changes}))


def test_the_budget_is_a_hundredth_of_the_edges(
    toy: Any, plain_run: dict[str, Any], make_frames: Any
) -> None:
    few = prepared(plain_run)
    table = few.train.table
    assert few.config.batch.edges == table.edge_counts.max()  # 40 frames: single ones
    path = Path(plain_run["output"]).with_name("many.xyz")
    ase.io.write(path, make_frames(500))
    many = prepared(plain_run, data={"train": [{"path": str(path)}], "loaders": 0})
    assert many.config.batch.edges == many.train.table.edge_counts.sum() // 100
    assert 80 < len(many.train.batches) < 130
    assert prepared(plain_run, batch={"atoms": 30}).config.batch.edges is None


@pytest.mark.parametrize(("kind", "power"), [("mse", 2), ("huber", 2), ("mae", 1)])
def test_stresses_weigh_as_virials_per_atom(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path, kind: str, power: int
) -> None:
    frames = make_frames(12, periodic=True)
    ase.io.write(tmp_path / "bulk.xyz", frames)
    data = {"train": [{"path": str(tmp_path / "bulk.xyz")}], "loaders": 0}
    volume = np.mean([a.get_volume() / len(a) for a in frames])
    assert prepared(plain_run, data=data, loss={"kind": kind}).config.loss.stress == pytest.approx(
        volume**power
    )
    assert prepared(plain_run, data=data, loss={"stress": 3.0}).config.loss.stress == 3.0

    ase.io.write(tmp_path / "both.xyz", [*frames, *make_frames(3)])
    data["train"] = [{"path": str(tmp_path / "both.xyz")}]
    assert prepared(plain_run, data=data).config.loss.stress == 0.0
    data["partial_labels"] = True
    assert prepared(plain_run, data=data).config.loss.stress == pytest.approx(volume**2)
    assert prepared(plain_run).config.loss.stress == 0.0


def test_the_smallest_configuration_learns(toy: Any, make_frames: Any, tmp_path: Path) -> None:
    ase.io.write(tmp_path / "water.xyz", make_frames(60, periodic=True))
    (tmp_path / "run.yaml").write_text(
        f"output: {tmp_path / 'run'}\n"
        "model: {name: toy, config: {cutoff: 4.0}}\n"
        "data: {train: [{path: water.xyz}]}\n"
        "stop: {epochs: 8}\n"
        "compile: {mode: eager}\n"
        "logging: {progress: false}\n"
    )
    result = fit(load_config(tmp_path / "run.yaml"))
    losses = [row["validation/loss"] for row in result.history]
    assert losses[-1] == min(losses) < 0.7 * losses[0]
    assert result.history[0]["train/stress_rmse"] > 0
    rates = [row["lr"] for row in result.history]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] < 1e-5
    best = localgraph.load_model(result.model)[1]["training"]
    assert best["config"]["batch"]["edges"] > 0
    assert best["config"]["loss"]["stress"] > 100
