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
    errors = parts["export_small"]["error"]
    assert set(errors) == {f"{name} 24" for name in (*day.PROGRAMS, "cuda graph float32")}
    for error in errors.values():
        assert error["force_max"] < 1e-4 * error["force_scale"] + 1e-6
    measured = day.measured(record)
    assert measured["small, 192 atoms, float32, ms"] is None  # a tiny day has other sizes
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


def test_programs_are_compiled_as_they_are_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Precision is a property of the file: without it a row of TF32 would be one of float32."""
    export = importlib.import_module("benchmarks.gpu.parts.export")
    compiled: dict[str, dict[str, object]] = {}
    monkeypatch.setattr(
        export.mlip_export, "compile", lambda model, path, **how: compiled.update({path.name: how})
    )
    for name in export.PROGRAMS:
        given = ["export", "--preset", "small", "--tiny", "--out", str(tmp_path), "--device", "cuda"]
        monkeypatch.setattr(sys, "argv", [*given, "--compile", name])
        monkeypatch.setattr(export.Part, "device_name", lambda self: "a GPU")
        export.main()
    assert compiled == {
        "small_cuda.pt2": {"device": "cuda"},
        "small_exported_tf32.pt2": {"device": "cuda", "precision": "tf32"},
        "small_chained_float32.pt2": {"device": "cuda", "chained": "yes"},
        "small_chained_tf32.pt2": {"device": "cuda", "chained": "yes", "precision": "tf32"},
        "small_fused_tf32.pt2": {"device": "cuda", "fused": True, "precision": "tf32"},
    }
    assert set(export.PROGRAMS) == set(day.PROGRAMS)


def test_predictions_name_what_is_measured() -> None:
    """A name that no measurement has would say "not measured" for ever."""
    per_edge = dict.fromkeys(day.PROGRAMS, 1.0)
    sized = {**per_edge, "cuda graph float32": 1.0, "ase float32": 1.0}
    export = {"ms": {"192": sized, "5184": sized}, "peak_bytes_per_edge": per_edge}
    kernels = [{"op": "to_atoms", "edges": 468_000, "l_max": 2, "channels": 64, "share_of_copy": 1.0}]
    parts = {f"export_{preset}": export for preset in ("small", "medium", "large")}
    parts |= {
        "kernels": {"rows": kernels},
        "train": {"rows": [{"preset": "small", "frames": 256, "step": "full", "ms": 1.0}]},
    }
    assert None not in day.measured({"parts": parts, "predicted": day.PREDICTED}).values()


def test_predicted_times_are_those_of_the_slower_limit() -> None:
    replay = importlib.import_module("ci.regressions.replay")
    source = """
    def call(self, args):
        a, b = args
        out = empty_strided_cuda((1000, 10), (10, 1), torch.float32)
        extern_kernels.mm(a, b, out=out)
        triton_silu.run(out, out)
        hidden_layers_kernel_0.run(a, a, a, b, b, out, out, out, 1000)
        return out
"""
    inputs = [([1000, 20], [20, 1], "float32"), ([20, 10], [10, 1], "float32")]
    cost = replay.run(source, inputs)
    product, pair = 2 * 1000 * 20 * 10, 2 * 1000 * 2 * 200
    sizes = (4 * (20000 + 200 + 10000), 4 * 20000, 4 * (3 * 20000 + 2 * 200 + 3 * 10000))
    assert cost.kernels == [(sizes[0], product), (sizes[1], 0), (sizes[2], pair)]
    assert cost.seconds(1e6, 1e9, 0.0) == pytest.approx(sum(sizes) / 1e6)
    assert cost.seconds(1e12, 1e6, 0.01) == pytest.approx(product / 1e6 + 0.01 + pair / 1e6)
