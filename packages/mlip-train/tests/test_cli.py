"""The command line: help, overrides in both forms, exit status."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ase.io
import pytest
import yaml

import mlip_train
from mlip_train import TrainingModule, __version__, fit, from_plain
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
        (["evaluate", "run.yaml"], "data must be files of frames"),
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


pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


def test_command_line(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain_run))
    assert main(["fit", str(path), "--dry-run"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["elements"] == ["H", "O"]
    assert facts["frames of sources"] == [{"path": plain_run["data"]["train"][0]["path"], "frames": 40}]
    assert facts["training frames"] == 30 and facts["validation frames"] == 10
    assert not (Path(plain_run["output"]) / "metrics.csv").exists()
    assert main(["fit", str(path), "--optimizer.lr=0.02", "stop.epochs=1"]) == 0
    streams = capsys.readouterr()
    assert "baseline: element means" in streams.out
    assert f"data.train[0]: 40 frames from {plain_run['data']['train'][0]['path']}" in streams.err
    assert "30 training frames, 10 held out for validation" in streams.err
    assert main(["evaluate", plain_run["output"], plain_run["data"]["train"][0]["path"]]) == 0
    assert "forces RMSE, meV/Å" in capsys.readouterr().out
    errors = json.loads((Path(plain_run["output"]) / "evaluation.json").read_text())
    assert errors["frames"] == 40 and "baseline" in errors
    for what in (path, Path(plain_run["output"]), Path(plain_run["output"]) / "checkpoint.safetensors"):
        assert main(["info", str(what)]) == 0
        assert json.loads(capsys.readouterr().out)
    assert main(["fit", str(path), "optimizer.speed=1"]) == 2
    assert "optimizer.speed must be one of the keys" in capsys.readouterr().err
    assert main(["evaluate", plain_run["output"]]) == 2
    assert main(["fit", str(tmp_path)]) == 2
    assert "run must be an existing YAML file" in capsys.readouterr().err


def test_options_between_overrides(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, other = tmp_path / "run.yaml", tmp_path / "other"
    path.write_text(yaml.safe_dump(plain_run))
    for line in (["--dry-run", f"--output={other}", "seed=3"], [f"output={other}", "--dry-run", "--seed=3"]):
        assert main(["fit", str(path), *line]) == 0
        assert json.loads(capsys.readouterr().out)["parameters"] == 36
    assert (other / "cache").exists() and not Path(plain_run["output"]).exists()
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0 and capsys.readouterr().out == f"mlip-train {__version__}\n"


def test_evaluate_reads_labels_as_the_run_did(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = make_frames(10)
    for atoms in frames:
        atoms.info["REF_energy"] = 2.0 * atoms.calc.results["energy"]
        atoms.arrays["REF_forces"] = 2.0 * atoms.calc.results["forces"]
        atoms.calc = None
    ase.io.write(tmp_path / "ref.xyz", frames)
    keys = {"energy": "REF_energy", "forces": "REF_forces", "energy_scale": 0.5, "force_scale": 0.5}
    data = {"train": [{"path": str(tmp_path / "ref.xyz"), **keys}], "loaders": 0}
    run(plain_run, data=data, output=str(tmp_path / "ref"))
    evaluate = ["evaluate", str(tmp_path / "ref")]
    assert main([*evaluate, "--output", str(tmp_path / "e"), str(tmp_path / "ref.xyz")]) == 0
    capsys.readouterr()
    errors = json.loads((tmp_path / "e" / "evaluation.json").read_text())["overall"]
    assert errors["energy_per_atom_rmse"] < 3.0
    assert main([*evaluate, plain_run["data"]["train"][0]["path"]]) == 2
    assert (
        "data must have frames with labels, got none under [{'energy': 'REF_energy'"
        in capsys.readouterr().err
    )


def test_f12_files_that_cannot_be_written_are_one_line(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain_run))
    frames = plain_run["data"]["train"][0]["path"]
    for name in ("fit", "check"):
        assert main([name, str(path), f"output={frames}"]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and error.startswith(f"mlip-train {name}: ") and frames in error


def test_f20_the_model_is_always_named_and_the_report_only_if_written(
    toy: Any, plain_run: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain_run))
    assert main(["fit", str(path), "logging.report=false", "data.validation_fraction=0"]) == 0
    out = capsys.readouterr().out
    assert f"model: {plain_run['output']}/model.safetensors (best of stage 0: epoch" in out
    assert "report:" not in out


def test_interrupted_runs_exit_with_the_signal(
    toy: Any,
    plain_run: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(plain_run))
    original = TrainingModule.training_step
    monkeypatch.setattr(
        TrainingModule,
        "training_step",
        lambda self, batch, index: (os.kill(os.getpid(), signal.SIGTERM), original(self, batch, index))[1],
    )
    assert main(["fit", str(path)]) == 143
    error = capsys.readouterr().err
    assert "\nmlip-train fit: SIGTERM: stopped after step 1; the same command continues from" in error


def test_help_does_not_wait_for_torch():
    script = (
        "import sys, mlip_train.cli as cli\n"
        "for arguments in (['--help'], ['fit', '--help']):\n"
        "    try: cli.main(arguments)\n"
        "    except SystemExit: pass\n"
        "assert not {'torch', 'lightning', 'localgraph'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, stdout=subprocess.DEVNULL)


def test_every_public_name_is_there():
    found = {name: getattr(mlip_train, name) for name in mlip_train.__all__}
    assert all(found[name].__name__ == name for name in found) and set(mlip_train.__all__) <= set(
        dir(mlip_train)
    )
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        mlip_train.nothing  # noqa: B018
