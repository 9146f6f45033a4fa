"""Cost of an Allegro energy+forces step against l_max, channels fixed: spice_small with l_max 1 to 6 on one system.

    python benchmarks/bench_lmax.py prepare --work out
    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000 \\
        python benchmarks/bench_lmax.py time --work out --threads 1 --output benchmarks/results/lmax_1.json

``prepare`` compiles one package per l_max with mlip-export (random weights, fixed seed). ``time`` finds the graph once
and asks for energies and forces, all values of l_max in turn, round after round, of the packages and then of the same
models in eager PyTorch; it keeps the least time of each. The ratios to the smallest l_max are min over min in one
run. The tunables keep the allocator from returning pages. ``profile`` prints what the operators of a way cost, and
``plot RECORD.json`` draws a record beside itself (matplotlib).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import torch

import localgraph
import mlip_export
from allegro_model import Allegro, presets
from mlip_export.ase import Calculator
from mlip_export.chunks import evaluate

ELEMENTS = ["H", "C", "N", "O", "S"]


def model(l_max: int) -> Allegro:
    """spice_small with another l_max and fixed random weights."""
    torch.manual_seed(0)
    return Allegro(presets.spice_small(ELEMENTS, l_max=l_max, avg_num_neighbors=80.0))


def prepare(options: argparse.Namespace) -> None:
    """Compile the packages that are not there yet."""
    folder = Path(options.work)
    folder.mkdir(parents=True, exist_ok=True)
    for l_max in options.l_max:
        path = folder / f"lmax{l_max}.pt2"
        if not path.exists():
            start = time.perf_counter()
            mlip_export.compile(model(l_max), path)
            print(f"l_max={l_max}: compiled in {time.perf_counter() - start:.0f} s", flush=True)


def steps(options: argparse.Namespace) -> tuple[dict[str, dict[int, Callable[[], Any]]], dict[str, int]]:
    """A call per way and l_max that returns energy and forces, and the size of the system."""
    atoms = ase.io.read(Path(options.data) / "systems" / f"{options.system}.xyz")
    positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    graph = localgraph.neighbors(positions, 6.0, cell, tuple(map(bool, atoms.pbc)))
    vectors = localgraph.edge_vectors(positions, graph, cell)
    ways: dict[str, dict[int, Callable[[], Any]]] = {"compiled": {}, "eager": {}}
    for l_max in options.l_max:
        calculator = Calculator(Path(options.work) / f"lmax{l_max}.pt2")
        potential = calculator.potential
        types = potential.types_of(atoms.get_chemical_symbols())
        rest = (vectors, graph.edge_index, types)

        def compiled(potential: Any = potential, rest: Any = rest, limit: int = calculator.max_edges) -> Any:
            energies, g = evaluate(potential, *rest, len(ELEMENTS), limit)
            return energies.sum(), localgraph.forces(g, graph)

        inference = model(l_max).for_inference()

        def eager(inference: Any = inference, rest: Any = rest) -> Any:
            energies, g = localgraph.energies_and_edge_forces(inference, *rest)
            return energies.sum(), localgraph.forces(g, graph)

        ways["compiled"][l_max], ways["eager"][l_max] = compiled, eager
        for a, b in zip(compiled(), eager(), strict=True):
            torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)
    return ways, {"atoms": len(atoms), "edges": vectors.shape[0]}


def timing(options: argparse.Namespace) -> None:
    """Least times of all rounds, as a table and JSON."""
    torch.set_num_threads(options.threads)
    ways, size = steps(options)
    rows = []
    for way, calls in ways.items():
        best = dict.fromkeys(calls, float("inf"))
        for _ in range(options.rounds):
            for l_max, call in calls.items():
                begin = time.perf_counter()
                call()
                best[l_max] = min(best[l_max], time.perf_counter() - begin)
        first = best[min(best)]
        for l_max, seconds in best.items():
            rows.append({"way": way, "l_max": l_max, "ms": seconds * 1e3, "over_first": seconds / first})
            print(f"{way:8} l_max={l_max}: {seconds * 1e3:8.1f} ms, × {seconds / first:.2f}", flush=True)
    if options.output:
        record = {
            "command": " ".join(["python benchmarks/bench_lmax.py", *sys.argv[1:]]),
            "system": options.system,
            **size,
            "threads": options.threads,
            "torch": torch.__version__,
            "rows": rows,
        }
        part = Path(options.output + ".part")
        part.write_text(json.dumps(record, indent=1) + "\n")
        os.replace(part, options.output)


def profile(options: argparse.Namespace) -> None:
    """Time per kernel of the packages, the dearest first."""
    torch.set_num_threads(options.threads)
    ways, _ = steps(options)
    for l_max, call in ways[options.way].items():
        with torch.profiler.profile() as seen:
            for _ in range(options.rounds):
                call()
        events = sorted(seen.key_averages(), key=lambda e: -e.self_cpu_time_total)[: options.top]
        print(f"l_max={l_max}")
        for event in events:
            per_step = event.self_cpu_time_total / options.rounds / 1e3
            print(f"  {per_step:8.2f} ms  {event.count // options.rounds:4} ×  {event.key}")


def plot(options: argparse.Namespace) -> None:
    """The curve of a record, as a PNG of the same name."""
    import matplotlib.pyplot as plt

    record = json.loads(Path(options.record).read_text())
    figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    for way in dict.fromkeys(row["way"] for row in record["rows"]):
        rows = [row for row in record["rows"] if row["way"] == way]
        axes.plot([row["l_max"] for row in rows], [row["ms"] for row in rows], "o-", label=way)
    axes.set(xlabel="l_max", ylabel="energy and forces, ms", ylim=(0, None), title=record["system"])
    axes.legend()
    figure.savefig(Path(options.record).with_suffix(".png"), dpi=150)


def main() -> None:
    here = Path(__file__).resolve().parents[1]
    data = os.environ.get("MLIP_SHARED_DATA", str(here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for name, run in (("prepare", prepare), ("time", timing), ("profile", profile)):
        p = commands.add_parser(name)
        p.add_argument("--work", default="bench-out")
        p.add_argument("--data", default=data)
        p.add_argument("--system", default="water_192")
        p.add_argument("--l-max", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
        p.add_argument("--threads", type=int, default=1)
        p.add_argument("--rounds", type=int, default=10)
        p.set_defaults(run=run)
    commands.choices["time"].add_argument("--output", help="write the rows as JSON")
    commands.choices["profile"].add_argument("--way", choices=["compiled", "eager"], default="compiled")
    commands.choices["profile"].add_argument("--top", type=int, default=25)
    p = commands.add_parser("plot")
    p.add_argument("record", help="what time --output wrote")
    p.set_defaults(run=plot)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
