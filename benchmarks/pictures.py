"""The pictures of READMEs and docs, drawn from records by matplotlib.

python -m benchmarks.pictures                 # results/speed.svg, results/accuracy.png and atoms_not_edges.svg
python -m benchmarks.pictures demo FOLDER     # FOLDER/demo.png from what the demo left in FOLDER
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
import numpy as np
from benchmarks.common import RESULTS, history
from matplotlib.patches import FancyArrowPatch
from matplotlib.ticker import MaxNLocator, NullFormatter, NullLocator

OURS, THEIRS, TENSOR, SCALAR, GRAY = "#1668b4", "#b8b8b8", "#c8553d", "#4c956c", "0.45"
PLAIN = {"svg.fonttype": "none", "svg.hashsalt": "mlip", "font.size": 10, "axes.spines.top": False}
PLAIN |= {"axes.spines.right": False, "font.family": "DejaVu Sans"}
PRESETS = ("small", "medium", "large")


def speeds(results: Path = RESULTS) -> dict[str, list[tuple[float, float | None]]]:
    """Return (ours, theirs) per preset: atom-steps per second in ASE at 192 atoms, and training steps per second.

    Theirs is None where nequip-allegro did not finish.
    """
    rows = json.loads((results / "inference.json").read_text())["rows"]
    steps = {r["preset"]: r for r in rows if r["kind"] == "ase" and r["system"] == "water_192"}
    inference: list[tuple[float, float | None]] = []
    training: list[tuple[float, float | None]] = []
    for preset in PRESETS:
        sides = [1e6 / steps[preset][side]["us_per_atom"] for side in ("mlip-export", "nequip-compile")]
        inference.append((sides[0], sides[1]))
        rates = json.loads((results / f"train_{preset}.json").read_text())["results"][0]["steps_per_s"]
        training.append((rates.get("full", rates.get("whole")), rates.get("nequip-allegro compiled")))
    return {"inference": inference, "training": training}


def _plain(value: float) -> str:
    """Return a number of three digits or more, without an exponent."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def speed(path: Path, results: Path = RESULTS) -> None:
    """Draw how many times as fast as nequip-allegro inference and training are."""
    titles = {
        "inference": "MD step in ASE, 192 atoms of water\n(compared with nequip-compile)",
        "training": "training step on SPICE frames\n(compared with train-time compile)",
    }
    units = {"inference": "atom steps/s", "training": "steps/s"}
    with plt.rc_context(PLAIN):
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 2.5), layout="constrained")
        for axis, (kind, sides) in zip(axes, speeds(results).items(), strict=True):
            for y, (ours, theirs) in enumerate(sides):
                ratio = ours / theirs if theirs else 0.0
                axis.barh(y - 0.2, ratio, 0.36, color=OURS)
                axis.barh(y + 0.2, 1.0 if theirs else 0.0, 0.36, color=THEIRS)
                if theirs:
                    note = f"{ratio:.1f}×  ({_plain(ours)} : {_plain(theirs)} {units[kind]})"
                else:
                    note = f"({_plain(ours)} {units[kind]}; nequip-allegro ran out of memory)"
                at = (ratio, y - 0.2 if theirs else y)
                axis.annotate(note, at, (4, 0), textcoords="offset points", va="center", fontsize=8)
            widest = max(ours / theirs for ours, theirs in sides if theirs)
            axis.set(xlim=(0, 2.3 * widest), ylim=(2.6, -0.6), xlabel="speed, nequip-allegro = 1")
            axis.set_yticks(range(len(PRESETS)), PRESETS)
            axis.tick_params("y", length=0)
            axis.set_title(titles[kind], fontsize=10)
        figure.legend(
            handles=[plt.Rectangle((0, 0), 1, 1, color=c) for c in (OURS, THEIRS)],
            labels=["this repository", "nequip-allegro"],
            loc="outside lower center",
            ncols=2,
            frameon=False,
        )
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def atoms_not_edges(path: Path) -> None:
    """Draw where the published form and the reassociated one hold tensor features."""
    angles = np.radians([15, 80, 150, 215, 290])
    rim = np.stack([np.cos(angles), np.sin(angles)], 1) * 1.25
    with plt.rc_context(PLAIN):
        figure, axes = plt.subplots(1, 2, figsize=(7.6, 3.3), layout="constrained")
        for axis, on_atoms in zip(axes, (False, True), strict=True):
            for x, y in rim:
                color = SCALAR if on_atoms else TENSOR
                axis.add_patch(
                    FancyArrowPatch(
                        (0, 0), (x, y), arrowstyle="-", lw=1.5 if on_atoms else 6, color=color, alpha=0.9
                    )
                )
                axis.plot(x, y, "o", ms=13, color="white", mec=GRAY, zorder=3)
            axis.plot(
                0,
                0,
                "o",
                ms=34 if on_atoms else 20,
                color=TENSOR if on_atoms else "white",
                mec=GRAY,
                zorder=3,
            )
            axis.text(0, 0, "i", ha="center", va="center", zorder=4, color="white" if on_atoms else "black")
            axis.set(xlim=(-1.6, 1.6), ylim=(-1.5, 1.5), aspect="equal")
            axis.axis("off")
        left, right = axes
        left.set_title("published: tensors on edges", fontsize=10)
        right.set_title("here: tensors on atoms", fontsize=10)
        notes = (
            "each edge holds a tensor $V_{ij}$, (l_max + 1)² × C;\ntensor products run per edge and layer",
            "each atom holds a density $Γ_i$ and a covector $U_i$;\ntensor products run per atom and layer,\n"
            "an edge reads scalars: $s_{ij}$ = Σ $w_{ij}$ $Y_{ij}$ $U_i$",
        )
        for axis, note in zip(axes, notes, strict=True):
            axis.text(0, -1.55, note, ha="center", va="top", fontsize=9)
        handles = [plt.Line2D([], [], lw=6, color=TENSOR), plt.Line2D([], [], lw=1.5, color=SCALAR)]
        figure.legend(
            handles, ["tensor features", "scalars"], loc="outside upper center", ncols=2, frameon=False
        )
        figure.savefig(path, metadata={"Date": None})
        plt.close(figure)


def accuracy(path: Path, results: Path = RESULTS) -> None:
    """Draw force errors over seconds of training, one panel for each data set."""
    record = json.loads((results / "accuracy.json").read_text())
    records = {n: run for n, run in record.items() if isinstance(run, dict) and "forces" in run}
    panels = sorted({name.removesuffix("_nequip") for name in records})
    figure, axes = plt.subplots(
        1, len(panels), figsize=(2.1 * len(panels), 2.6), layout="constrained", squeeze=False
    )
    for axis, panel in zip(axes[0], panels, strict=True):
        for name, label in ((panel, "allegro-model"), (panel + "_nequip", "nequip-allegro")):
            if name in records:
                axis.loglog(records[name]["seconds"], records[name]["forces"], marker=".", label=label)
        axis.set(title=panel, xlabel="seconds of training")
        for side in (axis.xaxis, axis.yaxis):
            side.set_major_locator(MaxNLocator(4, steps=[1, 2, 5, 10], prune="lower"))
            side.set_major_formatter("{x:.0f}")
            side.set_minor_locator(NullLocator())
        axis.tick_params(labelsize=8)
    axes[0, 0].legend(fontsize=7, loc="lower left", frameon=False)
    axes[0, 0].set_ylabel("validation force RMSE, meV/Å")
    figure.savefig(path, dpi=120)
    plt.close(figure)


def demo(folder: Path) -> None:
    """Draw the demo: learning curves, held-out forces, conserved energy, and its error against the time step."""
    rows = history(folder / "run")
    forces, dynamics = np.load(folder / "forces.npz"), json.loads((folder / "dynamics.json").read_text())
    figure = plt.figure(figsize=(11.5, 6.4), layout="constrained")
    grid = figure.add_gridspec(2, 3)
    epochs = [int(row["epoch"]) + 1 for row in rows]
    curves = {"energy_per_atom": ("energy", "meV/atom"), "forces": ("forces", "meV/Å")}
    for column, (key, (name, unit)) in enumerate(curves.items()):
        axis = figure.add_subplot(grid[0, column])
        for part, color in (("train", THEIRS), ("validation", OURS)):
            axis.plot(epochs, [1000 * r[f"{part}/{key}_mae"] for r in rows], color=color, label=part)
        axis.set(xlabel="epoch", ylabel=f"{name} MAE, {unit}", yscale="log", title=f"Learning: {name}")
        axis.legend(frameon=False)
    axis = figure.add_subplot(grid[0, 2])
    reference, predicted = forces["reference"].ravel(), forces["predicted"].ravel()
    edge, error = 1.05 * np.abs(reference).max(), 1000 * np.abs(predicted - reference).mean()
    axis.plot([-edge, edge], [-edge, edge], color=THEIRS, lw=1, zorder=0)
    axis.plot(reference, predicted, ".", ms=2, alpha=0.4, color=OURS)
    axis.set(xlabel="reference force, eV/Å", ylabel="model force, eV/Å", aspect="equal")
    axis.set_title("Held-out molecules")
    axis.text(0.04, 0.92, f"MAE {error:.0f} meV/Å", transform=axis.transAxes)
    _energies(figure.add_subplot(grid[1, :2]), dynamics)
    _law(figure.add_subplot(grid[1, 2]), dynamics)
    figure.savefig(folder / "demo.png", dpi=110)
    plt.close(figure)


def _energies(axis: Any, dynamics: dict[str, Any]) -> None:
    """Draw the total energy over time: lines for ASE, markers for LAMMPS, so that none hides another."""
    styles = {
        "1 rank": dict(marker="o", ms=7, mfc="none", mec=TENSOR),
        "2 ranks": dict(marker="x", ms=4, mec="black"),
    }
    colors = {1.0: THEIRS, 0.5: OURS, 0.25: SCALAR}
    for run in dynamics["runs"]:
        energy = 1000 * (np.array(run["energy_eV"]) - run["energy_eV"][0]) / dynamics["atoms"]
        if run["host"] == "ASE":
            axis.plot(
                run["time_ps"], energy, color=colors[run["dt_fs"]], lw=1.3, label=f"ASE, {run['dt_fs']} fs"
            )
        else:
            label = f"LAMMPS, {run['dt_fs']} fs, {run['ranks']}"
            axis.plot(run["time_ps"], energy, ls="", label=label, markevery=4, **styles[run["ranks"]])
    axis.set(xlabel="time, ps", ylabel="total energy − start, meV/atom")
    axis.set_title("Constant-energy dynamics, one exported model in two hosts")
    axis.set_ylim(top=1.3 * axis.get_ylim()[1])  # the legend stands above the lines
    axis.legend(frameon=False, fontsize=8, ncols=5, loc="upper left", columnspacing=1.2)


def _law(axis: Any, dynamics: dict[str, Any]) -> None:
    """Draw the standard deviation of the total energy against the time step, with its dt² line."""
    steps = {run["dt_fs"]: np.std(run["energy_eV"]) for run in dynamics["runs"] if run["host"] == "ASE"}
    dt = np.array(sorted(steps))
    spread = np.array([1000 * steps[x] / dynamics["atoms"] for x in dt])
    order = np.polyfit(np.log(dt), np.log(spread), 1)[0]
    line = np.geomspace(0.8 * dt[0], 1.25 * dt[-1])
    axis.loglog(line, spread[0] * (line / dt[0]) ** 2, color=THEIRS, label="∝ dt²")
    axis.loglog(dt, spread, "o", color=OURS, label=f"ASE, fitted order {order:.2f}")
    axis.set(xlabel="time step dt, fs", ylabel="std of total energy, meV/atom", xticks=dt, xticklabels=dt)
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_title("Energy error follows dt²")
    axis.legend(frameon=False)


def main() -> None:
    """Draw what the command line names."""
    if sys.argv[1:2] == ["demo"]:
        demo(Path(sys.argv[2]))
        return
    speed(RESULTS / "speed.svg")
    accuracy(RESULTS / "accuracy.png")
    atoms_not_edges(RESULTS.parent / "atoms_not_edges.svg")


if __name__ == "__main__":
    main()
