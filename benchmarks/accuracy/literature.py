"""Errors of runs beside published ones, from the folders that ``mlip-train fit`` leaves or is still filling.

    python -m benchmarks.accuracy.literature runs/acac runs/3bpa --json benchmarks/results/literature.json
    python -m benchmarks.accuracy.literature benchmarks/results/literature*.json \\
        --figure benchmarks/results/literature.png

A folder's name is that of its configuration here; where the run started from a model trained on other labels, it ends
in ``_pretrained``. Every row names the frames on which our model was scored, how many of the planned steps were done,
and the seconds of training. Energies are of the whole molecule, as published, and of silicon per atom. The figure has
the learning curves of folders or of records, which hold them too: errors of forces on validation frames, with the
published errors as horizontal lines.
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


BEFORE = "_pretrained"
"""End of the name of a run that started from the model of another run."""


def data_of(name: str) -> str:
    """Return the data set of a run's name."""
    return name.removesuffix(BEFORE)


def read(folder: Path) -> dict[str, Any]:
    """Return what a run has reached: errors on its validation and test frames, steps, seconds, configuration."""
    kind, atoms, _, _ = PUBLISHED[data_of(folder.name)]
    rows = history(folder)
    run, last = json.loads((folder / "run.json").read_text()), rows[-1]
    record: dict[str, Any] = {
        **_progress(run, rows),
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
    if folder.name.endswith(BEFORE):
        before = Path(run["model"]["start_from"])
        record["pretraining"] = _progress(json.loads((before / "run.json").read_text()), history(before))
    errors = folder / "errors.json"
    tables = json.loads(errors.read_text()) if errors.exists() else {}
    found = {part: each["overall"] for part, each in tables.items()}
    if len(tested := tables.get("test", {}).get("subsets", {})) > 1:
        found.pop("test")
        found |= {f"{subset} test": each for subset, each in tested.items()}
    found = found or {"validation": {k.removeprefix("validation/"): v for k, v in last.items()}}
    for part, e in found.items():
        record["parts"][part] = {
            "energy, meV": round(1e3 * atoms * e[f"energy_per_atom_{kind}"], 3),
            "forces, meV/Å": round(1e3 * e[f"forces_{kind}"], 2),
        }
    return record


def _progress(run: dict[str, Any], rows: list[dict[str, float]]) -> dict[str, Any]:
    last = rows[-1]
    return {"steps": int(last["step"]), "planned": run["stop"]["steps"], "seconds": round(last["seconds"])}


def apart(values: list[float], ratio: float) -> list[float]:
    """Return values moved up until each, in ascending order, is ``ratio`` times the one below it."""
    moved = dict.fromkeys(values, 0.0)
    below = 0.0
    for value in sorted(moved):
        below = moved[value] = max(value, ratio * below)
    return [moved[value] for value in values]


def draw(records: dict[str, Any], path: Path) -> None:
    """Draw force errors of held-out frames over seconds of training, and mark the published ones."""
    import matplotlib  # the tables are made without it

    matplotlib.use("agg")
    import matplotlib.pyplot as plt
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    marks: list[tuple[str, float, str]] = []
    figure, axis = plt.subplots(figsize=(6.4, 4.2), layout="constrained")
    colors = {data: f"C{number}" for number, data in enumerate(dict.fromkeys(map(data_of, records)))}
    for name, record in records.items():
        data = data_of(name)
        label, line, start = f"{data} ({PUBLISHED[data][0].upper()})", "-", 0.0
        if before := record.get("pretraining"):
            label, line, start = f"{label}, pretrained", ":", before["seconds"]
        points = [(start + seconds, forces) for _, seconds, _, forces in record["curve"]]
        axis.loglog(*zip(*points, strict=True), color=colors[data], linestyle=line, label=label)
    for data, color in colors.items():
        marks += [
            (f"{data}: {model}, {forces:g}", forces, color)
            for model, (_, forces, _) in PUBLISHED[data][3].items()
        ]
    for (text, forces, color), y in zip(marks, apart([m[1] for m in marks], 1.24), strict=True):
        axis.axhline(forces, color=color, linewidth=0.9, linestyle="--")
        axis.annotate(
            text, (1.01, y), xycoords=("axes fraction", "data"), color=color, fontsize=8, va="center"
        )
    axis.set(xlabel="seconds of training", ylabel="forces of held-out frames, meV/Å")
    axis.set_ylim(bottom=0.8 * min(axis.dataLim.y0, *(forces for _, forces, _ in marks)))
    axis.set_title("Learning curves; dashed: published errors", fontsize=10)
    for side in (axis.xaxis, axis.yaxis):
        side.set_major_formatter(ScalarFormatter())
        side.set_minor_formatter(NullFormatter())
    axis.spines[["top", "right"]].set_visible(False)
    axis.legend(frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def rows_of(records: dict[str, Any]) -> list[list[str]]:
    """Return the rows of the table: ours by data set, then the published ones."""
    rows = []
    for data in dict.fromkeys(map(data_of, records)):
        kind, _, frames, published = PUBLISHED[data]
        for name in (data, data + BEFORE):
            rows += [[data, *row] for row in _ours(records[name], kind)] if name in records else []
        for model, (energy, forces, source) in published.items():
            rows.append([data, model, frames, kind.upper(), f"{energy:g}", f"{forces:g}", source])
    return rows


def _ours(record: dict[str, Any], kind: str) -> list[list[str]]:
    model, training = "allegro-model", _training(record)
    if before := record.get("pretraining"):
        model, training = f"{model}, pretrained", f"{training}, after {_training(before)}"
    rows = []
    for part, e in record["parts"].items():
        cells = [f"{e['energy, meV']:.2f}", f"{e['forces, meV/Å']:.2f}"]
        rows.append([model, f"{part} frames", kind.upper(), *cells, training])
    return rows


def _training(run: dict[str, Any]) -> str:
    return f"{run['steps']:,} of {run['planned']:,} steps, {run['seconds']:,} s"


HEADER = "data | model | frames | error | energy, meV | forces, meV/Å | training, or source"


def main() -> None:
    """Read, print, write, draw."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "sources",
        type=Path,
        nargs="+",
        help=f"folders named as one of {', '.join(PUBLISHED)}, or so with {BEFORE}; or records",
    )
    parser.add_argument("--json", type=Path, help="write the record of folders here")
    parser.add_argument("--figure", type=Path, help="draw the learning curves here")
    arguments = parser.parse_args()
    made = [path for path in arguments.sources if path.suffix == ".json"]
    folders = [path for path in arguments.sources if path not in made]
    if unknown := [f.name for f in folders if data_of(f.name) not in PUBLISHED]:
        parser.error(f"folders must be named as one of {list(PUBLISHED)}, or so with {BEFORE}, got {unknown}")
    if made and arguments.json:
        parser.error(f"--json must be given folders alone, got {list(map(str, made))}")
    records = {folder.name: read(folder) for folder in folders}
    for path in made:
        records |= json.loads(path.read_text())["runs"]
    print(f"| {HEADER} |\n" + "|---" * HEADER.count("|") + "|---|")
    for row in rows_of(records):
        print("| " + " | ".join(row) + " |")
    if arguments.figure:
        draw(records, arguments.figure)
    write_record(arguments.json, runs=records)


if __name__ == "__main__":
    main()
