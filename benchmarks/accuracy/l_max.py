"""Errors and time by l_max: acac.yaml with every l_max in turn, for the same number of steps, from the same seeds.

    taskset -c 1 python -m benchmarks.accuracy.l_max --output runs/l_max --json benchmarks/results/accuracy_lmax.json
        --figure benchmarks/results/accuracy_lmax.png

Runs that were interrupted continue with the same command; errors are those on the validation frames after the last
step. The time of a step is that of the fastest epoch of short runs, one after another at the end: only they need
a quiet machine.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from benchmarks.accuracy.literature import PUBLISHED
from benchmarks.common import fit, history, write_record

CONFIGURATION = Path(__file__).with_name("acac.yaml")
ATOMS = PUBLISHED[CONFIGURATION.stem][1]


def trained(folder: Path, l_max: int, seed: int, steps: int) -> list[dict[str, float]]:
    """Train if need be; return the history."""
    if not (folder / "metrics.csv").exists() or history(folder)[-1]["step"] < steps:
        fit(
            CONFIGURATION,
            f"output={folder}",
            f"seed={seed}",
            f"model.config.l_max={l_max}",
            f"stop.steps={steps}",
            f"stop.epochs={steps}",  # no epoch has less than a step
        )
    rows = history(folder)
    if rows[-1]["step"] < steps:
        raise RuntimeError(f"{folder} must have {steps} steps, got {rows[-1]['step']:.0f}")
    return rows


def run(folder: Path, l_max: int, seed: int, steps: int) -> dict[str, Any]:
    """Train if need be; return errors and learning curve."""
    rows = trained(folder, l_max, seed, steps)
    return {
        "l_max": l_max,
        "seed": seed,
        "steps": steps,
        "energy, meV": round(1e3 * ATOMS * rows[-1]["validation/energy_per_atom_rmse"], 3),
        "forces, meV/Å": round(1e3 * rows[-1]["validation/forces_rmse"], 3),
        "training forces, meV/Å": round(1e3 * rows[-1]["train/forces_rmse"], 3),
        "curve": [[int(r["step"]), round(1e3 * r["validation/forces_rmse"], 2)] for r in rows],
    }


def per_step(folder: Path, l_max: int, steps: int) -> float:
    """Return the milliseconds of a step in the fastest epoch of a short run."""
    rows = trained(folder, l_max, 0, steps)
    return round(
        1e3 * min((b["seconds"] - a["seconds"]) / (b["step"] - a["step"]) for a, b in pairwise(rows)), 2
    )


def draw(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw errors over training time, at the step time of the fastest epoch."""
    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    values = sorted({r["l_max"] for r in rows})
    for row in rows:
        color = plt.get_cmap("viridis")(values.index(row["l_max"]) / max(1, len(values) - 1))
        steps, errors = zip(*row["curve"], strict=True)
        label = f"l_max {row['l_max']}" if row["seed"] == rows[0]["seed"] else None
        axes.loglog([s * row["ms per step"] / 1e3 for s in steps], errors, color=color, label=label)
    axes.set(xlabel="seconds of training", ylabel="forces of held-out frames, meV/Å (RMSE)")
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def main() -> None:
    """Train, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--l-max", type=int, nargs="+", default=[1, 2, 3, 4, 5])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--steps", type=int, default=7000)
    parser.add_argument("--timed-steps", type=int, default=450, help="of the short runs; at least two epochs")
    parser.add_argument("--output", type=Path, default=Path("runs/l_max"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--figure", type=Path)
    arguments = parser.parse_args()
    rows = []
    for seed in arguments.seeds:
        for l_max in arguments.l_max:
            folder = arguments.output / f"{l_max}-{seed}-{arguments.steps}"
            rows.append(run(folder, l_max, seed, arguments.steps))
            print({k: v for k, v in rows[-1].items() if k != "curve"}, flush=True)
    times = {}
    for l_max in arguments.l_max:
        times[l_max] = per_step(arguments.output / f"time-{l_max}", l_max, arguments.timed_steps)
        print(f"l_max {l_max}: {times[l_max]} ms per step", flush=True)
    rows = [row | {"ms per step": times[row["l_max"]]} for row in rows]
    if arguments.figure:
        draw(rows, arguments.figure)
    write_record(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
