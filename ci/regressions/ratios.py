"""Same-run ratios: the least time of ours over the least time of a provider that does not change, against the record.

A benchmark names its reference in ``extra_info["reference"]``; both are of one pytest-benchmark JSON. Absolute times
never decide. A ratio that grew by ``WARN`` over the record is a warning, by ``FAIL`` a failure, once a second
run agreed: of two runs the better ratio counts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ci.regressions.counters import ROOT, write_json

RECORD = ROOT / "benchmarks" / "ratios.json"
UPDATE = "nox -f nox.py -s benchmarks -- --update-ratios"
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


def ratios(run: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of a pytest-benchmark run: each benchmark that names a reference over that reference.

    Raises
    ------
    ValueError
        If a named reference is not in the run.
    """
    least = {(question(b), b["params"]["provider"]): b["stats"]["min"] for b in run["benchmarks"]}
    found = {}
    for benchmark in run["benchmarks"]:
        reference = benchmark["extra_info"].get("reference")
        if reference is None:
            continue
        other = (question(benchmark), reference)
        if other not in least:
            raise ValueError(
                f"{benchmark['fullname']}: required its reference {reference!r} in the same run, got "
                f"{[provider for q, provider in least if q == other[0]]}"
            )
        found[benchmark["fullname"]] = benchmark["stats"]["min"] / least[other]
    return found


def check(recorded: Mapping[str, float], runs: Sequence[Mapping[str, float]]) -> list[Verdict]:
    """Compare the best ratios of one or two runs with the recorded ones."""
    found: dict[str, float] = {}
    for run in runs:
        for name, ratio in run.items():
            found[name] = min(ratio, found.get(name, ratio))
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
    return check(recorded.get(machine_of(runs[0]), {}), [ratios(run) for run in runs])


def update(paths: Sequence[Path], record: Path = RECORD) -> None:
    """Record the best ratios of the runs for their processor; other processors' stay."""
    runs = load(paths)
    recorded = json.loads(record.read_text()) if record.exists() else {}
    best = check({}, [ratios(run) for run in runs])
    recorded[machine_of(runs[0])] = {v.name: round(v.found, 4) for v in best if v.found is not None}
    write_json(record, recorded)
