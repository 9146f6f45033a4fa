"""Same-run ratios: the least time of ours over the least time of a provider that does not change, against the record.

A benchmark names its reference in ``extra_info["reference"]``; both are of one pytest-benchmark JSON. Absolute times
never decide. A ratio that grew by ``WARN`` over the record is a warning, by ``FAIL`` a failure, once a second
run agreed: of two runs the least time of each benchmark counts, so a bad stretch of either, under ours or under
the reference, is forgiven by the other, when checking and when recording.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT, write_json

RECORD = ROOT / "benchmarks" / "ratios.json"
WARN, FAIL = 1.10, 1.25


class Verdict(NamedTuple):
    """What became of one ratio.

    Attributes
    ----------
    name : str
        The benchmark of ours.
    recorded, found : float or None
        Ratios of least times; None where there is none.
    level : str
        ``"ok"``, ``"warn"``, ``"fail"``, ``"new"`` (not in the record) or ``"gone"`` (recorded, not run).
    """

    name: str
    recorded: float | None
    found: float | None
    level: str

    def __str__(self) -> str:
        if self.recorded is None or self.found is None:
            return f"{self.level}: {self.name}"
        growth = self.found / self.recorded
        return f"{self.level}: {self.name}: {self.recorded:.3f} → {self.found:.3f} (× {growth:.2f})"


def machine_of(run: Mapping[str, Any]) -> str:
    """The processor a run was made on, which the record is kept by: ratios of two processors differ."""
    cpu = run["machine_info"].get("cpu", {})
    return str(cpu.get("brand_raw") or run["machine_info"]["processor"] or run["machine_info"]["machine"])


def question(benchmark: Mapping[str, Any]) -> tuple[Any, ...]:
    """What providers of one question share: the test, and its parameters but the provider."""
    others = {key: value for key, value in benchmark["params"].items() if key != "provider"}
    return benchmark["fullname"].split("[")[0], *sorted(others.items())


def ratios(*runs: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of pytest-benchmark runs: each benchmark that names a reference over that reference, least times of all.

    Raises
    ------
    ValueError
        If a named reference is in none of the runs.
    """
    least: dict[tuple[Any, str], float] = {}
    asking: dict[str, tuple[tuple[Any, str], tuple[Any, str]]] = {}
    for benchmark in (b for run in runs for b in run["benchmarks"]):
        asked = question(benchmark)
        own, time = (asked, benchmark["params"]["provider"]), benchmark["stats"]["min"]
        least[own] = min(time, least.get(own, time))
        if (reference := benchmark["extra_info"].get("reference")) is not None:
            asking[benchmark["fullname"]] = own, (asked, reference)
    for name, (_, other) in asking.items():
        if other not in least:
            raise ValueError(
                f"{name}: required its reference {other[1]!r} in the same run, got "
                f"{[provider for asked, provider in least if asked == other[0]]}"
            )
    return {name: least[own] / least[other] for name, (own, other) in asking.items()}


def check(recorded: Mapping[str, float], found: Mapping[str, float]) -> list[Verdict]:
    """Compare ratios with the recorded ones."""
    verdicts = []
    for name in sorted(recorded.keys() | found.keys()):
        old, new = recorded.get(name), found.get(name)
        if old is None or new is None:
            level = "new" if old is None else "gone"
        else:
            level = "fail" if new >= FAIL * old else "warn" if new >= WARN * old else "ok"
        verdicts.append(Verdict(name, old, new, level))
    return verdicts


def load(paths: Sequence[Path]) -> list[dict[str, Any]]:
    """Runs of pytest-benchmark."""
    return [json.loads(path.read_text()) for path in paths]


def compare(paths: Sequence[Path], record: Path = RECORD) -> list[Verdict]:
    """Verdicts of one or two runs against what is recorded for their processor (all are new where nothing is)."""
    runs = load(paths)
    recorded = json.loads(record.read_text()) if record.exists() else {}
    return check(recorded.get(machine_of(runs[0]), {}), ratios(*runs))


def update(paths: Sequence[Path], record: Path = RECORD) -> None:
    """Record the ratios of the runs for their processor; other processors' stay."""
    runs = load(paths)
    recorded = json.loads(record.read_text()) if record.exists() else {}
    found = sorted(ratios(*runs).items())
    recorded[machine_of(runs[0])] = {name: round(ratio, 4) for name, ratio in found}
    write_json(record, recorded)
