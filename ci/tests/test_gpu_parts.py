"""The parts of the GPU day: what they compile, time, compare and predict, as far as a CPU can tell."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
predict = pytest.importorskip("benchmarks.gpu.predict", exc_type=ImportError)
day = importlib.import_module("benchmarks.gpu.day")


def test_a_measurement_is_compared_with_the_prediction_for_its_device() -> None:
    predicted = {"H100": {"a, ms": 2.0}, "H200": {"a, ms": 1.0}}
    for name, expected in (("NVIDIA H200", 1.0), ("NVIDIA H100 80GB HBM3", 2.0), ("NVIDIA A100", None)):
        record = {"parts": {"tests": {"device": name}}, "predicted": predicted}
        assert day.predicted(record).get("a, ms") == expected
