"""The command line: help, overrides in both forms, exit status."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from mlip_train.cli import main
from mlip_train.config import SourceConfig, StageConfig, TrainConfig
from mlip_train.config.help import overrides


def keys(cls: Any, path: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(cls):
        value = field.default_factory() if callable(field.default_factory) else field.default
        where = f"{path}{field.name}"
        found += keys(type(value), f"{where}.") if dataclasses.is_dataclass(value) else [where]
    return found


def test_help_lists_every_key_with_text_and_default(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["fit", "--help"])
    page = capsys.readouterr().out
    assert end.value.code == 0 and len(keys(TrainConfig)) > 50
    options, _, items = page.partition("Each item of data.train")
    entries = options.split("\n  --")[1:]
    shown = {entry.split()[0]: entry for entry in entries}
    for key in keys(TrainConfig):
        assert key in shown, key
        words = shown[key].split("(type:")
        assert len(words) == 2 and "default:" in words[1], shown[key]
        assert len(words[0].split()) > 2, shown[key]
    for key in (*keys(SourceConfig), *keys(StageConfig)):
        assert f"\n  {key} " in items, key
    assert "CONFIG      Path" not in page and "mlip-train fit run.yaml optimizer.lr=0.002" in page


def test_both_forms_of_overrides_keep_their_order() -> None:
    given, rest = overrides(
        ["fit", "run.yaml", "seed=1", "--optimizer.lr=1e-2", "--dry-run", "--stop.epochs", "3", "-o", "x"]
    )
    assert given == ["seed=1", "optimizer.lr=1e-2", "stop.epochs=3"]
    assert rest == ["fit", "run.yaml", "--dry-run", "-o", "x"]
    with pytest.raises(ValueError, match=r"--optimizer.lr must be followed by a value, got none"):
        overrides(["fit", "run.yaml", "--optimizer.lr"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fit", "none.yaml"], "mlip-train fit: run must be an existing YAML file, got 'none.yaml'"),
        (["check", "run.yaml", "optimizer.speed=1"], "optimizer.speed must be one of the keys"),
        (["fit", "run.yaml", "--seed"], "mlip-train fit: --seed must be followed by a value, got none"),
        (["evaluate", "run.yaml"], "data: required files of frames"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("run.yaml").write_text("output: run\n")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
