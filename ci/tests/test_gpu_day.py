"""The GPU day runs on a CPU at the smallest sizes, keeps to its limits, and reports what failed."""

from __future__ import annotations

import argparse
import importlib
import io
import json
import subprocess
import sys
import tarfile
import time
import types
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
day = pytest.importorskip("benchmarks.gpu.day", exc_type=ImportError)

FAKE = """
import json, os, pathlib, sys, time
name, out = sys.argv[1], pathlib.Path(sys.argv[sys.argv.index("--out") + 1])
if name == "broken":
    raise SystemExit("no such device")
ticks = out / f"{name}.ticks"
def work(seconds):
    for _ in range(int(seconds / 0.02)):
        with ticks.open("a") as file:
            print(time.monotonic(), file=file)
        time.sleep(0.02)
work({"late": 0.5, "slow": 4.0}.get(name, 0.0))
print("ready", flush=True)
sys.stdin.readline()
began = time.monotonic()
(out / f"{name}.json").write_text(json.dumps({"began": began, "device": "a GPU"}))
time.sleep({"endless": 60, "turn": 1.0}.get(name, 0.0))
(out / f"{name}.json").write_text(json.dumps({"began": began, "ended": time.monotonic(), "device": "a GPU"}))
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
        "--keep",
        str(tmp_path / "kept"),
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
    errors = parts["export_small"]["error"]["24"]
    assert set(errors) == {*day.PROGRAMS, "cuda graph float32"}
    for error in errors.values():
        assert error["force_max"] < 1e-4 * error["force_scale"] + 1e-6
    measured = day.measured(record)
    assert measured["small, 192 atoms, float32, ms"] is None  # a tiny day has other sizes
    steps = {row["step"]: row for row in parts["train"]["rows"] if row["precision"] == "float32"}
    assert {row["step"] for row in parts["train"]["rows"] if row["precision"] == "TF32"} == {"full"}
    assert {"full", "forces", "eager"} <= set(steps)
    assert len({round(steps[name]["loss"], 4) for name in ("full", "forces", "eager")}) == 1
    assert all(row["frames_per_s"] > 0 for row in parts["loader"]["rows"]) and parts["loader"]["rows"]
    assert all(row["equal_to_cpu"] for row in parts["neighbors"]["rows"])
    assert all(parts[name]["profile"]["launches"] > 0 for name in ("export_small", "train"))
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "gpu.json",
        "logs.tar.gz",
        "traces.tar.gz",
    ]
    with tarfile.open(tmp_path / "kept" / "traces.tar.gz") as archive:
        assert set(archive.getnames()) == {"trace_md.json.gz", "trace_train_small_full.json.gz"}


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """A call of parts that do nothing but what their names say."""
    script = tmp_path / "fake.py"
    script.write_text(FAKE)
    monkeypatch.setattr(day, "command_of", lambda arguments: [sys.executable, str(script), *arguments])

    def run(seconds: float, *names: str, before: Path | None = None, limit: float = 2.0) -> dict:
        monkeypatch.setattr(
            day, "PARTS", {n: day.Turn([n], limit, timed=n != "untimed") for n in (*names, *day.PARTS)}
        )
        options = argparse.Namespace(
            device="cpu", tiny=True, out=tmp_path, only=names, seconds=seconds, stretch=1.0
        )
        options.keep, options.before, options.commit = tmp_path / "kept", before, "abc"
        return day.run(options)

    return run


def test_a_failure_is_noted_and_an_endless_part_keeps_what_it_measured(fakes) -> None:
    record = fakes(60.0, "late", "broken", "endless", "quick")
    began = {name: section["began"] for name, section in record["parts"].items()}
    assert set(began) == {"late", "endless", "quick"}
    assert began["late"] < began["endless"] < began["quick"] - 2.0  # ended at its limit
    assert record["notes"]["endless"] == "over its 2 s"
    assert record["notes"]["broken"].startswith("exit status 1")
    assert set(record["notes"]) == {"endless", "broken"}
    assert "not measured" in day.report(record)


def test_a_report_names_failures_beside_what_was_skipped() -> None:
    section = {"device": "a GPU", "skipped": "nequip is not installed", "failed": {"small full": "..."}}
    record = {"parts": {"train": section}, "notes": {"train": "over its 9 s"}, "predicted": {}}
    (line,) = day.report(record).splitlines()
    assert line.endswith("a GPU: over its 9 s; failed: small full; nequip is not installed")


def ticks(folder: Path, name: str) -> list[float]:
    return [float(line) for line in (folder / f"{name}.ticks").read_text().split()]


def test_turns_wait_for_builders(fakes, tmp_path: Path) -> None:
    record = fakes(60.0, "turn", "slow")
    assert record["parts"]["turn"]["began"] > ticks(tmp_path, "slow")[-1]


def test_builders_are_paused_during_turns_when_time_is_short(fakes, tmp_path: Path) -> None:
    record = fakes(9.0, "turn", "slow", limit=4.0)
    turn, built = record["parts"]["turn"], ticks(tmp_path, "slow")
    assert built[0] < turn["began"] and built[-1] > turn["ended"]
    assert not [t for t in built if turn["began"] + 0.1 < t < turn["ended"]]
    assert record["notes"] == {} and record["parts"]["slow"]["began"] > turn["ended"]


def test_an_untimed_part_begins_at_once(fakes, tmp_path: Path) -> None:
    record = fakes(60.0, "slow", "untimed")
    assert record["parts"]["untimed"]["began"] < ticks(tmp_path, "slow")[-1]


def test_the_day_ends_on_time(fakes, tmp_path: Path) -> None:
    begin = time.monotonic()
    record = fakes(1.5, "endless", "slow", limit=100.0)
    assert time.monotonic() - begin < 10
    assert all("were over" in record["notes"][name] for name in ("endless", "slow"))
    assert json.loads((tmp_path / "kept" / "gpu.json").read_text()) == record


def test_the_record_is_written_during_turns(fakes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever lends a machine may end the day at any time."""
    monkeypatch.setattr(day, "SAVE", 0.2)
    stages = []
    write = day.write_json
    monkeypatch.setattr(
        day, "write_json", lambda path, record: (stages.append(record["parts"]), write(path, record))
    )
    fakes(60.0, "turn")
    assert any("turn" in parts and "ended" not in parts["turn"] for parts in stages)


def test_a_call_adds_to_the_record_of_the_same_commit(fakes, tmp_path: Path) -> None:
    assert set(fakes(60.0, "late", "broken")["parts"]) == {"late"}
    record = fakes(60.0, "quick")
    assert set(record["parts"]) == {"late", "quick"} and set(record["notes"]) == {"broken"}
    other = tmp_path / "other.json"
    other.write_text(json.dumps({**record, "commit": "def"}))
    (tmp_path / "gpu.json").unlink()
    assert set(fakes(60.0, "quick", before=other)["parts"]) == {"quick"}
    other.write_text(json.dumps(record))
    (tmp_path / "gpu.json").unlink()
    assert set(fakes(60.0, "quick", before=other)["parts"]) == {"late", "quick"}


def test_few_small_files_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Machines that are lent return 8 files of 16 MiB."""
    monkeypatch.setattr(day, "MOST", 1000)
    for number in range(20):
        (tmp_path / f"part{number}.log").write_text("a" * number)
    (tmp_path / "large.log").write_text("a" * 2000)
    (tmp_path / "gpu.json").write_text("{}")
    day.keep(tmp_path, tmp_path / "kept")
    assert {p.name for p in (tmp_path / "kept").iterdir()} == {"logs.tar.gz", "traces.tar.gz"}
    with tarfile.open(tmp_path / "kept" / "logs.tar.gz") as archive:
        assert set(archive.getnames()) == {f"part{number}.log" for number in range(20)}


def test_calls_hold_every_part_once_and_leave_time_to_build() -> None:
    assert sorted(name for names in day.CALLS.values() for name in names) == sorted(day.PARTS)
    for call, seconds in ((1, 430.0), (2, 300.0)):
        limits = [day.PARTS[name].limit for name in day.CALLS[call] if day.PARTS[name].timed]
        assert seconds <= 500 and sum(limits) <= seconds + 60, call
    assert sum(day.PARTS[name].limit for name in day.CALLS[1]) <= 430 - 150


def test_every_part_writes_its_own_section() -> None:
    """Parts of one module need names."""
    for name, turn in day.PARTS.items():
        module, *rest = turn.arguments
        given = dict(zip(rest[::2], rest[1::2], strict=False))
        assert name in (module, given.get("--name"), f"{module}_{given.get('--preset')}")


def test_the_commit_is_unknown_without_git(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert importlib.import_module("benchmarks.common").commit() == "unknown"


def part_of(tmp_path: Path, name: str):
    part = importlib.import_module("benchmarks.gpu.part")
    return part.Part(name, ["--device", "cpu", "--tiny", "--out", str(tmp_path)])


def saved(part) -> dict:
    return json.loads((part.out / f"{part.name}.json").read_text())


class Killed(BaseException):
    """The end of a part at its limit."""


def killed_after(monkeypatch: pytest.MonkeyPatch, part, calls: int) -> None:
    """Let a part end at a call of its clock."""
    left = iter(range(calls))

    def milliseconds(*_: object) -> float:
        if next(left, None) is None:
            raise Killed
        return 1.0

    monkeypatch.setattr(part, "milliseconds", milliseconds)


def test_an_export_part_that_is_killed_keeps_its_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    export, part = importlib.import_module("benchmarks.gpu.parts.export"), part_of(tmp_path, "export_small")
    assert [3 * n**3 for n in export.SIZES][:3] == [192, 5184, 1536]
    monkeypatch.setattr(export, "HOSTS", {})
    case = types.SimpleNamespace(system=types.SimpleNamespace(atoms=1, edges=1))
    cases = {name: {192: case, 5184: case} for name in ("exported float32", "exported tf32")}
    calls = {name: dict.fromkeys(sized, lambda: None) for name, sized in cases.items()}
    killed_after(monkeypatch, part, 3)
    with pytest.raises(Killed):
        export.measure(part, "small", cases, calls, {})
    times = {"exported float32": 1.0, "exported tf32": 1.0}
    assert saved(part)["ms"] == {"192": times, "5184": {"exported float32": 1.0}}


def test_a_program_that_is_late_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export, part = importlib.import_module("benchmarks.gpu.parts.export"), part_of(tmp_path, "export_small")
    monkeypatch.setattr(export, "PROGRAMS", {"exported float32": {}, "exported tf32": {"precision": "tf32"}})
    monkeypatch.setattr(export, "path_of", lambda part, preset, name: part.work / f"{name}.pt2")
    (part.work / "exported float32.pt2").write_text("")
    script, start = 'echo starts; case "$*" in *tf32*) exec sleep 60;; esac', subprocess.Popen
    monkeypatch.setattr(
        export.subprocess, "Popen", lambda command, **how: start(["sh", "-c", script, *command], **how)
    )
    part.build_until = time.monotonic() + 3.0
    assert set(export.compile_all(part, "small", [])) == {"exported float32"}
    assert set(part.section["failed"]) == {"small compile exported tf32"}
    assert part.section["failed"]["small compile exported tf32"] == "not built in time\nstarts\n"


def test_a_training_part_that_is_killed_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, part = importlib.import_module("benchmarks.gpu.parts.train"), part_of(tmp_path, "train")
    torch, seen = importlib.import_module("torch"), []
    batches = {n: {"edge_index": torch.zeros(2, n, dtype=torch.int64)} for n in (2, 3)}
    first = {precision: {"loss": 1.0} for precision in train.PRECISIONS}
    step = train.Step(lambda given: seen.append(torch.get_float32_matmul_precision()), first, 0.0)
    killed_after(monkeypatch, part, 3)
    with pytest.raises(Killed):
        train.measure(part, {("small", "full"): step}, batches)
    rows = [(row["precision"], row["frames"], row["ms"]) for row in saved(part)["rows"] if "ms" in row]
    assert rows == [("float32", 3, 1.0), ("float32", 2, 1.0), ("TF32", 3, 1.0)]
    assert torch.get_float32_matmul_precision() == "highest"


def test_a_step_runs_in_its_precision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, part = importlib.import_module("benchmarks.gpu.parts.train"), part_of(tmp_path, "train")
    torch, seen = importlib.import_module("torch"), []
    step = train.Step(
        lambda given: seen.append(torch.get_float32_matmul_precision()), {"TF32": {}, "float32": {}}, 0.0
    )
    monkeypatch.setattr(part, "milliseconds", lambda call, *rest: call())
    batches = {2: {"edge_index": torch.zeros(2, 2, dtype=torch.int64)}}
    train.measure(part, {("small", "full"): step}, batches)
    assert seen == ["high", "highest"]


def test_tuning_waits_for_its_turn_but_not_for_ever(tmp_path: Path) -> None:
    """A paused process may hold the lock."""
    alone = importlib.import_module("benchmarks.gpu.part").alone
    begin = time.monotonic()
    with alone(tmp_path / "lock") as first:
        with alone(tmp_path / "lock", 0.2) as second:
            assert first and not second and time.monotonic() - begin >= 0.2
    with alone(tmp_path / "lock", 0.2) as third:
        assert third


def test_tile_configs_are_timed_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    testing = pytest.importorskip("triton.testing")
    tuning = importlib.import_module("equitensor.backends.triton.tuning")
    module, events = importlib.import_module("benchmarks.gpu.part"), []

    def do_bench(call, warmup, rep, quantiles):
        with module.alone(tmp_path / "lock", 0.05) as held:
            events.append((quantiles, held))
        return [1.0]

    monkeypatch.setattr(tuning, "fastest", lambda *arguments, bench: bench(*arguments))
    monkeypatch.setattr(testing, "do_bench", do_bench)
    monkeypatch.setattr(module.torch.cuda, "synchronize", lambda: events.append("synchronized"))
    module.tune_alone(tmp_path / "lock")
    assert tuning.fastest(lambda: events.append("compiled"), (0.5,)) == [1.0]
    assert events == ["compiled", "synchronized", ((0.5,), False)]  # the lock is taken


def test_a_part_ends_without_the_day(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = part_of(tmp_path, "train")
    part.wait = True
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    with pytest.raises(SystemExit, match="train: the day ended"):
        part.turn()


def test_every_tile_config_is_timed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kernels = importlib.import_module("benchmarks.gpu.parts.kernels")
    part, launched = part_of(tmp_path, "kernels"), []
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
        monkeypatch.setattr("benchmarks.gpu.part.tune_alone", lambda lock: None)
        export.main()
    assert compiled == {
        "small_cuda.pt2": {"device": "cuda"},
        "small_exported_tf32.pt2": {"device": "cuda", "precision": "tf32"},
        "small_chained_float32.pt2": {"device": "cuda", "chained": "yes"},
        "small_chained_tf32.pt2": {"device": "cuda", "chained": "yes", "precision": "tf32"},
        "small_fused_tf32.pt2": {"device": "cuda", "fused": True, "precision": "tf32"},
        "small_fused_chained_tf32.pt2": {
            "device": "cuda",
            "fused": True,
            "chained": "yes",
            "precision": "tf32",
        },
    }
    assert set(export.PROGRAMS) == set(day.PROGRAMS)


def test_predictions_name_what_is_measured() -> None:
    """A name that no measurement has would say "not measured" for ever."""
    per_edge = dict.fromkeys(day.PROGRAMS, 1.0)
    sized = {**per_edge, "cuda graph float32": 1.0, "ase float32": 1.0, "bare float32": 1.0}
    export = {"ms": {"192": sized, "5184": sized}, "peak_bytes_per_edge": {"5184": per_edge}}
    kernels = [{"op": "to_atoms", "edges": 468_000, "l_max": 2, "channels": 64, "share_of_copy": 1.0}]
    parts = {f"export_{preset}": export for preset in ("small", "medium", "large")}
    parts |= {
        "kernels": {"rows": kernels},
        "train": {
            "rows": [
                {"preset": "small", "frames": 256, "step": "full", "precision": precision, "ms": 1.0}
                for precision in ("float32", "TF32")
            ]
        },
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
    predict, kernels = importlib.import_module("benchmarks.gpu.predict"), [(*k, 1) for k in cost.kernels]
    assert predict.seconds(kernels, 1e6, 1e9, 0.0) == pytest.approx(sum(sizes) / 1e6)
    assert predict.seconds(kernels, 1e12, 1e6, 0.01) == pytest.approx(product / 1e6 + 0.01 + pair / 1e6)
