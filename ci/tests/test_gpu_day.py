"""The GPU day runs on a CPU at the smallest sizes, keeps to its limits, and reports what failed."""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
import time
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
day = pytest.importorskip("benchmarks.gpu.day", exc_type=ImportError)

FAKE = """
import json, pathlib, sys, time
name, out = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if name == "broken":
    raise SystemExit("no such device")
time.sleep(0.5 if name == "late" else 0.0)
print("ready", flush=True)
sys.stdin.readline()
(out / f"{name}.json").write_text(json.dumps({"began": time.monotonic()}))
time.sleep(60 if name == "endless" else 0.0)
"""


def test_the_whole_day_tiny(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.gpu.day",
        "--device",
        "cpu",
        "--tiny",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(
        [*command, "--seconds", "1500", "--stretch", "20"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1600,
    )
    logs = "".join(f"\n{path.name}: {path.read_text()[-800:]}" for path in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:] + logs
    record = json.loads((tmp_path / "gpu.json").read_text())
    parts = record["parts"]
    assert set(parts) == set(day.PARTS) - set(day.SAME) and record["notes"] == {}
    assert parts["facts"]["copy_TBps"] > 0
    assert {row["op"] for row in parts["kernels"]["rows"]} == {
        "to_atoms",
        "to_weights",
        "to_basis",
        "to_scalars",
        "tensor_product",
    }
    assert max(row["error"] for row in parts["kernels"]["rows"] if "error" in row) < 1e-5
    error = parts["export_small"]["error"]["float32 24"]
    assert error["force_max"] < 1e-4 * error["force_scale"] + 1e-6
    steps = {row["step"]: row for row in parts["train"]["rows"]}
    assert {"full", "forces", "eager"} <= set(steps)
    assert len({round(steps[name]["loss"], 4) for name in ("full", "forces", "eager")}) == 1
    assert parts["train"]["fit"]["steps_per_s"] > 0
    assert all(row["equal_to_cpu"] for row in parts["neighbors"]["rows"])
    assert parts["profile"]["md"]["launches"] > 0 and (tmp_path / "trace_md.json.gz").exists()


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Parts that do nothing, one of which fails and one of which never ends."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(
        day, "PARTS", {name: ([name], 2.0) for name in ("late", "broken", "endless", "quick")}
    )
    monkeypatch.setattr(day, "AFTER", {"quick": "endless"})
    monkeypatch.setattr(day, "command_of", lambda arguments: [sys.executable, str(script), *arguments])

    def run(seconds: float) -> dict:
        names = list(day.PARTS)
        options = argparse.Namespace(
            device="cpu", tiny=True, out=tmp_path, only=names, seconds=seconds, stretch=1.0
        )
        return day.run(options)

    return run


def test_parts_take_turns_and_a_failure_is_noted(fakes) -> None:
    record = fakes(60.0)
    began = {name: section["began"] for name, section in record["parts"].items()}
    assert set(began) == {"late", "endless", "quick"}
    assert began["quick"] > began["endless"] + 2.0  # after the part it needs, which was ended at its limit
    assert record["notes"]["endless"] == "over its 2 s"
    assert record["notes"]["broken"].startswith("exit status 1")
    assert "quick" not in record["notes"]
    assert "not measured" in day.report(record)


def test_the_day_ends_on_time(fakes) -> None:
    begin = time.monotonic()
    record = fakes(1.0)
    assert time.monotonic() - begin < 20
    assert "were over" in record["notes"]["endless"]


def test_every_tile_config_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module("benchmarks.gpu.parts.kernels")
    part_of = importlib.import_module("benchmarks.gpu.part").Part
    part, launched = part_of("kernels", ["--device", "cpu", "--tiny", "--out", str(tmp_path)]), []
    tuning = types.SimpleNamespace(choose=lambda kernel, configs, *rest: configs[1])
    found = kernels.by_config(
        part, lambda: launched.append(tuning.choose("kernel", ("a", "b", "c"), 64)), tuning
    )
    assert found["chosen"] == "b" and set(found["ms_by_config"]) == set(launched) == {"a", "b", "c"}
    assert kernels.by_config(part, lambda: None, tuning) == {}
