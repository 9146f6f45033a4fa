"""Tables of operators, neighbor lists, and energies and forces in every host."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from benchmarks.gpu.day import PREDICTED, measured, predicted
from benchmarks.result_tables.records import (
    digits,
    filled_rows,
    path_of,
    record,
    rows_of,
    table,
)


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


def scaling() -> str:
    """Return LAMMPS on growing boxes and on more ranks, with what a rank sees and holds."""
    rows = rows_of("scaling")

    def same(row: Mapping[str, Any]) -> tuple[str, float]:
        """Return what runs on other ranks have in common: the atoms of a rank, or all."""
        return row["kind"], row["owned" if row["kind"] == "weak" else "atoms"]

    alone = {same(row): row for row in rows if row["ranks"] == 1}
    for row in rows:
        efficiency = alone[same(row)]["us_per_atom_step"] / row["us_per_atom_step"] / row["ranks"]
        row["efficiency"] = f"{efficiency:.0%}" if row["ranks"] > 1 else "–"
        row["beside"] = row["ghosts"] / row["ghosts_by_model"]
    return filled_rows(
        "run | atoms | ranks | µs per atom and step | efficiency | outside the pair style | ghosts per rank | "
        "over the model | MiB of a rank",
        "{kind}|{atoms:,}|{ranks}|{us_per_atom_step:,.0f}|{efficiency}|{outside_pair:.1%}|{ghosts:,.0f}|{beside:.3f}"
        "|{peak_MiB:,.0f}",
        rows,
    )


def scaling_cost() -> str:
    """Return the model's cost of a step of 10⁸ atoms."""
    return filled_rows(
        "atoms of a rank | ranks for 10⁸ | ghosts per atom | MB sent per step | MiB of a rank | s per step",
        "{owned:,}|{ranks:,}|{ghosts_over_owned:.2f}|{sent_MB_per_step:.2f}|{rank_MiB:,.0f}|{s_per_step:,.2f}",
        record("scaling")["cost"],
    )


def systems() -> str:
    """Return exported models against eager on every structure."""
    rows = rows_of("systems_small")
    return filled_rows(
        "system | atoms | edges | s | µs per edge | peak so far, GiB | energy, eV/atom | edge forces, eV/Å",
        "{name}|{atoms:,}|{edges:,}|{s}|{us_per_edge:.1f}|{GiB:.1f}|{energy_difference_in_whole:.0e}|"
        "{edge_force_difference:.0e} of {largest_edge_force:.0e}",
        (row | {"s": digits(row["seconds"]), "GiB": row["peak_MiB"] / 1024} for row in rows),
    )


def gpu() -> str:
    """Return predictions for every device, and what the GPU day measured beside the one for its device."""
    day = record("gpu") if path_of("gpu").exists() else {"parts": {}, "predicted": PREDICTED}
    found, here, rows = measured(day), predicted(day), []
    for name, value in found.items():
        cells = [f"{day['predicted'][device][name]:g}" for device in day["predicted"]]
        cells.append(f"{value:.3g}" if value is not None else "not measured")
        cells.append(f"{value / here[name]:.2f}" if value is not None and name in here else "")
        rows.append([name, *cells])
    head = ["quantity", *(f"predicted, {device}" for device in day["predicted"])]
    return table("|".join([*head, "measured", "measured / predicted"]), rows)
