"""Tables of training: steps, processes, errors, and what trained potentials do."""

from __future__ import annotations

import json
from typing import Any

from benchmarks.accuracy.literature import HEADER, rows_of
from benchmarks.result_tables.records import (
    NAMES,
    digits,
    filled_rows,
    record,
    table,
)

FIRST = {
    "3bpa": "3BPA at 300 K",
    "acac": "AcAc at 300 K",
    "aspirin": "rMD17 aspirin 01",
    "silicon": "mlearn Si, PBE, with virial",
    "water": "water, SCAN, with virial",
}
"""Data sets of a first configuration."""
PRECISIONS = {"exported": "float32", "float64": "float64"}
"""Of the models of the physical checks."""


def train() -> str:
    """Return training steps of the three presets."""
    rows = []
    for preset in ("small", "medium", "large"):
        (result,) = record(f"train_{preset}")["results"]
        full = next(rate for name, rate in result["steps_per_s"].items() if name in ("whole", "full"))
        for provider in dict.fromkeys(row["provider"] for row in result["rows"]):
            ran = [r for r in result["rows"] if r["provider"] == provider and "steps_per_s" in r]
            name = NAMES.get(provider, provider)
            if not ran:
                rows.append([preset, name, "–", "–", "–", "killed", "–"])
                continue
            best = max(ran, key=lambda r: r["steps_per_s"])
            rate, peak = best["steps_per_s"], best["peak_mib"] / 1024
            cells = [str(best["threads"]), digits(rate), f"{full / rate:.1f}", f"{peak:.1f} GiB"]
            rows.append([preset, name, *cells, f"{best['compile_s']:.0f} s"])
    return table("preset | step | threads | steps/s | full is faster by | peak memory | first steps", rows)


def ddp() -> str:
    """Return SI Tables 3 and 4."""
    return filled_rows(
        "run | energy RMSE, meV/atom | forces RMSE, meV/Å | least s per epoch",
        "{run}|{energy_rmse_meV_per_atom:.6f}|{force_rmse_meV_per_A:.6f}|{least_s_per_epoch:.1f}",
        record("ddp")["rows"],
    )


def first() -> str:
    """Return what a configuration of six lines learns."""
    rows = []
    for name, row in record("first")["rows"].items():
        cells = [f"{row['steps']:,} in {row['seconds']:.0f} s, {row['processor seconds']:.0f} s"]
        for label in ("", "baseline "):
            values = [row.get(f"{label}{quantity}") for quantity in ("energy_per_atom", "forces", "stress")]
            cells.append(", ".join(f"{value:.1f}" for value in values if value is not None))
        rows.append([FIRST[name], *cells])
    return table("data | steps, time, processor time | errors | element means, no forces", rows)


def bf16() -> str:
    """Return what training with hidden layers in bfloat16 gives beside float32."""
    rows = []
    for row in record("bf16")["rows"]:
        name = f"{FIRST[row['data']]}, {row['layers']}" + (", another seed" if row["seed"] else "")
        errors = f"{row['energy_per_atom']:.2f}, {row['forces']:.1f}"
        work = f"{row['work']:.3f} of {row['energy changes']:.1f}"
        step = f"{row['ms']:.1f}" if "ms" in row else "–"
        rows.append([name, errors, f"{row['rounding of forces']:.2f}", work, f"{row['drift']:.3f}", step])
    head = (
        "data, hidden layers | errors | forces less those of float32 layers, meV/Å | ΔE + ∫F·dx, meV/atom | "
    )
    return table(f"{head}drift, meV/atom/ps | ms per step", rows)


def interruptions() -> str:
    """Return how runs interrupted at random moments ended."""
    return filled_rows(
        "signal | moments | ended by it | had ended before | before the first step | continued to the same bits",
        "{signal}|{moments}|{interrupted}|{ended before}|{before the first step}|{equal}",
        record("interruptions")["rows"],
    )


def reduce() -> str:
    """Return what the reduction of gradients sends and holds."""
    return filled_rows(
        "parameters | processes | bucket, MiB | gradients, MiB | sent per process, MiB | of a ring, MiB | memory, MiB",
        "{parameters:,}|{processes}|{bucket, MiB:g}|{gradients, MiB:.2f}|{sent per process, MiB:.2f}|{ring, MiB:.2f}|"
        "{memory, MiB:.1f}",
        record("reduce")["rows"],
    )


def accuracy() -> str:
    """Return errors after the same seconds of training."""
    runs, rows = record("accuracy"), []
    for name in (n for n in NAMES if n in runs):
        cells = []
        for run in (runs[name], runs[f"{name}_nequip"]):
            seconds, energy, forces = run["seconds"][-1], run["energy"][-1], run["forces"][-1]
            cells += [f"{run['epochs']} in {seconds:.0f} s", f"{energy:.1f}, {forces:.0f}"]
        rows.append([NAMES[name], *cells])
    return table("data | epochs | errors | nequip-allegro: epochs | errors", rows)


LITERATURE = ("literature", "literature_pretrained", "literature_aspirin")
"""Records of the long runs on molecules."""


def literature() -> str:
    """Return errors of long runs beside published ones."""
    return table(HEADER, rows_of({n: run for name in LITERATURE for n, run in record(name)["runs"].items()}))


def accuracy_lmax() -> str:
    """Return errors and the time of a training step by l_max."""
    return filled_rows(
        "l_max | seed | energy, meV | forces, meV/Å | forces of training frames, meV/Å | ms per step",
        "{l_max}|{seed}|{energy, meV:.2f}|{forces, meV/Å:.1f}|{training forces, meV/Å:.1f}|{ms per step:.0f}",
        record("accuracy_lmax")["rows"],
    )


def demo() -> str:
    """Return errors and energy conservation of the demo."""
    found = record("demo")
    keys = ("frames held out", "molecules held out", "energy MAE, meV/atom", "forces MAE, meV/Å")
    keys += ("forces RMSE, meV/Å", "forces RMS of the data, meV/Å", "LAMMPS − ASE at step 0, eV")
    rows = [[key, f"{found[key]:.1e}" if "LAMMPS" in key else f"{found[key]:g}"] for key in keys]
    for name, spread in found["std of total energy, meV/atom"].items():
        rows.append([f"standard deviation of the total energy, {name}, meV/atom", f"{spread:g}"])
    return table("quantity | value", rows)


SPREAD, DRIFT = "std of total energy by dt in fs, meV/atom", "drift by dt in fs, meV/atom/ps"
"""Figures of the check of the energy that have a table of their own."""


def conservation() -> str:
    """Return fluctuation and drift of the total energy by precision and time step; older records have no drift."""
    figures, rows = record("physics")["checks"]["energy"]["figures"], []
    for label, found in figures[SPREAD].items():
        slopes = figures.get(DRIFT, {}).get(label, {})
        rows += [
            [PRECISIONS[label], dt, f"{x:g}", f"{slopes[dt]:.2g}" if dt in slopes else "–"]
            for dt, x in found.items()
        ]
    return table("precision | time step, fs | standard deviation, meV/atom | drift, meV/atom/ps", rows)


def physics() -> str:
    """Return the checks of the shipped potential's physics."""
    rows = []
    for name, check in record("physics")["checks"].items():
        listed = {key: value for key, value in check["figures"].items() if key not in (SPREAD, DRIFT)}
        facts = json.dumps(listed, ensure_ascii=False).translate(str.maketrans("", "", '{}"'))
        rows.append([name, facts, "; ".join(check["faults"]) or "none"])
    return table("check | figures | bounds exceeded", rows)


def material(name: str) -> str:
    """Return the figures of one material's check, and the bounds that it exceeds."""

    def cell(value: Any) -> str:
        if isinstance(value, dict):
            return f"{value['mean']:g} ± {value['standard error']:g}"
        return ", ".join(f"{x:g}" for x in (value if isinstance(value, list) else [value]))

    (check,) = record(name)["checks"].values()
    rows = [[key, cell(value)] for key, value in check["figures"].items()]
    return table("quantity | value", [*rows, ["bounds exceeded", "; ".join(check["faults"]) or "none"]])


def silicon_errors() -> str:
    """Return errors of the silicon potential beside published ones."""
    return table(HEADER.replace("meV |", "meV/atom |", 1), rows_of(record("literature_silicon")["runs"]))
