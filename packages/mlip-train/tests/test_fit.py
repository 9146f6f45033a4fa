"""Whole runs: files left behind, resumption after kill -9, fine-tuning, bad input, the command line."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import ase.io
import pytest
import torch

import localgraph
from mlip_train import TrainConfig, dry_run, fit, from_plain

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")


def run(plain: dict[str, Any], **changes: Any) -> Any:
    return fit(from_plain(TrainConfig, {**plain, **changes}))


def test_fit_learns_and_leaves_its_files(toy: Any, plain_run: dict[str, Any]) -> None:
    result = run(
        plain_run, stop={"epochs": 12}, data={**plain_run["data"], "test": plain_run["data"]["train"]}
    )
    folder = Path(plain_run["output"])
    for name in (
        "model.safetensors",
        "checkpoint.safetensors",
        "metrics.csv",
        "report.html",
        "errors.json",
        "run.json",
    ):
        assert (folder / name).stat().st_size > 0
    for name in ("learning_curves", "parity_validation", "parity_test", "elements_test"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    errors = json.loads((folder / "errors.json").read_text())["test"]
    assert errors["overall"]["forces_rmse"] < 0.8 * errors["baseline"]["overall"]["forces_rmse"]
    page = (folder / "report.html").read_text()
    assert "http://" not in page and "https://" not in page and page.count("data:image/png;base64,") == 5
    for shown in ("<td>parameters</td><td>36</td>", "<td>seconds per epoch</td>"):
        assert shown in page
    assert re.search(r"<td>O</td><td>-\d+\.\d{6}</td>", page)
    assert page.count("<details>") == 1 and "Compiled against eager" not in page
    model, metadata = localgraph.load_model(result.model)
    assert metadata["training"]["elements"] == ["H", "O"]
    assert model.to_config()["avg_num_neighbors"] == pytest.approx(
        metadata["training"]["statistics"]["avg_num_neighbors"]
    )
    best = min(row["validation/loss"] for row in result.history)
    assert metadata["training"]["best"]["validation/loss"] == best
    forces = result.evaluations["validation"].tables["overall"]["forces_rmse"]
    assert any(row["validation/forces_rmse"] == pytest.approx(forces, rel=1e-9) for row in result.history)


STOPS = [
    {"steps": 5},
    {"patience": 0, "epochs": 50},
    {"seconds": 1e-3, "epochs": 50},
    {"lr": 1e-6, "epochs": 50},
]


def test_global_state_is_left_alone(toy: Any, plain_run: dict[str, Any]) -> None:
    def now() -> tuple[Any, ...]:
        return (
            torch.get_num_threads(),
            torch.get_default_dtype(),
            torch.get_float32_matmul_precision(),
            torch.initial_seed(),
        )

    torch.manual_seed(77)
    before = now()
    run(plain_run, hardware={"accelerator": "cpu", "threads": 1, "matmul_precision": "high"})
    assert now() == before


def test_dry_run_by_name(toy: Any, plain_run: dict[str, Any]) -> None:
    facts = dry_run(from_plain(TrainConfig, plain_run))
    assert facts["parameters"] == facts["trained parameters"] == 36
    assert facts["edges in the largest micro-batch"] > 0


def test_stresses_that_are_not_trained_have_no_errors(
    toy: Any, plain_run: dict[str, Any], make_frames: Any, tmp_path: Path
) -> None:
    ase.io.write(tmp_path / "periodic.xyz", make_frames(8, periodic=True))
    data = plain_run["data"] | {"train": [{"path": str(tmp_path / "periodic.xyz")}]}
    for weight in (0.0, 1.0):
        output = str(tmp_path / f"stress{weight}")
        row = run(plain_run, data=data, loss={"stress": weight}, output=output).history[-1]
        assert any("stress" in name for name in row) == bool(weight)


def test_hardware_that_is_absent(toy: Any, plain_run: dict[str, Any]) -> None:
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(
        ValueError, match=r"hardware must be available on this machine, got accelerator 'gpu', devices 1"
    ):
        run(plain_run, hardware={"accelerator": "gpu"})


def test_tensorboard_by_name(toy: Any, plain_run: dict[str, Any]) -> None:
    pytest.importorskip("tensorboard")
    run(plain_run, logging={"progress": False, "report": False, "loggers": ["tensorboard"]})
    assert list((Path(plain_run["output"]) / "tensorboard").glob("events*"))
