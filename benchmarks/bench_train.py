"""Time of one training step on real SPICE frames, eager and compiled, beside nequip-allegro's, eager and compiled.

    OMP_NUM_THREADS=1 python benchmarks/bench_train.py --presets spice_small --frames 4 --threads 1 2 --json train.json
        [--reference-python PYTHON]

A step is: gradients set to None, energies, forces and loss of a batch, its backward, one AdamW step. Every provider
gets the same batches (neighbor lists made beforehand), the same weights and the same hyperparameters, in a process of
its own; losses and gradient norms of the first batch are compared. ``nequip-allegro compiled`` is its train-time
compile. Reported is the least time of a step per batch and the steps per second over all batches, at the better of
the thread counts. ``--reference-python`` is an interpreter with nequip-allegro and allegro-model where this one has
no nequip-allegro. Every process runs with a malloc that keeps its pages; rounds of the
batches alternate between the processes. On a shared machine ``--compile-in`` and ``--time-in`` name commands like
``queue cat``: started, they echo a line when the machine is to be had, and end when their input does.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import resource
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from bench_model import ELEMENTS, MALLOC, PRESETS, reference_model
from safetensors.torch import load_file, save_file

DATA = Path(os.environ.get("MLIP_SHARED_DATA", Path(__file__).parents[2] / "shared" / "data"))
OURS = {"eager": "eager", "paper": "forces", "whole": "full"}
REFERENCE = {"nequip-allegro eager": "eager", "nequip-allegro compiled": "compile"}
SEED, RATE = 1, 1e-3


def prepare(arguments: argparse.Namespace, folder: Path) -> list[int]:
    """Write the batches, with energies less their atoms' fitted energies; the number of edges of each."""
    import numpy as np

    from mlip_train.config import BatchConfig, SourceConfig, StatisticsConfig
    from mlip_train.data.build import build_table
    from mlip_train.data.loader import BatchLoader
    from mlip_train.data.statistics import compositions, gather_statistics

    source = SourceConfig(path=str(DATA / "spice" / "real_spice.hdf5"), charge=0)
    cutoffs = torch.full((len(ELEMENTS), len(ELEMENTS)), 6.0, dtype=torch.float64)
    table = build_table([source], ELEMENTS, cutoffs, folder / "cache")
    rows = np.arange(len(table))
    shifts = gather_statistics(table, StatisticsConfig()).energy_shifts
    table.arrays["energy"] = table.arrays["energy"] - compositions(table, rows) @ shifts
    small = rows[table.edge_counts <= arguments.max_edges]
    batches = BatchLoader(table, small, BatchConfig(frames=arguments.frames, buckets=0), prefetch=0)
    edges = []
    for k, batch in zip(range(arguments.batches), batches, strict=False):
        starts = [slice(table.atom_start[f], table.atom_start[f + 1]) for f in batch.row]
        positions = np.concatenate([table.arrays["positions"][s] for s in starts])
        tensors = batch._asdict() | {"positions": torch.from_numpy(positions)}
        save_file({n: t.contiguous() for n, t in tensors.items()}, folder / f"batch{k}.safetensors")
        edges.append(batch.edge_index.shape[1])
    return edges


def our_step(way: str, folder: Path) -> tuple[Any, Callable[[dict[str, Any]], Any]]:
    """The model and a function from a batch to its loss."""
    import localgraph
    from mlip_train.config import LossConfig
    from mlip_train.data.batches import Batch
    from mlip_train.steps.compiled import compile_step

    model, _ = localgraph.load_model(folder / "model.safetensors")
    step, weights = compile_step(model, LossConfig(), way), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    return model, lambda b: step(Batch(**{n: b[n] for n in Batch._fields}), weights).loss


def reference_step(mode: str, preset: str) -> tuple[Any, Callable[[dict[str, Any]], Any]]:
    """The same for nequip-allegro: mean squared errors of the energy per atom and of the force components."""
    from nequip.data import AtomicDataDict as Keys
    from nequip.model.utils import override_model_compile_mode

    with override_model_compile_mode(mode):
        model = reference_model(preset)
    model.train()

    def loss(b: dict[str, Any]) -> Any:
        out = model(
            {
                Keys.POSITIONS_KEY: b["positions"],
                Keys.EDGE_INDEX_KEY: b["edge_index"],
                Keys.ATOM_TYPE_KEY: b["types"],
                Keys.BATCH_KEY: b["frame"],
                Keys.NUM_NODES_KEY: b["atoms"].long(),
            }
        )
        energy = (out[Keys.TOTAL_ENERGY_KEY].flatten() - b["energy"]) / b["atoms"]
        return energy.square().mean() + (out[Keys.FORCE_KEY] - b["forces"]).square().mean()

    return model, loss


def make_weights(preset: str, folder: Path) -> None:
    """Write the reference's initial weights as one of our model files."""
    import localgraph
    from allegro_model.nequip import from_nequip

    localgraph.save_model(folder / "model.safetensors", from_nequip(reference_model(preset)))


def work(arguments: argparse.Namespace) -> None:
    """Compile one provider, say so on standard output, and time rounds of all batches as told on standard input."""
    folder = Path(arguments.folder)
    torch.set_num_threads(arguments.threads[0])
    (preset,) = arguments.presets
    batches = [load_file(path) for path in sorted(folder.glob("batch*.safetensors"))]
    start = time.perf_counter()
    (provider,) = arguments.providers
    if provider in OURS:
        model, loss_of = our_step(OURS[provider], folder)
    else:
        model, loss_of = reference_step(REFERENCE[provider], preset)
    torch.set_num_threads(arguments.threads[0])
    values = []
    for batch in batches:
        model.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        norm = math.sqrt(
            sum(float(p.grad.double().square().sum()) for p in model.parameters() if p.grad is not None)
        )
        values.append([float(loss.detach()), norm])
    print(json.dumps({"compile_s": round(time.perf_counter() - start, 1), "values": values}), flush=True)
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE)
    for _ in sys.stdin:
        times = []
        for batch in batches:
            start = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss_of(batch).backward()
            optimizer.step()
            times.append(time.perf_counter() - start)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
        print(json.dumps({"times": times, "peak_mib": peak}), flush=True)


@contextlib.contextmanager
def machine(command: str) -> Iterator[None]:
    """Hold the machine, or a share of it, through a command that echoes a line when it is to be had and waits."""
    if not command:
        yield
        return
    with subprocess.Popen(command.split(), stdin=-1, stdout=-1, text=True) as process:
        assert process.stdin is not None and process.stdout is not None
        process.stdin.write("go\n")
        process.stdin.flush()
        process.stdout.readline()
        yield
        process.stdin.close()


class Worker:
    """One provider at one number of threads, in a process of its own."""

    def __init__(self, provider: str, threads: int, preset: str, folder: Path, arguments: argparse.Namespace):
        python = arguments.reference_python if provider in REFERENCE else sys.executable
        command = [python, __file__, "--work", "--folder", str(folder), "--presets", preset]
        command += ["--providers", provider, "--threads", str(threads)]
        names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
        environment = os.environ | {"GLIBC_TUNABLES": MALLOC} | dict.fromkeys(names, str(threads))
        self.process = subprocess.Popen(command, env=environment, stdin=-1, stdout=-1, text=True)
        self.row: dict[str, Any] = {"provider": provider, "threads": threads}
        self.best: list[float] = []
        self.row |= self.answer()
        print(json.dumps(self.row), flush=True)

    def answer(self) -> dict[str, Any]:
        """What the process writes next; nothing means that it ended."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"failed": f"exit status {self.process.wait()}"}

    def round(self) -> None:
        """One more round of all batches."""
        if "failed" in self.row:
            return
        assert self.process.stdin is not None
        self.process.stdin.write("round\n")
        self.process.stdin.flush()
        self.row |= self.answer()
        times = self.row.pop("times")
        self.best = [min(pair) for pair in zip(self.best or times, times, strict=True)]

    def end(self) -> dict[str, Any]:
        """Let the process end; the row of the table."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()
        if self.best:
            self.row["step_ms"] = [round(1e3 * t, 1) for t in self.best]
            self.row["steps_per_s"] = len(self.best) / sum(self.best)
        return self.row


def compare(preset: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """All providers at all numbers of threads on one preset."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        edges = prepare(arguments, folder)
        command = [
            arguments.reference_python,
            __file__,
            "--make-weights",
            "--folder",
            name,
            "--presets",
            preset,
        ]
        subprocess.run(command, check=True)
        with machine(arguments.compile_in):
            workers = [
                Worker(p, n, preset, folder, arguments)
                for p in arguments.providers
                for n in arguments.threads
            ]
        with machine(arguments.time_in):
            rounds, end = 0, time.perf_counter() + arguments.seconds
            while rounds < 3 or time.perf_counter() < end:
                for worker in workers:
                    worker.round()
                rounds += 1
        rows = [worker.end() for worker in workers]
        print(json.dumps(rows), flush=True)
    finished = [r for r in rows if "failed" not in r]
    for row in finished:
        pairs = zip(row["values"], finished[0]["values"], strict=True)
        row["difference"] = max(abs(x / y - 1) for a, b in pairs for x, y in zip(a, b, strict=True))
        if row["difference"] > 1e-3:
            raise SystemExit(f"{row['provider']}: required the loss of {finished[0]['provider']}, got {row}")
    fastest = {
        p: max(r["steps_per_s"] for r in finished if r["provider"] == p)
        for p in {r["provider"] for r in finished}
    }
    return {
        "preset": preset,
        "frames": arguments.frames,
        "edges": edges,
        "rounds": rounds,
        "rows": rows,
        "steps_per_s": fastest,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--presets", nargs="+", default=["spice_small"], choices=PRESETS)
    parser.add_argument("--providers", nargs="+", default=[*OURS, *REFERENCE], choices=[*OURS, *REFERENCE])
    parser.add_argument("--frames", type=int, default=4, help="of a batch")
    parser.add_argument("--max-edges", type=int, default=10**9, help="leave out frames with more edges")
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0, help="of timing for all providers")
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--reference-python", default=sys.executable)
    parser.add_argument("--compile-in", default="", metavar="COMMAND")
    parser.add_argument("--time-in", default="", metavar="COMMAND")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--make-weights", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.work:
        return work(arguments)
    if arguments.make_weights:
        return make_weights(arguments.presets[0], Path(arguments.folder))
    results = [compare(preset, arguments) for preset in arguments.presets]
    for result in results:
        whole = result["steps_per_s"].get("whole")
        print(
            f"\n{result['preset']}: {result['edges']} edges\n| provider | steps/s | whole over it |\n|---|---|---|"
        )
        for provider, rate in result["steps_per_s"].items():
            print(f"| {provider} | {rate:.2f} | {whole / rate if whole else math.nan:.2f} |")
    if arguments.json:
        command = shlex.join(["python", *sys.argv])
        arguments.json.write_text(json.dumps({"command": command, "results": results}, indent=2) + "\n")


if __name__ == "__main__":
    main()
