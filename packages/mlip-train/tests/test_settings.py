"""Configuration: strict reading, dotted paths in errors, overrides."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlip_train.config import TrainConfig, from_plain, load_config, override, parse_yaml, to_plain


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser: {}", "optimiser must be one of the keys"),
        ("optimizer: {learning: 1}", "optimizer.learning must be one of the keys"),
        ("data: {train: [{file: x}]}", r"data.train\[0\].file must be one of"),
        ("optimizer: {lr: fast}", "optimizer.lr must be float, got 'fast'"),
        ("stop: {epochs: 1.5}", "stop.epochs must be int, got 1.5"),
        ("stop: {epochs: true}", "stop.epochs must be int, got True"),
        ("loss: {kind: l2}", "loss.kind must be one of"),
        ("optimizer: {betas: [0.9]}", "optimizer.betas must be a list of 2"),
        ("data: {train: frames.xyz}", "data.train must be a list"),
        ("loss: 3", "loss must be a mapping"),
        ("seed: 1\nema: 0\nseed: 2", r"line 3: keys must be unique, got 'seed' again \(first in line 1\)"),
        ("loss: {energy: 1, energy: 2}", "got 'energy' again"),
        ("loss: [", "YAML must be well-formed"),
        ("- 1", "top level must be a mapping"),
    ],
)
def test_bad_input_names_the_place(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        load_config(path)
    assert "run.yaml" in str(error.value)


def test_round_trip_and_number_forms() -> None:
    config = from_plain(
        TrainConfig, parse_yaml("optimizer: {lr: 1e-3, clip: 2}\nstages: [{epoch: 3, lr: 1e-4}]")
    )
    assert parse_yaml("[1e-3, -.5E+2, 1.e1, 2e1e1, e5]") == [1e-3, -50.0, 10.0, "2e1e1", "e5"]
    assert config.optimizer.lr == 1e-3
    assert config.optimizer.clip == 2.0
    assert config.stages[0].lr == 1e-4
    assert from_plain(TrainConfig, to_plain(config)) == config


def test_overrides_reach_mappings_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("data: {train: [{path: a.xyz}]}")
    config = load_config(path, ["optimizer.lr=0.5", "data.train.0.path=b.xyz", "model.config.cutoff=5"])
    assert config.optimizer.lr == 0.5
    assert config.data.train[0].path == str(tmp_path / "b.xyz")
    assert config.model.config == {"cutoff": 5}


@pytest.mark.parametrize("text", ["lr", "=3", "data.train.4.path=x", "seed.deep=1"])
def test_bad_override(text: str) -> None:
    with pytest.raises(ValueError, match=r"override must"):
        override({"data": {"train": [{}]}, "seed": 1}, [text])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run must be an existing YAML file"):
        load_config(tmp_path / "none.yaml")
