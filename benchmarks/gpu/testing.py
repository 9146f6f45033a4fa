"""A plugin of pytest for the GPU day: outcomes are written as they come, and tests do not wait for tuning.

    python -m pytest -p benchmarks.gpu.testing --outcomes FILE ...

Tuning compiles and times every tile config of every kernel; here the first is taken, which is as right as any other.
With ``--dist loadgroup``, tests that share an exported model run in one process, all others anywhere.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = "exported"
"""The fixture that takes long to make and is made once per process."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file of outcomes."""
    parser.addoption("--outcomes", type=Path, help="append the outcome of every test to this file, as JSON")


def pytest_configure(config: pytest.Config) -> None:
    """Write outcomes where tests are distributed from, and leave out tuning where they run."""
    path = config.getoption("--outcomes")
    if path and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Outcomes(path))
    leave_out_tuning()


def leave_out_tuning() -> None:
    """Let every kernel take its first tile config in this process."""
    from equitensor.backends.triton import tuning

    tuning.fastest = lambda kernel, configs, *rest: configs[0]


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep tests of a shared fixture together."""
    for item in items:
        if SHARED in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.xdist_group(SHARED))


class Outcomes:
    """Appends a line per test that is over: its name, outcome, seconds, and why it failed."""

    def __init__(self, path: Path):
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write an outcome."""
        if report.when == "call" or report.outcome != "passed":
            found = {"test": report.nodeid.removesuffix(f"@{SHARED}"), "outcome": report.outcome}
            found |= {"seconds": round(report.duration, 2), "why": report.longreprtext[-1500:]}
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")
