"""Tables of a foundation model at full size."""

from __future__ import annotations

from benchmarks.result_tables.records import (
    digits,
    record,
    table,
)

FOUNDATION = {
    "nequip-compile aotinductor": "nequip AOTInductor",
    "nequip eager": "nequip eager",
}
"""Programs beside ours."""


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
