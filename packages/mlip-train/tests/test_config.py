"""Configuration: strict reading, dotted paths in errors, overrides."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlip_train.config import (
    BatchConfig,
    DataConfig,
    HardwareConfig,
    LoggingConfig,
    LossConfig,
    OptimizerConfig,
    SourceConfig,
    StageConfig,
    StopConfig,
    TrainConfig,
    from_plain,
    load_config,
    override,
    parse_yaml,
    to_plain,
)
from mlip_train.config.checks import check_values
from mlip_train.config.ranges import numbers


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser: {}", r"optimiser must be one of the keys .*\(did you mean 'optimizer'\?\)"),
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
    path.write_text("loss: {kind: huber, force_deltas: {0: 0.1, 1: 0.2}}")
    assert load_config(path, ["loss.force_deltas.1=0.3"]).loss.force_deltas == {0.0: 0.1, 1.0: 0.3}


def test_merge_keys_and_repeated_ones() -> None:
    text = "base: &b {energy: 1, forces: 2}\nloss: {<<: *b, forces: 3}\nboth: {<<: [*b, {stress: 4}]}"
    data = parse_yaml(text)
    assert data["loss"] == {"energy": 1, "forces": 3}
    assert data["both"] == {"energy": 1, "forces": 2, "stress": 4}
    with pytest.raises(ValueError, match="keys must be unique, got '<<' again"):
        parse_yaml("loss: {<<: {energy: 1}, <<: {forces: 1}}")
    with pytest.raises(ValueError, match="line 1: key must be a word or a number"):
        parse_yaml("[1, 2]: 3")


def test_model_keys_are_taken_as_they_are() -> None:
    config = {"dtype": "float64", "label": "1e-3", "none": "null", "nested": {"list": [1, "2"]}}
    assert from_plain(TrainConfig, {"model": {"config": config}}).model.config == config


def test_every_number_has_a_range() -> None:
    source, stage = SourceConfig(shuffle=1, charge=0), StageConfig(energy=1, forces=1, stress=1, lr=1)
    whole = TrainConfig(
        data=DataConfig(train=(source,)),
        loss=LossConfig(
            energy_delta=1.0, forces_delta=1.0, stress_delta=1.0, softadapt=1.0, element_weights={"H": 1.0}
        ),
        swa=1,
        stages=(stage,),
        batch=BatchConfig(frames=1, atoms=1, edges=1),
        optimizer=OptimizerConfig(clip=1.0),
        stop=StopConfig(steps=1, seconds=1.0, patience=1, lr=1.0),
        hardware=HardwareConfig(threads=1),
        logging=LoggingConfig(checkpoint_steps=1),
    )

    def leaves(value: Any, path: str) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from leaves(item, f"{path}.{key}" if path else key)
        elif isinstance(value, list):
            for i, item in enumerate(value):
                yield from leaves(item, f"{path}[{i}]")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            yield path

    ranged = {path: admitted for path, admitted, _ in numbers(whole)}
    assert set(ranged) == set(leaves(to_plain(whole), ""))
    assert len(ranged) > 40
    assert all(math.nan not in admitted and math.inf not in admitted for admitted in ranged.values())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"schedule": {"warmup": -5}}, "schedule.warmup must be at least 0, got -5"),
        ({"schedule": {"minimum": -1}}, "schedule.minimum must be at least 0, got -1.0"),
        ({"schedule": {"factor": 2}}, r"schedule.factor must be in \(0, 1\], got 2.0"),
        ({"schedule": {"patience": -1}}, "schedule.patience must be at least 0, got -1"),
        ({"stages": [{"lr": -0.01}]}, r"stages\[0\].lr must be greater than 0, got -0.01"),
        ({"loss": {"kind": "huber", "delta": -1.0}}, "loss.delta must be greater than 0, got -1.0"),
        ({"optimizer": {"weight_decay": -1}}, "optimizer.weight_decay must be at least 0, got -1.0"),
        ({"optimizer": {"clip": 0}}, "optimizer.clip must be greater than 0, got 0.0"),
        ({"optimizer": {"betas": [1.5, 0.9]}}, r"optimizer.betas\[0\] must be in \[0, 1\), got 1.5"),
        ({"optimizer": {"lr": math.inf}}, "optimizer.lr must be finite, got inf"),
        ({"statistics": {"ridge": -1}}, "statistics.ridge must be at least 0, got -1.0"),
        ({"data": {"train": [{"energy_scale": 0}]}}, r"data.train\[0\].energy_scale must be other than 0"),
        ({"data": {"loaders": -1}}, "data.loaders must be at least 0, got -1"),
        ({"data": {"workers": -1}}, "data.workers must be at least 0, got -1"),
        ({"hardware": {"nodes": 0}}, "hardware.nodes must be at least 1, got 0"),
        ({"seed": -1}, r"seed must be in \[0, 4294967296\), got -1"),
        ({"seed": 2**70}, r"seed must be in \[0, 4294967296\)"),
        ({"loss": {"force_deltas": {-1: 0.1}}}, "loss.force_deltas.-1.0 must be at least 0, got -1.0"),
        ({"loss": {"force_deltas": {0: 0}}}, "loss.force_deltas.0.0 must be greater than 0, got 0.0"),
        (
            {"loss": {"force_deltas": {"a": 1}}},
            "loss.force_deltas.a must have keys that are numbers, got 'a'",
        ),
        ({"loss": {"force_deltas": {0: 1, "0.0": 2}}}, "loss.force_deltas must have keys that are different"),
        (
            {"loss": {"element_weights": {"H": True}}},
            "loss.element_weights.H must have values that are numbers",
        ),
        ({"loss": {"element_weights": {"H": -1}}}, "loss.element_weights.H must be at least 0, got -1.0"),
        ({"ema": 1.0}, r"ema must be in \[0, 1\), got 1.0"),
    ],
)
def test_f8_numbers_out_of_range(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_plain(TrainConfig, changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"loss": {"energy": 0, "forces": 0}}, "loss must have a weight that is not 0"),
        ({"stages": [{"epoch": 3}]}, r"stages\[0\] must set energy, forces, stress, lr or matmul_precision"),
        (
            {"stages": [{"lr": 0.1, "ramp": 3}]},
            r"stages\[0\].ramp must be used with energy, forces or stress",
        ),
        ({"optimizer": {"lr": 1e-9}}, "optimizer.lr must be at least schedule.minimum"),
        (
            {"loss": {"delta": 0.5}},
            "loss.delta must be used with huber for a term that has no delta of its own",
        ),
        (
            {"loss": {"stress": 0, "kind": "huber", "energy_delta": 1, "forces_delta": 1, "delta": 2}},
            "loss.delta must be used",
        ),
        ({"loss": {"forces_delta": 0.5}}, r"loss.forces_delta must be used with huber for forces"),
        (
            {"loss": {"stress": 0, "stress_kind": "mae"}},
            "loss.stress_kind must be used with a weight of stress",
        ),
        ({"loss": {"force_deltas": {0: 0.1}}}, r"loss.force_deltas must be used with huber for forces"),
        (
            {"loss": {"kind": "huber", "forces_delta": 0.2, "force_deltas": {0: 0.1}}},
            "loss.forces_delta must be used with .* not with force_deltas",
        ),
        (
            {"loss": {"forces": 0, "element_weights": {"H": 2}}},
            "loss.element_weights must be used with a weight",
        ),
        (
            {"loss": {"forces": 0, "stress": 0, "softadapt": 1.1}},
            "loss.softadapt must be used with weights of two terms",
        ),
        ({"loss": {"softadapt_epochs": 3}}, "loss.softadapt_epochs must be used with loss.softadapt"),
        (
            {"optimizer": {"name": "muon", "amsgrad": True}},
            "optimizer.amsgrad must be used with optimizer.name: adamw",
        ),
        (
            {"optimizer": {"name": "adamw", "adamw": ["readout"]}},
            "optimizer.adamw must be used with optimizer.name: muon",
        ),
        (
            {"optimizer": {"name": "schedulefree"}},
            "schedule.name must be constant with optimizer.name: schedulefree",
        ),
        (
            {"optimizer": {"name": "schedulefree"}, "schedule": {"name": "constant"}},
            "ema must be 0.0 with optimizer.name: schedulefree",
        ),
        ({"swa": 100}, r"swa must be less than stop.epochs \(100\), got 100"),
        ({"schedule": {"name": "cosine", "patience": 3}}, "schedule.patience must be used with"),
        ({"schedule": {"name": "constant", "minimum": 0.0}}, "schedule.minimum must be used with"),
        ({"schedule": {"name": "cosine"}, "stop": {"lr": 1e-4}}, "stop.lr must be used with"),
        ({"model": {"refit_energies": True}}, "model.refit_energies must be used with model.start_from"),
        ({"model": {"add_elements": ["S"]}}, "model.add_elements must be used with model.start_from"),
        (
            {"data": {"validation": [{"path": "a.xyz"}], "validation_fraction": 0.3}},
            "data.validation_fraction must be used with no data.validation, got 0.3",
        ),
        ({"compile": {"mode": "eager", "tolerance": 1e-3}}, "compile.tolerance must be used with"),
        ({"compile": {"mode": "forces", "evaluate": True}}, "compile.evaluate must be used with"),
        (
            {"hardware": {"strategy": "ddp", "bucket_mib": 1.0}},
            "hardware.bucket_mib must be used with hardware.strategy: sync",
        ),
        (
            {"hardware": {"overlap": True}},
            "hardware.overlap must be used with hardware.bucket_mib",
        ),
        (
            {"model": {"config": {"energy_shifts": 0.0}}, "statistics": {"energy_shifts": "mean"}},
            "statistics.energy_shifts must be used without model.config.energy_shifts, got 'mean' with it",
        ),
    ],
)
def test_f10_options_without_effect_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(from_plain(TrainConfig, changes))


@pytest.mark.parametrize("text", ["lr", "=3", "data.train.4.path=x", "seed.deep=1"])
def test_bad_override(text: str) -> None:
    with pytest.raises(ValueError, match=r"override must"):
        override({"data": {"train": [{}]}, "seed": 1}, [text])


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"run must be an existing YAML file"):
        load_config(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"data": {"train": [{"path": "a.xyz", "part": "train"}]}},
            r"data.train\[0\].part must be used with a .store",
        ),
        ({"batch": {"frames": 4, "accumulate": 0}}, "batch.accumulate must be at least 1, got 0"),
        ({"stop": {"epochs": 0}}, "stop.epochs must be at least 1, got 0"),
        ({"loss": {"forces": -1.0}}, "loss.forces must be at least 0, got -1.0"),
        ({"stages": [{"epoch": 1, "energy": -2.0}]}, r"stages\[0\].energy must be at least 0"),
        ({"stop": {"lr": 1e-7}}, "stop.lr must be at least schedule.minimum"),
    ],
)
def test_values_out_of_range(plain_run: dict[str, Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_values(from_plain(TrainConfig, plain_run | changes))
