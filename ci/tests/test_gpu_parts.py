"""The parts of the GPU day: what they compile, time, compare and predict, as far as a CPU can tell."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
import types
from pathlib import Path

import pytest
import torch

import localgraph

day = pytest.importorskip("benchmarks.gpu.day", exc_type=ImportError)
inference = importlib.import_module("benchmarks.bench_inference")
part_module = importlib.import_module("benchmarks.gpu.part")
predict = importlib.import_module("benchmarks.gpu.predict")
kernels, neighbors, nequip, tests = (
    importlib.import_module(f"benchmarks.gpu.parts.{name}")
    for name in ("kernels", "neighbors", "nequip", "tests")
)


@pytest.fixture
def part(tmp_path):
    """A part on a CPU at the smallest sizes."""
    return part_module.Part("some", ["--device", "cpu", "--tiny", "--out", str(tmp_path)])


def test_predictions_are_those_of_the_counts() -> None:
    counted = json.loads(predict.COUNTED.read_text())
    assert list(counted) == [" ".join(case) for case in predict.CASES]
    assert predict.rounded(counted) == day.PREDICTED
    assert set(day.PREDICTED["H100"]) == set(day.PREDICTED["H200"])


def test_time_is_that_of_the_slower_limit_of_every_kernel() -> None:
    kernels = [[3000, 10, 2], [0, 4000, 1], [1, 1, 5]]
    assert predict.seconds(kernels, 1000.0, 1000.0, 0.5) == 2 * 3.0 + 4.0 + 5 * 0.5
    assert predict.seconds(kernels, 2000.0, 1000.0, 0.5) == 2 * 1.5 + 4.0 + 5 * 0.5


def test_fused_layers_add_the_operations_that_no_product_has() -> None:
    """Of 4 s of products, 3 s are inside of the fused layers, which take half as long again."""
    rate = int(predict.RATES["TF32"])

    def case(operations: int) -> dict:
        sizes = [f"{predict.SMALL} atoms", f"{predict.LARGE} atoms", f"{predict.SMALL} atoms in a CUDA graph"]
        return {"peak_bytes_per_edge": 1.0, "kernels": {size: [[0, operations, 1]] for size in sizes}}

    found = predict.predict({"inference small": case(4 * rate), "fused small": case(rate)}, 1.0)
    assert found["small, 192 atoms, TF32, fused, ms"] == pytest.approx(1e3 * (1 + 1.5 * 3))
    assert found["small, 192 atoms, TF32, ms"] == pytest.approx(4e3)


def test_a_measurement_is_compared_with_the_prediction_for_its_device() -> None:
    predicted = {"H100": {"a, ms": 2.0}, "H200": {"a, ms": 1.0}}
    for name, expected in (("NVIDIA H200", 1.0), ("NVIDIA H100 80GB HBM3", 2.0), ("NVIDIA A100", None)):
        record = {"parts": {"tests": {"device": name}}, "predicted": predicted}
        assert day.predicted(record).get("a, ms") == expected


def test_calls_are_queued_while_the_device_is_busy(part, monkeypatch: pytest.MonkeyPatch) -> None:
    """The device alone: several calls between two events, before which it is kept busy for longer than they take."""
    log: list[str] = []
    times = itertools.count(0.0, 14.0)

    class Event:
        def __init__(self, enable_timing: bool):
            self.at = 0.0

        def record(self) -> None:
            self.at = next(times)
            log.append("event")

        def synchronize(self) -> None:
            log.append("wait")

        def elapsed_time(self, end: Event) -> float:
            return end.at - self.at

    slept: list[float] = []
    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(torch.cuda, "_sleep", lambda cycles: (log.append("busy"), slept.append(cycles)))
    monkeypatch.setattr(part, "_once", lambda call: part_module.GROUP / 7)
    part.device, part.tiny = torch.device("cuda"), False
    assert part.device_milliseconds(lambda: log.append("call"), 0.0) == 14.0 / 7
    assert log == 3 * ["busy", "event", *["call"] * 7, "event", "wait"]
    assert min(slept) > part_module.CLOCK * part_module.GROUP
    log.clear()
    assert part.milliseconds(lambda: log.append("call"), 0.0) == 14.0
    assert log == 3 * ["event", "call", "event", "wait"]


def test_every_tile_config_is_compiled_before_the_turn(part, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = []
    tuning = types.SimpleNamespace(choose=lambda kernel, configs, *rest: pytest.fail("nothing is tuned here"))

    def call(*given: torch.Tensor) -> None:
        launched.append((len(given), tuning.choose("kernel", ("a", "b", "c"), 64)))

    monkeypatch.setattr(kernels, "MODULES", (tuning,))
    monkeypatch.setattr(kernels, "operators", lambda *given: {"sum": (call, (torch.zeros(1),), None)})
    kernels.compile_all(part, [(1, 4)])
    assert launched[-3:] == [(1, "a"), (1, "b"), (1, "c")] and "failed" not in part.section


def test_edges_are_equal_in_any_order_but_not_with_another_shift() -> None:
    x = torch.rand(60, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 6
    cell = 6 * torch.eye(3, dtype=torch.float64)
    cells, vesin = (localgraph.neighbors(x, 3.0, cell, True, algorithm=name) for name in ("cells", "vesin"))
    assert not torch.equal(cells.edge_index, vesin.edge_index)
    assert neighbors.equal(cells, vesin)
    shifts = vesin.shifts.clone()
    shifts[7, 1] += 1
    assert not neighbors.equal(cells, vesin._replace(shifts=shifts))


def test_both_sides_are_compiled_for_the_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By modules, which are found where a package is, and not by scripts, which ``pip --target`` puts elsewhere."""
    commands: list[list[str]] = []
    monkeypatch.setattr(inference, "_run", lambda command, **kwargs: commands.append(command))
    options = ["prepare", "--work", str(tmp_path), "--device", "cuda", "--presets", "small", "--threads", "1"]
    monkeypatch.setattr(sys, "argv", ["bench_inference", *options])
    inference.main()
    train, _, theirs, ours = commands
    assert train[:3] == [sys.executable, "-m", "nequip.scripts.train"]
    assert theirs[:3] == [sys.executable, "-m", "nequip.scripts.compile"]
    for command in (theirs, ours):
        assert command[command.index("--device") + 1] == "cuda"


def test_a_command_that_fails_says_why(part) -> None:
    script = "import sys; print('half done'); sys.exit('no such device')"
    nequip.prepare(part, {"small": [sys.executable, "-c", script], "medium": [sys.executable, "-c", ""]})
    assert list(part.section["failed"]) == ["prepare small"]
    assert "half done" in part.section["failed"]["prepare small"]
    assert "no such device" in part.section["failed"]["prepare small"]


def test_a_comparison_that_fails_ends_only_its_row(part, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> tuple[torch.Tensor, torch.Tensor]:
        raise RuntimeError("of another device")

    def works() -> tuple[torch.Tensor, torch.Tensor]:
        return torch.tensor(1.0), torch.zeros(2, 3)

    hosts = {"eager": lambda case: works, "nequip-allegro": lambda case: fails if case.first else works}
    monkeypatch.setattr(nequip, "INFERENCE", hosts)
    cases = {}
    for atoms in (24, 81):
        system = types.SimpleNamespace(edges=5)
        cases["small", atoms] = types.SimpleNamespace(first=atoms == 24, system=system)
    nequip.compare(part, cases, "eager", "nequip-allegro")
    assert [row["atoms"] for row in part.section["rows"]] == [81]
    assert set(part.section["failed"]) == {"small 24"}


OUTCOMES = """
import time
import pytest

@pytest.fixture
def exported():
    return 1

def test_first(exported):
    assert exported == 1

def test_second():
    assert "of the reason" == 1

def test_third():
    pytest.skip("none")

def test_endless():
    time.sleep(600)
"""


class Killed(BaseException):
    """The end of a part at its limit."""


def test_a_part_of_tests_that_is_killed_keeps_the_outcomes(
    part, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, save = tmp_path / "test_some.py", part.save
    path.write_text(OUTCOMES)

    def saves() -> None:
        save()
        if part.section["passed"] and "failed" in part.section and part.section["skipped_tests"]:
            raise Killed

    monkeypatch.setattr(part, "save", saves)
    with pytest.raises(Killed):
        tests.run(part, [str(path), "-p", "no:cacheprovider", "-n", "0"], 2, every=0.2)
    section = json.loads((tmp_path / "some.json").read_text())
    assert section["passed"] == 1
    ((name, why),) = section["failed"].items()
    assert name.endswith("::test_second") and "of the reason" in why
    assert section["skipped_tests"][0].endswith("::test_third")


def test_tests_of_one_export_are_in_one_share_and_every_test_is_in_one() -> None:
    plugin = importlib.import_module("benchmarks.gpu.testing")
    names = [["exported", "models"], *([["tmp_path"]] * 5), ["replayed", "exported"]]
    items = [types.SimpleNamespace(number=k, fixturenames=given) for k, given in enumerate(names)]
    shares = [[item.number for item in plugin.share_of(items, k, 4)] for k in range(4)]
    assert shares == [[0, 6], [1, 4], [2, 5], [3]]
    assert plugin.share_of(items, 0, 1) == items


def test_nothing_is_tuned_for_tests(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = importlib.import_module("benchmarks.gpu.testing")
    tuning = importlib.import_module("equitensor.backends.triton.tuning")
    monkeypatch.setattr(tuning, "fastest", lambda *given: pytest.fail("a kernel was timed"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)
    plugin.leave_out_tuning()
    assert tuning.choose("kernel", ("a", "b"), 64, torch.device("cuda"), "sample") == "a"
