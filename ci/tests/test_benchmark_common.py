"""Clocks, worker processes and records of the benchmarks."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from benchmarks import common

WORKER = """
import sys
from benchmarks.common import answer

def handle(number, **rest):
    if number < 0:
        sys.exit(3)
    print("noise on standard output")
    return {"double": 2 * number, "threads": __import__("os").environ["OMP_NUM_THREADS"]}

answer(handle)
"""


def test_least_times_run_calls_in_turn_and_drop_slow_ones() -> None:
    order: list[str] = []

    def call(name: str, seconds: float) -> None:
        order.append(name)
        time.sleep(seconds)

    calls = {"fast": lambda: call("fast", 0.001), "slow": lambda: call("slow", 0.3)}
    best = common.least_times(calls, 10.0, rounds=5, slowest=5.0)
    assert order == ["fast", "slow"] * 3 + ["fast"] * 2
    assert 0.001 <= best["fast"].wall < 0.3 <= best["slow"].wall and best["slow"].cpu < 0.3
    order.clear()
    common.least_times(calls, 0.0, rounds=5)
    assert order == ["fast", "slow"] * 3


def test_a_worker_answers_and_its_end_is_seen(tmp_path: Path) -> None:
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    worker = common.Worker(str(script), [], threads=3)
    assert worker.ask(number=4) == {"double": 8, "threads": "3"}
    assert worker.ask(number=-1) is None
    assert worker.close() == 3


def test_a_record_holds_its_command_and_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = str(common.ROOT / "benchmarks" / "accuracy" / "collect.py")
    monkeypatch.setattr(sys, "argv", [script, "a b", "--json", "x"])
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    common.write_record(tmp_path / "new" / "record.json", rows=[1])
    found = json.loads((tmp_path / "new" / "record.json").read_text())
    assert found["command"] == "python -m benchmarks.accuracy.collect 'a b' --json x"
    assert found["environment"]["OMP_NUM_THREADS"] == "7" and found["rows"] == [1]
    assert found["versions"]["torch"] and found["machine"]["cores"] >= 1
    assert found["commit"] == common.commit() and len(found["date"]) == len("2026-01-01")
    common.write_record(None, rows=[2])
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["record.json"]


def test_threads_are_set_whatever_the_caller_has(monkeypatch):
    """MKL's variable alone keeps torch at one thread, and programs are generated for as many as torch has."""
    monkeypatch.setenv("MKL_NUM_THREADS", "1")
    command = [sys.executable, "-c", "import torch; print(torch.get_num_threads())"]
    done = subprocess.run(
        command, env=os.environ | common.bounded(2), capture_output=True, text=True, check=True
    )
    assert int(done.stdout) == 2
