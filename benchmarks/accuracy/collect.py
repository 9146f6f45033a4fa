"""One record of several runs: learning curves, final errors, time, and what was trained.

    python -m benchmarks.accuracy.collect runs/* --json accuracy.json

Every folder is the output of ``mlip-train fit``, or of ``nequip_allegro.py`` (which has curves only, and our run of
the same start in ``ours``). Folders whose names differ by an ending ``_nequip`` are compared; ``X_nequip/ours`` counts
as ``X``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import history

CURVES = {"energy": "validation/energy_per_atom_rmse", "forces": "validation/forces_rmse"}


def read(folder: Path) -> dict[str, Any]:
    """What a run left; errors in meV/atom and meV/Å."""
    rows = history(folder)
    record: dict[str, Any] = {"epochs": len(rows), "steps": int(rows[-1]["step"])}
    record["seconds"] = [round(r["seconds"], 1) for r in rows]
    for name, key in CURVES.items():
        record[name] = [round(1e3 * r[key], 4) for r in rows]
    for name in ("run.json", "errors.json", "reference.json"):
        if (folder / name).exists():
            record[name.split(".")[0]] = json.loads((folder / name).read_text())
    if "errors" in record:
        record["errors"] = {part: tables["overall"] for part, tables in record["errors"].items()}
    if "run" in record:
        run = record.pop("run")
        record["configuration"] = {
            k: run[k] for k in ("model", "batch", "optimizer", "schedule", "ema", "loss", "stop")
        }
    return record


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    records = {}
    for folder in arguments.folders:
        records[folder.name] = read(folder)
        if (folder / "ours").exists():
            records[folder.name.removesuffix("_nequip")] = read(folder / "ours")
    print("| run | epochs | s | validation meV/atom, meV/Å | test meV/atom, meV/Å |\n|---|---|---|---|---|")
    for name, r in records.items():
        errors = r.get("errors", {})
        parts = [
            f"{1e3 * e['energy_per_atom_rmse']:.2f}, {1e3 * e['forces_rmse']:.1f}" if e else ""
            for e in (errors.get("validation"), errors.get("test"))
        ]
        parts[0] = parts[0] or f"{min(r['energy']):.2f}, {min(r['forces']):.1f}"
        print(f"| {name} | {r['epochs']} | {r['seconds'][-1]:.0f} | {parts[0]} | {parts[1]} |")
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
