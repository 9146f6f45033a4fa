"""Tables of RESULTS.md, READMEs and docs, generated from the records in ``benchmarks/results``.

    python -m benchmarks.results_page            # fill the tables
    python -m benchmarks.results_page --check    # exit status 1 and a list where a file differs from its records

A page asks for a table by the comments ``<!-- results: NAME -->`` and ``<!-- end -->``, between which it stands. Every
number in it comes from a record that a command of ``tables.py`` wrote; RESULTS.md also lists these commands.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import RESULTS, ROOT, write_text
from benchmarks.gpu.day import PREDICTED, measured

PAGE = ROOT / "benchmarks" / "RESULTS.md"
ASKED = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)
NAMES = {
    "trp-gly-tyr-lys-pro": "pentapeptide",
    "dhfr_23558": "DHFR in water",
    "cellulose_408609": "cellulose in water",
    "3bpa": "3BPA, 450 frames at 300 K",
    "acac": "AcAc, 450 frames at 300 K",
    "aspirin": "rMD17 aspirin 01, 950 frames",
    "dipeptides": "SPICE dipeptides, 600 conformations",
    "water": "water, SCAN, with virial",
    "hdf5": "SPICE HDF5, h5py",
    "store": "**store**",
    "lmdb": "LMDB of pickles",
    "extxyz": "extxyz, ASE",
    "whole": "**full**",
    "full": "**full**",
    "paper": "forces",
}
"""Names in records and what the page calls them."""
FOUNDATION = {
    "nequip-compile aotinductor": "nequip AOTInductor",
    "nequip eager": "nequip eager",
}
"""Programs beside ours."""
PLACES = {"python": "python", "nequip": "PYTHON", "work": "tables-out"}
PLACES |= {"results": "benchmarks/results", "data": "../shared/data"}
"""What stands for this machine's paths in recorded commands."""
NEQUIP = "nequip 0.19.1 and nequip-allegro 0.8.3, noted at the time and not in the record"


def record(name: str) -> Any:
    """Return a record by the name of its file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


FIRST = {
    "3bpa": "3BPA at 300 K",
    "acac": "AcAc at 300 K",
    "aspirin": "rMD17 aspirin 01",
    "silicon": "mlearn Si, PBE, with virial",
    "water": "water, SCAN, with virial",
}
"""Data sets of a first configuration."""


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; ``head`` names the columns, separated by bars."""
    columns = [column.strip() for column in head.split("|")]
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def structure(name: str) -> str:
    """Return a structure's name in words."""
    stem = name.removesuffix(".gz").removesuffix(".xyz")
    return "water" if re.fullmatch(r"water_\d+", stem) else NAMES.get(stem, name)


def digits(x: float) -> str:
    """Return three significant digits without an exponent, thousands with commas."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def filled_rows(head: str, template: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table whose cells are a format of each row, separated by bars."""
    return table(head, ([cell.strip() for cell in template.format_map(row).split("|")] for row in rows))


def rows_of(name: str, **kept: Any) -> list[dict[str, Any]]:
    """Return the rows of a record that have these values, with names of structures and what several tables derive."""
    rows = [row for row in record(name)["rows"] if all(row.get(k) == v for k, v in kept.items())]
    for row in rows:
        row["name"] = structure(str(row.get("system", row.get("structure", ""))))
    return rows


def kernels() -> str:
    """Return times of the operators with one and two threads, over the floor and over the plain formulation."""
    one, two = (record(f"kernels_{n}")["times_ms"] for n in (1, 2))

    def cells(times: dict[str, float]) -> list[str]:
        ours, (plain,) = times["ours"], [v for k, v in times.items() if k.startswith("einsum")]
        return [f"{ours:.2f}", f"{ours / times['floor']:.2f}", f"{ours / plain:.2f}"]

    head = "operator | ms (1) | / floor | / plain | ms (2) | / floor | / plain"
    return table(head, ([name, *cells(one[name]), *cells(two[name])] for name in one))


def lmax() -> str:
    """Return the cost of energy and forces against l_max."""
    rows = record("lmax_1")["rows"]
    degrees = sorted({row["l_max"] for row in rows})
    body = []
    for way, label in (("compiled", "exported model, ms"), ("eager", "eager PyTorch, ms")):
        found = {
            row["l_max"]: "{ms:.0f} (×{over_first:.2f})".format(**row) for row in rows if row["way"] == way
        }
        body.append([label, *(found[degree] for degree in degrees)])
    return table("|".join(["", f"l_max {degrees[0]}", *map(str, degrees[1:])]), body)


def neighbors_search() -> str:
    """Return searches beside other libraries."""
    providers = ("localgraph", "vesin, unsorted", "vesin, sorted", "matscipy", "ASE")
    rows = []
    for row in record("neighbors_search_1")["rows"] + record("neighbors_search_2")["rows"]:
        wall = row["milliseconds"]["wall"]
        sizes = "{threads}|{atoms:,}|{periodic}|{edges:,}".format_map(
            row | {"periodic": row["periodic"] or "none"}
        )
        times = (digits(wall[p]) if p in wall else "–" for p in providers)
        rows.append([*sizes.split("|"), *times, f"{row['localgraph_over_fastest_other']['wall']:.2f}"])
    head = ["threads", "atoms", "periodic", "edges", *providers, "localgraph / fastest other"]
    return table("|".join(head), rows)


def neighbors_skin() -> str:
    """Return a search at each step against a Verlet list."""
    return filled_rows(
        "skin / Å | searches | search each step / ms | Verlet list / ms | ratio",
        "{skin}|{searches}|{milliseconds_per_step[wall][each]:.2f}|{milliseconds_per_step[wall][kept]:.2f}|"
        "{search_each_step_over_kept[wall]:.1f}",
        (row | {"searches": row["rebuilds"] + 1} for row in rows_of("neighbors_skin_1")),
    )


def neighbors_systems() -> str:
    """Return searches of large systems."""
    return filled_rows(
        "system | atoms | edges | search / s | graph / MB | peak / MB",
        "{name}|{atoms:,}|{edges:,}|{s:.2f}|{graph_megabytes:,.0f}|{peak_megabytes_over_start:,.0f}",
        (
            row | {"s": row["milliseconds"]["wall"]["localgraph"] / 1e3}
            for row in rows_of("neighbors_systems_1")
        ),
    )


def eager(system: str) -> str:
    """Return time and peak memory of eager energy and forces of a box of water."""
    providers, rows = ("nequip-allegro", "direct", "allegro-model"), record(f"model_{system}")["rows"]
    cells: dict[tuple[str, str], str] = {}
    for row in rows:
        done = row.get("seconds") is not None
        text = f"{1e3 * row['seconds']:,.0f} ms, {row['peak_mib']:,.0f} MiB" if done else row["failed"]
        cells[row["preset"], row["provider"]] = text
    presets = dict.fromkeys(row["preset"] for row in rows)
    body = ([preset.removeprefix("spice_"), *(cells[preset, p] for p in providers)] for preset in presets)
    return table("|".join(["preset", *providers]), body)


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


def demo() -> str:
    """Return errors and energy conservation of the demo."""
    found = record("demo")
    keys = ("frames held out", "molecules held out", "energy MAE, meV/atom", "forces MAE, meV/Å")
    keys += ("forces RMSE, meV/Å", "forces RMS of the data, meV/Å", "LAMMPS − ASE at step 0, eV")
    rows = [[key, f"{found[key]:.1e}" if "LAMMPS" in key else f"{found[key]:g}"] for key in keys]
    for name, spread in found["std of total energy, meV/atom"].items():
        rows.append([f"standard deviation of the total energy, {name}, meV/atom", f"{spread:g}"])
    return table("quantity | value", rows)


def physics() -> str:
    """Return the checks of the shipped potential's physics."""
    rows = []
    for name, check in record("physics")["checks"].items():
        facts = json.dumps(check["figures"], ensure_ascii=False).translate(str.maketrans("", "", '{}"'))
        rows.append([name, facts, "; ".join(check["faults"]) or "none"])
    return table("check | figures | bounds exceeded", rows)


def inference() -> str:
    """Return steps in ASE beside nequip-compile."""
    rows: dict[str, list[str]] = {}
    for row in rows_of("inference", kind="ase"):
        ours, theirs = row["mlip-export"], row.get("nequip-compile")
        beside = f" against {theirs['us_per_atom']:,.0f}: **{row['ratio']:.1f}**" if theirs else ""
        threads = f" ({ours['threads']}" + (f", {theirs['threads']})" if theirs else ")")
        first = f"{row['name']}, {row['atoms']:,} atoms"
        rows.setdefault(first, []).append(f"{ours['us_per_atom']:,.0f}{beside}{threads}")
    return table("system | small | medium | large", ([k, *v] for k, v in rows.items()))


def foundation() -> str:
    """Return steps of the full-size foundation model beside nequip's, over the bare products, and peak memory."""
    data, rows = record("foundation"), []
    for row in data["rows"]:
        ours = row["mlip-export"]
        cells = [f"{row['atoms']}", f"{row['threads']}", digits(ours["seconds"]), f"{ours['peak_MiB']:,.0f}"]
        floor = data["floor_us_per_edge"].get(str(row["threads"]))
        over = 1e6 * ours["seconds"] / row["edges"] / floor if floor and "edges" in row else None
        cells.append(f"{over:.2f}" if over else "–")
        for name in FOUNDATION:
            if found := row.get(name):
                times, memory = (found[key] / ours[key] for key in ("seconds", "peak_MiB"))
                text = (
                    f"{digits(found['seconds'])} s ({times:.1f}), {found['peak_MiB']:,.0f} MiB ({memory:.1f})"
                )
                cells.append(text)
            else:
                cells.append("out of memory" if name in row["ended"] else "–")
        rows.append(cells)
    head = ["atoms", "threads", "mlip-export, s", "MiB", "over bare products", *FOUNDATION.values()]
    return table("|".join(head), rows)


def foundation_compile() -> str:
    """Return what compiling the full-size foundation model took, and what failed."""
    rows = []
    for name, run in record("foundation")["compiled"].items():
        notes = [
            f"{key}: {run[key]}" for key in ("with its own tolerance", "tolerance", "failed") if key in run
        ]
        facts = [f"{run[key]:,}" if key in run else "–" for key in ("seconds", "cpu", "peak_MiB")]
        rows.append([name, *facts, "; ".join(notes) or "passed its check"])
    return table("program, threads | s | processor s | peak MiB | remarks", rows)


def foundation_files() -> str:
    """Return how far apart the eager models of full-size archives are in both programs."""
    rows = []
    for name, file in record("foundation")["compared"].items():
        cells = [
            name.removesuffix("-float64"),
            file["dtype"].removeprefix("torch."),
            f"{file['parameters']:,}",
        ]
        cells += [f"{file['seconds']:.1f}", f"{file['peak_MiB']:,.0f}"]
        for key in ("energy", "forces", "stress"):
            found = [(s[key], s[f"of {key}"]) for s in file["systems"].values() if key in s]
            worst, size = max(found)
            cells.append(f"{worst:.0e} of {size:.2g}")
        rows.append(cells)
    head = (
        "architecture | dtype | parameters | open, s | peak MiB | energy, eV | forces, eV/Å | stress, eV/Å³"
    )
    return table(head, rows)


def matbench() -> str:
    """Return matbench-discovery's protocols with the guide's potential against its reference."""
    data = record("matbench")
    found, kappa, pairs = data["discovery"], data["kappa"], data["diatomics"]
    steps = [row["steps"] for row in found["rows"]]
    worst = max(found["rows"], key=lambda row: abs(row["formation_energy"] - row["reference"]))
    text = "mean error of formation energies {:.1f} meV/atom, largest {:.1f} ({}); {} to {} steps, {:.1f} s"
    largest = 1e3 * abs(worst["formation_energy"] - worst["reference"])
    seconds = sum(row["seconds"] for row in found["rows"])
    rows = [
        [
            f"discovery, {len(steps)} structures",
            text.format(1e3 * found["mae"], largest, worst["structure"], min(steps), max(steps), seconds),
        ],
        [
            "thermal conductivity, 300 K",
            "{kappa:.2f} W/(m K), reference {reference:.2f}, SRME {srme:.3f}; {evaluations} supercells, "
            "{seconds:.1f} s".format_map(kappa),
        ],
    ]
    for name, curve in pairs.items():
        shape = "{pair}: minimum at {minimum:.2f} Å, flips of energy {energy_flips} and force {force_flips}, "
        shape += "tortuosity {tortuosity:.3f}, force against slope {conservation:.1e} eV/Å, {seconds:.2f} s"
        rows.append([f"diatomics, {name}", shape.format_map(curve)])
    for kelvin, run in data["dynamics"].items():
        shape = "error of g(r) {rdf_error_percent:.1f} %, {ms_per_step:.1f} ms per step"
        rows.append(
            [f"dynamics, {run['atoms']} atoms, {kelvin} K, {run['steps']} steps", shape.format_map(run)]
        )
    full = f"17 systems × 80,000 steps × time per step and atom × mean atoms: {data['full_seconds']:,.0f} s"
    return table("protocol | found", [*rows, ["time as listed there", full]])


def floor() -> str:
    """Return the model alone on one thread: over the bare products, and beside nequip-compile."""
    rows = rows_of("inference_1", kind="model")
    for row in rows:
        row["us"] = row["mlip-export"]["us_per_atom"] * row["atoms"] / row["edges"]
        row["beside"] = f"{row['ratio']:.1f}" if "ratio" in row else "not run"
    return filled_rows(
        "preset | atoms (edges) of water | µs per edge | bare products | over them | nequip-compile over ours",
        "{preset}|{atoms} ({edges:,})|{us:.1f}|{floor_us_per_edge:.1f}|{over_floor:.2f}|{beside}",
        rows,
    )


def inference_memory() -> str:
    """Return peak resident memory of a process that evaluates, beside nequip-compile."""
    rows = [row for row in rows_of("inference", kind="ase") if "nequip-compile" in row]
    for row in rows:
        row["times"] = row["nequip-compile"]["peak_MiB"] / row["mlip-export"]["peak_MiB"]
    return filled_rows(
        "preset | system | mlip-export, MiB | nequip-compile, MiB | ratio",
        "{preset}|{name}, {atoms:,} atoms|{mlip-export[peak_MiB]:,.0f}|{nequip-compile[peak_MiB]:,.0f}|{times:.1f}",
        rows,
    )


def lammps() -> str:
    """Return steps of LAMMPS beside nequip's ML-IAP interface."""
    return filled_rows(
        "preset | atoms | allegro, µs per atom and step | mliap with nequip | ratio | ΔE, eV/atom | ΔF, eV/Å",
        "{preset}|{atoms}|{mlip-export[us_per_atom_step]:,.0f}|{nequip[us_per_atom_step]:,.0f}|{ratio:.1f}|"
        "{energy_difference_eV_per_atom:.0e}|{force_difference_eV_per_A:.0e}",
        record("lammps")["rows"],
    )


def openmm_steps() -> str:
    """Return steps per second of OpenMM beside ASE, and how far apart their values are."""
    return filled_rows(
        "system | atoms | ASE, steps/s | OpenMM, steps/s | OpenMM / ASE | energy, relative | force, kJ/mol/nm",
        "{system}|{atoms}|{ase}|{openmm}|{ratio:.2f}|{energy_relative:.0e}|{force_kJ_mol_nm:.0e}",
        (
            row
            | {"ase": digits(row["steps_per_s"]["ASE"]), "openmm": digits(row["steps_per_s"]["OpenMM"])}
            | {"ratio": row["steps_per_s"]["OpenMM"] / row["steps_per_s"]["ASE"]}
            for row in rows_of("openmm")
        ),
    )


def openmm_runs() -> str:
    """Return conservation of energy in both programs, and a run of OpenMM at constant pressure."""
    data = record("openmm")
    nve, npt = data["nve"], data["npt"]
    rows = []
    for program in ("ASE", "OpenMM"):
        run = f"{nve['system']}, NVE, {nve['picoseconds']:g} ps of {nve['femtoseconds']:g} fs, {program}"
        text = "drift {drift_meV_atom_ps:.4f} meV/atom/ps, largest deviation {largest_meV_atom:.3f} meV/atom"
        rows.append([run, text.format_map(nve[program])])
    text = "volume {volumes_A3[0]:.0f} to {volumes_A3[1]:.0f} Å³; from ASE: energy {energy_relative:.0e} relative, "
    text += "force {force_kJ_mol_nm:.0e} kJ/mol/nm"
    rows.append(["{system}, NPT, {steps} steps, OpenMM".format_map(npt), text.format_map(npt)])
    return table("run | found", rows)


def relaxations() -> str:
    """Return the smallest force that each optimizer reaches, and its evaluations to 10⁻³ and 10⁻⁴ eV/Å."""
    rows = rows_of("relaxations")
    cells: dict[tuple[str, str, str], str] = {}
    for row in rows:
        first = [row["below"][limit] for limit in ("0.001", "0.0001")]
        counts = ", ".join("–" if count is None else str(count) for count in first)
        stop = " (stops)" if row["end"] == "line search" else ""
        cells[row["optimizer"], row["system"], row["dtype"]] = f"{row['reached']:.0e}{stop}; {counts}"
    systems = dict.fromkeys(row["system"] for row in rows)
    columns = [(system, dtype) for system in systems for dtype in ("float32", "float64")]
    head = ["optimizer", *(f"{system}, {dtype}" for system, dtype in columns)]
    names = dict.fromkeys(row["optimizer"] for row in rows)
    return table("|".join(head), ([name, *(cells[name, *column] for column in columns)] for name in names))


def protocols() -> str:
    """Return LAMMPS on one and more ranks."""
    rows = rows_of("protocols")
    alone = {row["structure"]: row["ms_per_step"] for row in rows if row["ranks"] == 1}
    for row in rows:
        row |= {"ms": digits(row["ms_per_step"]), "speed": alone[row["structure"]] / row["ms_per_step"]}
    head = "system | atoms | ranks | ms per step | µs per atom and step | speed-up"
    return filled_rows(head, "{name}|{atoms:,}|{ranks}|{ms}|{us_per_atom_step:,.0f}|{speed:.2f}", rows)


def systems() -> str:
    """Return exported models against eager on every structure."""
    rows = rows_of("systems_small")
    return filled_rows(
        "system | atoms | edges | s | µs per edge | peak so far, GiB | energy, eV/atom | edge forces, eV/Å",
        "{name}|{atoms:,}|{edges:,}|{s}|{us_per_edge:.1f}|{GiB:.1f}|{energy_difference_in_whole:.0e}|"
        "{edge_force_difference:.0e} of {largest_edge_force:.0e}",
        (row | {"s": digits(row["seconds"]), "GiB": row["peak_MiB"] / 1024} for row in rows),
    )


def data_reading() -> str:
    """Return readers of frames."""
    power, rows = {10_000: "10⁴", 1_000_000: "10⁶"}, record("data_reading")["rows"]
    for row in rows:
        row |= {"name": NAMES[row["reader"]], "power": power[row["frames"]]}
        row["order"] = " (in order)" if row["reader"] == "extxyz" else ""
    head = "reader | frames | random frames/s | × HDF5 | shuffled epoch frames/s | resident MB"
    return filled_rows(head, "{name}|{power}|{random:,.0f}|{ratio:.1f}|{epoch:,.0f}{order}|{rss:,.0f}", rows)


def data_converting() -> str:
    """Return conversion of files."""
    rows = record("data_converting")["rows"]
    for row in rows:
        row["ms"] = row["convert_microseconds_per_group"] / 1e3
        speeds = row["megabytes_per_second"]
        kinds = ("convert", "h5py", "whole file")
        row["speeds"] = "|".join(f"{speeds[k]:,.0f} ({speeds[f'{k}, cold']:,.0f})" for k in kinds)
    head = "file | groups | MB | convert | h5py | whole file | ms a group"
    return filled_rows(head, "{file}|{groups:,}|{megabytes:.1f}|{speeds}|{ms:.2f}", rows)


def gpu() -> str:
    """Return predictions beside what the GPU day measured."""
    path = RESULTS / "gpu.json"
    found = measured(json.loads(path.read_text())) if path.exists() else {}
    rows = []
    for name, predicted in PREDICTED.items():
        value = found.get(name)
        cells = [f"{value:.3g}", f"{value / predicted:.2f}"] if value is not None else ["not measured", ""]
        rows.append([name, f"{predicted:g}", *cells])
    return table("quantity | predicted | measured | measured / predicted", rows)


class Table(NamedTuple):
    """How a table is made, of which records, and the other side's versions where the records lack them."""

    make: Callable[[], str]
    records: tuple[str, ...]
    other: str = ""


def data_growth() -> str:
    """Return what every stage of a store costs, by number of frames."""
    names = {"write": "write", "open": "open", "check": "compare checksums"}
    names |= {
        "first pass": "first pass, 2 workers",
        "plan": "later start",
        "read": "read 10⁴ shuffled frames",
    }
    names |= {"extxyz": "write and convert extended XYZ, 10⁴ or 2 · 10⁴ frames"}
    rows = record("data_growth")["rows"]
    sizes = sorted({row["frames"] for row in rows})
    cells = {(r["stage"], r["frames"]): f"{r['cpu']:.1f} s, {r['peak_MB']:,.0f} MB" for r in rows}
    lines = [["size on disk", *(f"{r['bytes'] / 1e6:,.0f} MB" for r in rows if r["stage"] == "write")]]
    lines += [[text, *(cells[k, n] for n in sizes)] for k, text in names.items() if (k, sizes[0]) in cells]
    return table(" | ".join(["stage", *(f"{n:,} frames" for n in sizes)]), lines)


def data_batches() -> str:
    """Return what a batch of 256 frames costs a loader worker."""
    (row,) = rows_of("data_batches", stage="batches")
    parts = {"read": "read frames", "lists": "neighbor lists", "batch": "all of a batch"}
    parts |= {"batch of cached lists": "all of a batch, neighbor lists cached"}
    rows = [[text, f"{row['ms'][key]:.1f} ms"] for key, text in parts.items()]
    rows += [["neighbor lists, per edge", f"{row['ns_per_edge']:.0f} ns"]]
    rows += [["size of a batch", f"{row['bytes'] / 1e6:.1f} MB for {row['edges']:,} edges"]]
    return table("quantity | least processor time", rows)


def plain(make: Callable[[], str], *records: str, other: str = "") -> Table:
    """Return the entry of a table whose records are called as it is, or these."""
    return Table(make, records or (make.__name__,), other)


TABLES = {
    table.make.__name__: table
    for table in (
        plain(gpu),
        plain(accuracy, other=NEQUIP),
        plain(first),
        plain(demo),
        plain(physics),
        plain(systems, "systems_small"),
        plain(inference, other=NEQUIP),
        plain(floor, "inference_1", other=NEQUIP),
        plain(foundation),
        plain(foundation_compile, "foundation"),
        plain(foundation_files, "foundation"),
        plain(matbench),
        plain(lmax, "lmax_1"),
        plain(protocols),
        plain(lammps, other=NEQUIP),
        plain(openmm_steps, "openmm"),
        plain(openmm_runs, "openmm"),
        plain(relaxations),
        plain(train, "train_small", "train_medium", "train_large", other=NEQUIP),
        plain(ddp),
        plain(reduce),
        plain(interruptions),
        plain(bf16),
        plain(
            neighbors_search,
            *("neighbors_search_1", "neighbors_search_2"),
            other="versions of vesin, matscipy and ASE not in the record",
        ),
        plain(neighbors_skin, "neighbors_skin_1"),
        plain(neighbors_systems, "neighbors_systems_1"),
        plain(kernels, "kernels_1", "kernels_2"),
        plain(inference_memory, "inference", other=NEQUIP),
        plain(data_reading, other="versions of lmdb and ASE not in the record"),
        plain(data_converting),
        plain(data_growth),
        plain(data_batches),
    )
} | {
    f"model_{system}": Table(partial(eager, system), (f"model_{system}",), NEQUIP)
    for system in ("water_192", "water_81")
}


def command_of(name: str, run: dict[str, Any]) -> str:
    """Return the command that a record, or else its entry in tables.json, holds, in the form that runs today."""
    data = record(name)
    if "argv" in data:
        command = " ".join(["python benchmarks/lammps_beside_nequip.py", *data["argv"]])
    else:
        command = str(data.get("command") or run["commands"][-1].format(**PLACES))
    return re.sub(
        r"python benchmarks/(\S+)\.py", lambda m: f"python -m benchmarks.{m[1].replace('/', '.')}", command
    )


def provenance(name: str, other: str, run: dict[str, Any]) -> str:
    """Return a record's command, machine, threads, versions and date, as far as they are recorded."""
    if not (RESULTS / f"{name}.json").exists():
        return f"- `results/{name}.json`: not there yet\n"
    data = record(name)
    machine = run.get("machine", {})
    facts = [machine.get("processor", ""), *map(str.upper, machine.get("vector instructions", []))]
    threads = data.get("threads", data.get("options", {}).get("threads"))
    threads = threads or data.get("environment", {}).get("OMP_NUM_THREADS")
    facts += [f"{machine['cores']} cores"] if machine else []
    facts += [f"threads {threads}"] if threads else []
    others = {name: v for side in data.get("provider_versions", {}).values() for name, v in side.items()}
    facts += [f"{k} {v}" for k, v in {**others, **data.get("versions", {})}.items()]
    if "versions" not in data:
        facts += [f"torch {machine['torch']}" if machine else "", other]
    listed = ", ".join(filter(None, [*facts, run.get("started", "")[:10]]))
    return f"- `results/{name}.json`: `{command_of(name, run)}`" + (f" ({listed})" if listed else "") + "\n"


def filled(text: str, sources: bool = False) -> str:
    """Return a text with the tables that it asks for, and where they come from; KeyError names an unknown one."""
    runs = record("tables")

    def block(found: re.Match[str]) -> str:
        make, records, other = TABLES[found[2]]
        lines = [provenance(name, other, runs.get(name, {})) for name in records] if sources else []
        return "".join([found[1], make(), "\n" * bool(lines), *lines, found[4]])

    return ASKED.sub(block, text)


def pages() -> dict[Path, str]:
    """Return every file that asks for tables, as it should be."""
    found = [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("packages/*/README.md"), PAGE]
    found += ROOT.glob("docs/*/*.md")
    texts = {path: path.read_text() for path in sorted(found)}
    return {path: filled(text, path == PAGE) for path, text in texts.items() if ASKED.search(text)}


def main() -> int:
    """Write the page and the tables, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name the files that would change"
    )
    check = parser.parse_args().check
    wanted = pages()
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    for path in stale if not check else ():
        write_text(path, wanted[path])
    print("\n".join(str(path.relative_to(ROOT)) for path in stale) or "every table equals its record")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
