"""Wall-clock records: what is kept of a pytest-benchmark run, to be plotted and never to decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_json

from ci.regressions.ratios import machine_of, ratios

FOLDER = ROOT / "benchmarks" / "results" / "runs"


def summary(run: dict[str, Any], command: str) -> dict[str, Any]:
    """Date, commit, command, machine and the least time of every benchmark with its extra_info; samples are dropped."""
    return {
        "date": run["datetime"][:19],
        "commit": (run["commit_info"].get("id") or "unknown")[:12]
        + "+" * bool(run["commit_info"].get("dirty")),
        "machine": f"{machine_of(run)}, {run['machine_info']['cpu'].get('count', '?')} cores",
        "command": command,
        "figures": {
            b["fullname"]: {
                "milliseconds": round(1e3 * b["stats"]["min"], 5),
                "rounds": b["stats"]["rounds"],
                **b["extra_info"],
            }
            for b in run["benchmarks"]
        },
        "ratios": {name: round(ratio, 4) for name, ratio in ratios(run).items()},
    }


def keep(path: Path, command: str, folder: Path = FOLDER) -> Path:
    """Write the summary of a run, which ``command`` made, into ``folder`` under its date, and return the file."""
    kept = summary(json.loads(path.read_text()), command)
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"{kept['date'].replace(':', '').replace('-', '')}.json"
    write_json(target, kept)
    return target
