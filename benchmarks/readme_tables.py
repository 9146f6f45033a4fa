"""The tables of the READMEs, made from the records in ``benchmarks/results``.

    python benchmarks/readme_tables.py            # writes them where the READMEs ask for them
    python benchmarks/readme_tables.py --check    # exit status 1 and a list where one is not what its record says

A README asks by two comments, between which the table stands: ``<!-- results: NAME -->`` and ``<!-- end -->``. So a
figure in a table is one that a command of ``tables.py`` wrote, and a table and its record cannot drift apart.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from localgraph.files import replacing

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
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
}


def record(name: str) -> Any:
    """A record by the name of its file."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """A Markdown table; ``head`` names the columns, separated by bars."""
    columns = [column.strip() for column in head.split("|")]
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def structure(name: str) -> str:
    """A structure's name as prose has it."""
    stem = name.removesuffix(".gz").removesuffix(".xyz")
    return "water" if re.fullmatch(r"water_\d+", stem) else NAMES.get(stem, name)


def digits(x: float) -> str:
    """Three significant digits without an exponent, thousands with commas."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def kernels() -> str:
    """Times of the operators with one and two threads, over the floor and over the plain formulation."""
    one, two = (record(f"kernels_{n}")["times_ms"] for n in (1, 2))

    def cells(times: dict[str, float]) -> list[str]:
        ours, (plain,) = times["ours"], [v for k, v in times.items() if k.startswith("einsum")]
        return [f"{ours:.2f}", f"{ours / times['floor']:.2f}", f"{ours / plain:.2f}"]

    head = "operator | ms (1) | / floor | / plain | ms (2) | / floor | / plain"
    return table(head, ([name, *cells(one[name]), *cells(two[name])] for name in one))


def lmax() -> str:
    """Cost of energy and forces against l_max."""
    rows = record("lmax_1")["rows"]
    degrees = sorted({row["l_max"] for row in rows})
    ways = {"compiled": "package of mlip-export, ms", "eager": "eager PyTorch, ms"}
    found = {(row["way"], row["l_max"]): row for row in rows}
    body = (
        [label, *(f"{found[way, d]['ms']:.0f} (×{found[way, d]['over_first']:.2f})" for d in degrees)]
        for way, label in ways.items()
        if (way, degrees[0]) in found
    )
    return table("|".join(["", f"l_max {degrees[0]}", *map(str, degrees[1:])]), body)


def neighbors_search() -> str:
    """Searches beside other libraries."""
    providers = ("localgraph", "vesin, unsorted", "vesin, sorted", "matscipy", "ASE")
    rows = []
    for threads in (1, 2):
        for row in record(f"neighbors_search_{threads}")["rows"]:
            wall = row["milliseconds"]["wall"]
            times = (digits(wall[p]) if p in wall else "–" for p in providers)
            ratio = f"{row['localgraph_over_fastest_other']['wall']:.2f}"
            counts = f"{row['atoms']:,}", row["periodic"] or "none", f"{row['edges']:,}"
            rows.append([str(threads), *counts, *times, ratio])
    return table(
        "|".join(["threads", "atoms", "periodic", "edges", *providers, "localgraph / fastest other"]), rows
    )


def neighbors_skin() -> str:
    """A search at each step against a Verlet list."""
    rows = []
    for row in record("neighbors_skin_1")["rows"]:
        wall, ratio = row["milliseconds_per_step"]["wall"], row["search_each_step_over_kept"]["wall"]
        searches = str(row["rebuilds"] + 1)
        rows.append(
            [f"{row['skin']}", searches, f"{wall['each']:.2f}", f"{wall['kept']:.2f}", f"{ratio:.1f}"]
        )
    return table("skin / Å | searches | search each step / ms | Verlet list / ms | ratio", rows)


def neighbors_systems() -> str:
    """Large systems."""
    rows = (
        [
            structure(row["system"]),
            f"{row['atoms']:,}",
            f"{row['edges']:,}",
            f"{row['milliseconds']['wall']['localgraph'] / 1e3:.2f}",
            f"{row['graph_megabytes']:,.0f}",
            f"{row['peak_megabytes_over_start']:,.0f}",
        ]
        for row in record("neighbors_systems_1")["rows"]
    )
    return table("system | atoms | edges | search / s | graph / MB | peak / MB", rows)


def _eager(system: str) -> str:
    providers = ("nequip-allegro", "direct", "allegro-model")
    found = {(row["preset"], row["provider"]): row for row in record(f"model_{system}")["rows"]}
    rows = []
    for preset in dict.fromkeys(preset for preset, _ in found):
        cells = []
        for provider in providers:
            row = found[preset, provider]
            done = row.get("seconds") is not None
            cells.append(
                f"{1e3 * row['seconds']:,.0f} ms, {row['peak_mib']:,.0f} MiB" if done else row["failed"]
            )
        rows.append([preset.removeprefix("spice_"), *cells])
    return table("|".join(["preset", *providers]), rows)


def model_water_192() -> str:
    """Eager energy and forces of 192 atoms."""
    return _eager("water_192")


def model_water_81() -> str:
    """Eager energy and forces of 81 atoms."""
    return _eager("water_81")


def train() -> str:
    """Training steps of the three presets."""
    rows = []
    for preset in ("small", "medium", "large"):
        (result,) = record(f"train_{preset}")["results"]
        whole = result["steps_per_s"]["whole"]
        for provider in dict.fromkeys(row["provider"] for row in result["rows"]):
            ran = [r for r in result["rows"] if r["provider"] == provider and "steps_per_s" in r]
            name = {"whole": "**whole**", "paper": "paper's way"}.get(provider, provider)
            if not ran:
                rows.append([preset, name, "–", "–", "–", "killed", "–"])
                continue
            best = max(ran, key=lambda r: r["steps_per_s"])
            rate, peak = best["steps_per_s"], best["peak_mib"] / 1024
            cells = [str(best["threads"]), digits(rate), f"{whole / rate:.1f}", f"{peak:.1f} GiB"]
            rows.append([preset, name, *cells, f"{best['compile_s']:.0f} s"])
    return table("preset | step | threads | steps/s | whole is faster by | peak memory | first steps", rows)


def ddp() -> str:
    """SI Tables 3 and 4."""
    rows = (
        [
            row["run"],
            f"{row['energy_rmse_meV_per_atom']:.6f}",
            f"{row['force_rmse_meV_per_A']:.6f}",
            f"{row['least_s_per_epoch']:.1f}",
        ]
        for row in record("ddp")["rows"]
    )
    return table("run | energy RMSE, meV/atom | forces RMSE, meV/Å | least s per epoch", rows)


def accuracy() -> str:
    """Errors after the same seconds of training."""
    runs = record("accuracy")
    rows = []
    for name in (n for n in NAMES if n in runs):
        cells = []
        for run in (runs[name], runs[f"{name}_nequip"]):
            seconds, energy, forces = run["seconds"][-1], run["energy"][-1], run["forces"][-1]
            cells += [f"{run['epochs']} in {seconds:.0f} s", f"{energy:.1f}, {forces:.0f}"]
        rows.append([NAMES[name], *cells])
    return table("data | epochs | errors | nequip-allegro: epochs | errors", rows)


def inference() -> str:
    """Steps in ASE beside nequip-compile."""
    rows: dict[str, list[str]] = {}
    for row in record("inference")["rows"]:
        if row["kind"] != "ase":
            continue
        ours, theirs = row["mlip-export"], row.get("nequip-compile")
        beside = f" against {theirs['us_per_atom']:,.0f}: **{row['ratio']:.1f}**" if theirs else ""
        first = f"{structure(row['system'])}, {row['atoms']:,} atoms"
        rows.setdefault(first, []).append(f"{ours['us_per_atom']:,.0f}{beside}")
    return table("system | small | medium | large", ([k, *v] for k, v in rows.items()))


def floor() -> str:
    """The model alone on one thread: over the bare products, and beside nequip-compile."""
    rows = (
        [
            row["preset"],
            f"{row['atoms']} ({row['edges']:,})",
            f"{row['mlip-export']['us_per_atom'] * row['atoms'] / row['edges']:.1f}",
            f"{row['floor_us_per_edge']:.1f}",
            f"{row['over_floor']:.2f}",
            f"{row['ratio']:.1f}" if "ratio" in row else "not run",
        ]
        for row in record("inference_1")["rows"]
        if row["kind"] == "model"
    )
    head = (
        "preset | atoms (edges) of water | µs per edge | bare products | over them | nequip-compile over ours"
    )
    return table(head, rows)


def protocols() -> str:
    """LAMMPS on one and more ranks."""
    rows = record("protocols")["rows"]
    alone = {row["structure"]: row["ms_per_step"] for row in rows if row["ranks"] == 1}
    body = (
        [
            structure(row["structure"]),
            f"{row['atoms']:,}",
            str(row["ranks"]),
            digits(row["ms_per_step"]),
            f"{row['us_per_atom_step']:,.0f}",
            f"{alone[row['structure']] / row['ms_per_step']:.2f}",
        ]
        for row in rows
    )
    return table("system | atoms | ranks | ms per step | µs per atom and step | speed-up", body)


def systems() -> str:
    """Packages against eager on every structure."""
    rows = (
        [
            structure(row["structure"]),
            f"{row['atoms']:,}",
            f"{row['edges']:,}",
            digits(row["seconds"]),
            f"{row['us_per_edge']:.1f}",
            f"{row['peak_MiB'] / 1024:.1f}",
            f"{row['energy_difference_in_whole']:.0e}",
            f"{row['edge_force_difference']:.0e} of {row['largest_edge_force']:.0e}",
        ]
        for row in record("systems_small")["rows"]
    )
    head = "system | atoms | edges | s | µs per edge | peak so far, GiB | energy, eV/atom | edge forces, eV/Å"
    return table(head, rows)


def data_reading() -> str:
    """Readers of frames."""
    power = {10_000: "10⁴", 1_000_000: "10⁶"}
    rows = []
    for row in record("data_reading")["rows"]:
        times = [f"{row['random']:,.0f}", f"{row['ratio']:.1f}"]
        order = " (in order)" if row["reader"] == "extxyz" else ""
        rest = [f"{row['epoch']:,.0f}{order}", f"{row['rss']:,.0f}"]
        rows.append([NAMES[row["reader"]], power[row["frames"]], *times, *rest])
    return table("reader | frames | random frames/s | × HDF5 | shuffled epoch frames/s | resident MB", rows)


def data_converting() -> str:
    """Conversion of files."""

    def both(row: dict[str, Any], kind: str) -> str:
        speed = row["megabytes_per_second"]
        return f"{speed[kind]:,.0f} ({speed[f'{kind}, cold']:,.0f})"

    rows = (
        [
            row["file"],
            f"{row['groups']:,}",
            f"{row['megabytes']:.1f}",
            *(both(row, kind) for kind in ("convert", "h5py", "whole file")),
            f"{row['convert_microseconds_per_group'] / 1e3:.2f}",
        ]
        for row in record("data_converting")["rows"]
    )
    return table("file | groups | MB | convert | h5py | whole file | ms a group", rows)


TABLES = (kernels, lmax, neighbors_search, neighbors_skin, neighbors_systems, model_water_192, model_water_81)
TABLES += (train, ddp, accuracy, inference, floor, protocols, systems, data_reading, data_converting)
MADE: dict[str, Callable[[], str]] = {f.__name__: f for f in TABLES}


def filled(text: str) -> str:
    """A README with the tables that it asks for; KeyError names one that nothing makes."""
    return ASKED.sub(lambda found: f"{found[1]}{MADE[found[2]]()}{found[4]}", text)


def readmes() -> list[Path]:
    """Every Markdown file that may ask for a table."""
    return [ROOT / "README.md", *sorted(ROOT.glob("*/README.md")), *sorted(ROOT.glob("packages/*/README.md"))]


def main() -> int:
    """Write the tables, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name the files that would change"
    )
    check = parser.parse_args().check
    stale = []
    for path in readmes():
        text = path.read_text()
        if (new := filled(text)) != text:
            stale.append(str(path.relative_to(ROOT)))
            if not check:
                with replacing(path) as file:
                    file.write(new.encode())
    print("\n".join(stale) or "every table is what its record says")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
