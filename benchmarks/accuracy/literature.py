"""Errors of runs beside published ones, from the folders that ``mlip-train fit`` leaves or is still filling.

    python -m benchmarks.accuracy.literature runs/acac runs/3bpa --json benchmarks/results/literature.json

A folder's name is that of its configuration here. Every row names the frames on which our model was scored, how many of
the planned steps were done, and the seconds of training. Energies are of the whole molecule, as published,
and of silicon per atom.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.common import history, write_record

MACE = "Batatia et al., arXiv 2206.07697"
ALLEGRO = "Musaelian et al., Nat. Commun. 14, 579 (2023)"
PYXTAL = "PyXtal_FF, examples/UCSD-Si-214-25, 4,000 epochs"
PUBLISHED: dict[str, tuple[str, int, str, dict[str, tuple[float, float, str]]]] = {
    "acac": (
        "rmse",
        15,
        "published test set at 300 K",
        {"NequIP": (0.81, 5.90, MACE), "MACE": (0.9, 5.1, MACE)},
    ),
    "3bpa": (
        "rmse",
        27,
        "published test set at 300 K",
        {"Allegro": (3.84, 12.98, ALLEGRO), "NequIP": (3.3, 10.8, MACE), "MACE": (3.0, 8.8, MACE)},
    ),
    "aspirin": ("mae", 21, "test frames of split 01", {"Allegro": (2.3, 7.3, ALLEGRO)}),
    "silicon": ("mae", 1, "published test frames", {"SO(3) network": (3.95, 82.6, PYXTAL)}),
}
"""Per configuration: error, atoms of the molecule (1: energies are per atom), frames of the publications, and
meV, meV/Å and source by model."""


def read(folder: Path) -> dict[str, Any]:
    """Return what a run has reached: errors on its validation and test frames, steps, seconds, configuration."""
    kind, atoms, _, _ = PUBLISHED[folder.name]
    rows = history(folder)
    run, last = json.loads((folder / "run.json").read_text()), rows[-1]
    record: dict[str, Any] = {
        "steps": int(last["step"]),
        "planned": run["stop"]["steps"],
        "seconds": round(last["seconds"]),
        "parts": {},
        "configuration": {
            k: run[k] for k in ("model", "data", "batch", "optimizer", "schedule", "ema", "loss")
        },
        "curve": [
            [
                int(r["step"]),
                round(r["seconds"], 1),
                *(round(1e3 * r[f"validation/{q}_{kind}"], 4) for q in ("energy_per_atom", "forces")),
            ]
            for r in rows[:: max(1, len(rows) // 200)]
        ],
    }
    errors = folder / "errors.json"
    found = (
        {part: e["overall"] for part, e in json.loads(errors.read_text()).items()} if errors.exists() else {}
    )
    found = found or {"validation": {k.removeprefix("validation/"): v for k, v in last.items()}}
    for part, e in found.items():
        record["parts"][part] = {
            "energy, meV": round(1e3 * atoms * e[f"energy_per_atom_{kind}"], 3),
            "forces, meV/Å": round(1e3 * e[f"forces_{kind}"], 2),
        }
    return record


def rows_of(records: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table: ours, then the published ones."""
    rows = []
    for name, record in records.items():
        kind, _, frames, published = PUBLISHED[name]
        progress = f"{record['steps']:,} of {record['planned']:,} steps, {record['seconds']:,} s"
        for part, e in record["parts"].items():
            cells = [f"{e['energy, meV']:.2f}", f"{e['forces, meV/Å']:.2f}"]
            rows.append([name, "allegro-model", f"{part} frames", kind.upper(), *cells, progress])
        for model, (energy, forces, source) in published.items():
            rows.append([name, model, frames, kind.upper(), f"{energy:g}", f"{forces:g}", source])
    return rows


HEADER = "data | model | frames | error | energy, meV | forces, meV/Å | training, or source"


def main() -> None:
    """Read, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", type=Path, nargs="+", help=f"named as one of {', '.join(PUBLISHED)}")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    if unknown := [f.name for f in arguments.folders if f.name not in PUBLISHED]:
        parser.error(f"folders must be named as one of {list(PUBLISHED)}, got {unknown}")
    records = {folder.name: read(folder) for folder in arguments.folders}
    print(f"| {HEADER} |\n" + "|---" * HEADER.count("|") + "|---|")
    for row in rows_of(records):
        print("| " + " | ".join(row) + " |")
    write_record(arguments.json, runs=records)


if __name__ == "__main__":
    main()
