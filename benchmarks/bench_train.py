"""Time of one training step on real SPICE frames, eager and compiled, beside nequip-allegro's, eager and compiled.

    OMP_NUM_THREADS=1 python -m benchmarks.bench_train --presets small --frames 4 --threads 1 2 --json train.json
        [--reference-python PYTHON]

A step is: gradients set to None, energies, forces and loss of a batch, its backward, one AdamW step. Every provider
gets the same batches (neighbor lists made beforehand), the same weights and the same hyperparameters, in a process of
its own; losses and gradient norms of the first batch are compared. ``nequip-allegro compiled`` is its train-time
compile. Reported is the least time of a step per batch and the steps per second over all batches, at the better of
the thread counts. ``--reference-python`` is an interpreter with nequip-allegro and our packages where this one has
no nequip-allegro. Every process keeps freed memory; rounds of the batches alternate between the processes.
"""

from __future__ import annotations

import argparse
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, ROOT, Worker, write_record
from benchmarks.systems import CUTOFF, PRESETS, tensors_of

OURS = ("full", "forces", "eager")
REFERENCE = ("nequip-allegro eager", "nequip-allegro compiled")
WORKER = str(ROOT / "benchmarks" / "worker.py")


def prepare(arguments: argparse.Namespace, folder: Path) -> list[int]:
    """Write the batches, with energies less their atoms' fitted energies; return the number of edges of each."""
    import numpy as np
    import torch
    from benchmarks.worker import ALL_ELEMENTS
    from safetensors.torch import save_file

    from mlip_train.config import BatchConfig, SourceConfig, StatisticsConfig
    from mlip_train.data.build import build_table
    from mlip_train.data.loader import make_loader
    from mlip_train.data.plan import Plan
    from mlip_train.data.statistics import compositions, gather_statistics

    source = SourceConfig(path=str(arguments.data / "spice" / "real_spice.hdf5"), charge=0)
    cutoffs = torch.full((len(ALL_ELEMENTS), len(ALL_ELEMENTS)), CUTOFF, dtype=torch.float64)
    table = build_table([source], ALL_ELEMENTS, cutoffs, folder / "cache")
    rows = np.arange(len(table))
    shifts = gather_statistics(table, StatisticsConfig()).energy_shifts
    table.arrays["energy"] = table.arrays["energy"] - compositions(table, rows) @ shifts
    small = rows[table.edge_counts <= arguments.max_edges]
    batches = make_loader(Plan(table, small, BatchConfig(frames=arguments.frames, buckets=0)))
    edges = []
    for k, batch in zip(range(arguments.batches), batches, strict=False):
        save_file({n: t.contiguous() for n, t in tensors_of(batch).items()}, folder / f"batch{k}.safetensors")
        edges.append(batch.edges.shape[1])
    return edges


def compare(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Time all providers at all numbers of threads on one preset."""
    with tempfile.TemporaryDirectory() as name:
        source, edges = Path(name) / "model.safetensors", prepare(arguments, Path(name))
        path = [arguments.reference_python, "-m", "benchmarks.worker", "weights", "--preset", preset]
        subprocess.run([*path, "--source", str(source)], check=True, cwd=ROOT)
        workers: dict[tuple[str, int], Worker] = {}
        rows: dict[tuple[str, int], dict[str, Any]] = {}
        for key in ((p, n) for p in arguments.providers for n in arguments.threads):
            provider, threads = key
            python = arguments.reference_python if provider in REFERENCE else sys.executable
            options = ["--provider", provider, "--threads", threads, "--preset", preset]
            options += ["--source", source, "--folder", name]
            worker = Worker(WORKER, ["training", *options], threads, python)
            first = worker.read()
            rows[key] = {"provider": provider, "threads": threads}
            rows[key] |= first or {"failed": f"exit status {worker.close()}"}
            print(rows[key], flush=True)
            if first:
                workers[key] = worker
        best: dict[tuple[str, int], list[float]] = {}
        rounds, end = 0, time.perf_counter() + arguments.seconds
        while rounds < 3 or time.perf_counter() < end:
            for key, worker in list(workers.items()):
                got = worker.ask()
                if got is None:
                    rows[key]["failed"] = f"exit status {workers.pop(key).close()}"
                    continue
                best[key] = [
                    min(pair) for pair in zip(best.get(key, got["times"]), got["times"], strict=True)
                ]
                rows[key]["peak_mib"] = got["peak_mib"]
            rounds += 1
        for key, worker in workers.items():
            worker.close()
            rows[key]["step_ms"] = [round(1e3 * t, 1) for t in best[key]]
            rows[key]["steps_per_s"] = len(best[key]) / sum(best[key])
    finished = [r for r in rows.values() if "failed" not in r]
    for row in finished:
        pairs = zip(row["values"], finished[0]["values"], strict=True)
        row["difference"] = max(abs(x / y - 1) for a, b in pairs for x, y in zip(a, b, strict=True))
        if row["difference"] > 1e-3:
            raise SystemExit(f"{row['provider']} must have the loss of {finished[0]['provider']}, got {row}")
    names = dict.fromkeys(r["provider"] for r in finished)
    rates = {p: max(r["steps_per_s"] for r in finished if r["provider"] == p) for p in names}
    sizes = {"preset": f"spice_{preset}", "frames": arguments.frames, "edges": edges, "rounds": rounds}
    return sizes | {"rows": list(rows.values()), "steps_per_s": rates}


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["small"], choices=PRESETS)
    parser.add_argument("--providers", nargs="+", default=[*OURS, *REFERENCE], choices=[*OURS, *REFERENCE])
    parser.add_argument("--frames", type=int, default=4, help="of a batch")
    parser.add_argument("--max-edges", type=int, default=10**9, help="leave out frames with more edges")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing for all providers")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--reference-python", default=sys.executable)
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    results = [compare(preset, arguments) for preset in arguments.presets]
    for result in results:
        full = result["steps_per_s"].get("full", math.nan)
        print(
            f"\n{result['preset']}: {result['edges']} edges\n| step | steps/s | full over it |\n|---|---|---|"
        )
        for provider, rate in result["steps_per_s"].items():
            print(f"| {provider} | {rate:.2f} | {full / rate:.2f} |")
    write_record(arguments.json, results=results)


if __name__ == "__main__":
    main()
