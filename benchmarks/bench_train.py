"""Time of one training step on real SPICE frames: eager, the paper's way, and the whole step in one graph.

    OMP_NUM_THREADS=1 python benchmarks/bench_train.py --presets small --ways eager whole --frames 4 --json train.json

Each way sees the same batches and the same weights; its loss is compared with eager's first. Reported are compile
seconds, the least time of a step over many rounds (interleaved between the ways), and ratios to eager. Memory pages are
not tuned. ``--lock`` names a file that is held locked while steps are timed, for machines that are shared.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import localgraph
from mlip_train.batching import BatchLoader
from mlip_train.compile import compile_step
from mlip_train.config import BatchConfig, LossConfig, SourceConfig, StatisticsConfig
from mlip_train.statistics import gather_statistics
from mlip_train.table import build_table, elements_in
from mlip_train.verify import compare

SPICE = Path(os.environ.get("MLIP_SHARED_DATA", Path(__file__).parents[1] / ".." / "shared" / "data"))
PRESETS: dict[str, dict[str, Any]] = {
    "small": {"l_max": 2},
    "medium": {"l_max": 3},
    "large": {
        "l_max": 3,
        "num_layers": 3,
        "num_scalar_features": 128,
        "num_tensor_features": 128,
        "latent_depth": 3,
        "latent_width": 512,
    },
}


@contextlib.contextmanager
def held(path: str | None) -> Iterator[None]:
    if path is None:
        yield
        return
    with open(path, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--presets", nargs="+", default=["small"], choices=PRESETS)
    parser.add_argument("--ways", nargs="+", default=["eager", "whole"], choices=["eager", "paper", "whole"])
    parser.add_argument("--frames", type=int, default=4)
    parser.add_argument("--batches", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--lock")
    parser.add_argument("--json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    source = SourceConfig(path=str(SPICE / "spice" / "real_spice.hdf5"), charge=0)
    names = elements_in([source])
    model_type = localgraph.model_class("allegro")
    cutoffs = torch.full((len(names), len(names)), 6.0, dtype=torch.float64)
    rows = []
    with tempfile.TemporaryDirectory() as cache:
        table = build_table([source], names, cutoffs, cache)
        loader = BatchLoader(
            table, np.arange(len(table)), BatchConfig(frames=arguments.frames, buckets=0), prefetch=0
        )
        batches = [b for _, b in zip(range(arguments.batches), loader, strict=False)]
        s = gather_statistics(table, StatisticsConfig())
        for preset in arguments.presets:
            torch.manual_seed(0)
            constants = {"avg_num_neighbors": s.avg_num_neighbors, "energy_shifts": s.energy_shifts.tolist()}
            model = model_type.from_config(
                {
                    "type_names": names,
                    "cutoff": 6.0,
                    "energy_scales": s.force_rms,
                    **constants,
                    **PRESETS[preset],
                }
            )
            rows.append(measure(model, preset, batches, arguments))
            print(json.dumps(rows[-1], indent=2), flush=True)
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=2) + "\n")


def measure(model: Any, preset: str, batches: list[Any], arguments: argparse.Namespace) -> dict[str, Any]:
    loss, weights = LossConfig(), torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)
    eager = compile_step(model, loss, "eager")
    steps, row = (
        {},
        {"preset": preset, "threads": arguments.threads, "edges": [b.edge_index.shape[1] for b in batches]},
    )
    for way in arguments.ways:
        start = time.perf_counter()
        steps[way] = compile_step(model, loss, way)
        difference = compare(steps[way], eager, model, batches[0], weights)
        steps[way](batches[0], weights).loss.backward()
        row[way] = {"compile_s": round(time.perf_counter() - start, 1), **difference._asdict()}
        print(way, row[way], flush=True)
    best = {way: [float("inf")] * len(batches) for way in steps}
    with held(arguments.lock):
        end = time.perf_counter() + arguments.seconds
        while time.perf_counter() < end:
            for way, step in steps.items():
                for i, batch in enumerate(batches):
                    model.zero_grad()
                    start = time.perf_counter()
                    step(batch, weights).loss.backward()
                    best[way][i] = min(best[way][i], time.perf_counter() - start)
    for way, times in best.items():
        row[way] |= {
            "step_ms": [round(1e3 * t, 1) for t in times],
            "us_per_edge": 1e6 * sum(times) / sum(row["edges"]),
        }
        if "eager" in best:
            row[way]["eager_over_this"] = sum(best["eager"]) / sum(times)
    return row


if __name__ == "__main__":
    main()
