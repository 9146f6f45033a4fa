"""A plugin of pytest for the GPU day: outcomes are written as they come, and tests do not wait for tuning.

    python -m pytest -p benchmarks.gpu.testing --outcomes FILE --share 0 8 ...

Tuning compiles and times every tile config of every kernel; here the first is taken, which is as right as any other.
Of ``--share NUMBER COUNT``, the first share has the tests of an exported model, which is then compiled once; the others
take turns.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

SHARED = "exported"
"""The fixture that takes long to make and is made once per process."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the file of outcomes and the share."""
    parser.addoption("--outcomes", type=Path, help="append the outcome of every test to this file, as JSON")
    parser.addoption(
        "--share", type=int, nargs=2, default=(0, 1), help="which share of the tests, of how many"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Write outcomes, and leave out tuning."""
    if path := config.getoption("--outcomes"):
        config.pluginmanager.register(Outcomes(path))
    leave_out_tuning()


def leave_out_tuning() -> None:
    """Let every kernel take its first tile config in this process."""
    from equitensor.backends.triton import tuning

    tuning.fastest = lambda kernel, configs, *rest: configs[0]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep the tests of a share."""
    number, count = config.getoption("--share")
    kept = share_of(items, number, count)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = kept


def share_of(items: list[pytest.Item], number: int, count: int) -> list[pytest.Item]:
    """Return the tests of a share: of the shared fixture in the first, all others in turn in the rest."""
    if count == 1:
        return list(items)
    shared = [item for item in items if SHARED in getattr(item, "fixturenames", ())]
    others = [item for item in items if item not in shared]
    return others[number - 1 :: count - 1] if number else shared


class Outcomes:
    """Appends a line per test that is over: its name, outcome, seconds, and why it failed."""

    def __init__(self, path: Path):
        self.path = path

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Write an outcome."""
        if report.when == "call" or report.outcome != "passed":
            found = {"test": report.nodeid, "outcome": report.outcome}
            found |= {"seconds": round(report.duration, 2), "why": report.longreprtext[-1500:]}
            with self.path.open("a") as file:
                file.write(json.dumps(found) + "\n")
