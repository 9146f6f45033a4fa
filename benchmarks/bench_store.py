"""Growth of a store with its number of frames: writing, opening, checking, a first pass over every frame, reading.

    python -m benchmarks.bench_store --folder /scratch                  # 10⁴, 10⁵ and 10⁶ frames, 2 workers
    python -m benchmarks.bench_store --folder /scratch --frames 10000 --stages write batches --json data_batches.json

synthesizes stores of molecules of 10 to 54 atoms (32 on average, 50 frames each, atoms on a jittered grid of 1.5 Å) in
float32, runs every stage in a process of its own, and records wall-clock and processor seconds (of all workers) and the
peak of resident memory of one process. The first pass is mlip-train's: it validates every frame, counts edges within
6 Å, finds overlapping atoms and gathers statistics, in workers. ``plan`` is a later start: the cached table, the
statistics of the model and the batches of an epoch. ``batches`` times a batch of 256 shuffled frames as one loader
worker makes it. ``extxyz`` is the streamed conversion of an extended XYZ file of the first frames.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from benchmarks.common import RESULTS, alone, least_times, write_record

PER_MOLECULE, BATCH, CUTOFF = 50, 256, 6.0
XYZ_FRAMES = 20_000
GROWTH = ("write", "open", "check", "first pass", "plan", "read", "extxyz")


def blocks(frames: int) -> Iterator[Any]:
    """Yield ``frames`` frames of random molecules, a molecule at a time."""
    from spice_data.records import Block

    rng = np.random.default_rng(0)
    grid = np.stack(np.meshgrid(*[np.arange(4)] * 3, indexing="ij"), -1).reshape(-1, 3) * 1.5
    for i in range(frames // PER_MOLECULE):
        n = int(rng.integers(10, 55))
        shape = (PER_MOLECULE, n, 3)
        positions = grid[:n] + 0.1 * rng.standard_normal(shape, np.float32)
        numbers = rng.choice([1, 6, 7, 8], n).astype(np.int64)
        energies = rng.standard_normal(PER_MOLECULE)
        yield Block(
            f"m{i}",
            f"subset {i % 6}",
            "",
            0,
            numbers,
            positions.astype(np.float32),
            rng.standard_normal(shape, np.float32),
            energies,
            np.full(PER_MOLECULE, np.nan),
            np.arange(PER_MOLECULE),
        )


def write(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from spice_data import StoreWriter
    from spice_data.store import Units

    with StoreWriter(path, units=Units(dtype="f4"), overwrite=True) as writer:
        for block in blocks(frames):
            writer.write(block)
    return {"bytes": path.stat().st_size, "atoms": writer.statistics.atoms}


def open_store(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from spice_data import Store

    with Store(path) as store:
        assert len(store) == frames
    return {}


def check(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from spice_data import Store

    with Store(path) as store:
        store.verify()
    return {}


def table_of(path: Path, workers: int, keep_edges: bool = False) -> Any:
    """Return mlip-train's table of all frames; the first call validates and counts every frame."""
    import torch

    from mlip_train.config import SourceConfig
    from mlip_train.data.build import build_table

    torch.set_num_threads(1)
    cutoffs = torch.full((4, 4), CUTOFF, dtype=torch.float64)
    cache = path.with_suffix(".cache")
    options = {"workers": workers, "keep_edges": keep_edges}
    return build_table([SourceConfig(path=str(path))], ["H", "C", "N", "O"], cutoffs, cache, **options)


def first_pass(path: Path, frames: int, workers: int) -> dict[str, Any]:
    table = table_of(path, workers)
    size = sum(column.nbytes for column in table.arrays.values())
    return {"edges": int(table.edge_counts.sum()), "table_bytes": size}


def plan(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from mlip_train.config import BatchConfig, StatisticsConfig
    from mlip_train.data.plan import Plan
    from mlip_train.data.statistics import gather_statistics

    table = table_of(path, 0)
    statistics = gather_statistics(table, StatisticsConfig())
    batches = Plan(table, np.arange(frames), BatchConfig(frames=BATCH)).batches
    return {"batches": len(batches), "avg_num_neighbors": statistics.avg_num_neighbors}


def collate(path: Path, frames: int, workers: int) -> dict[str, Any]:
    """Return least processor times of making a batch of 256 shuffled frames, and of its parts."""
    from mlip_train.config import BatchConfig
    from mlip_train.data import batches
    from mlip_train.data.frames import type_lookup
    from mlip_train.data.plan import Plan

    table, cached = table_of(path, 0), table_of(path, 0, keep_edges=True)
    rows = Plan(table, np.arange(frames), BatchConfig(frames=BATCH)).batches[0]
    found = batches._read(table, rows)
    types = type_lookup(table.type_names)[found.numbers]
    calls = {
        "read": lambda: batches._read(table, rows),
        "lists": lambda: batches._lists(table, rows, found, types),
        "batch": lambda: batches.collate(table, rows),
        "batch of cached lists": lambda: batches.collate(cached, rows),
    }
    least = {name: 1e3 * times.cpu for name, times in least_times(calls, 20.0).items()}
    edges = int(table.edge_counts[rows].sum())
    travels = sum(tensor.nbytes for tensor in batches.collate(table, rows))
    return {"ms": least, "edges": edges, "ns_per_edge": 1e6 * least["lists"] / edges, "bytes": travels}


def read(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from spice_data import Store

    with Store(path) as store:
        order = store.shard(0, max(1, frames // 10_000), seed=1)
        rates = []
        for k in range(0, len(order) - 999, 1000):
            start = time.perf_counter()
            for j in range(k, k + 1000, 100):
                store.batch(order[j : j + 100])
            rates.append(1000 / (time.perf_counter() - start))
    return {"frames_read": len(order), "best_frames_per_second": max(rates)}


def extxyz(path: Path, frames: int, workers: int) -> dict[str, Any]:
    from spice_data import Store, convert, write_xyz

    count = min(frames, XYZ_FRAMES)
    text, target = path.with_suffix(".xyz"), path.with_name("from_xyz.store")
    with Store(path) as store:
        write_xyz(text, (store[i] for i in range(count)), overwrite=True)
    start, cpu = time.perf_counter(), time.process_time()
    convert(text, target, overwrite=True).close()
    seconds = {"convert_seconds": time.perf_counter() - start, "convert_cpu": time.process_time() - cpu}
    result = {"frames_converted": count, "text_bytes": text.stat().st_size, **seconds}
    text.unlink()
    target.unlink()
    return result


CALLS = dict(zip(GROWTH, (write, open_store, check, first_pass, plan, read, extxyz), strict=True)) | {
    "batches": collate
}


def measure(stage: str, path: Path, frames: int, workers: int) -> dict[str, Any]:
    """Run one stage in this process."""
    start = time.perf_counter()
    result = CALLS[stage](path, frames, workers)
    wall = time.perf_counter() - start
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = sum(u.ru_utime + u.ru_stime for u in (own, children))
    peak = max(own.ru_maxrss, children.ru_maxrss) / 1024
    return {"stage": stage, "frames": frames, "seconds": wall, "cpu": cpu, "peak_MB": peak, **result}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="where the stores are made, and removed")
    parser.add_argument("--stages", nargs="+", choices=CALLS, default=GROWTH, help="write first")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, default=RESULTS / "data_growth.json")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for frames in a.frames:
        path = a.folder / f"{frames}.store"
        for stage in a.stages:
            found = alone(measure, stage, path, frames, a.workers)
            rows.append({**found, "load": round(os.getloadavg()[0], 1)})
            print(json.dumps(rows[-1]), flush=True)
        path.unlink()
        shutil.rmtree(path.with_suffix(".cache"), ignore_errors=True)
    write_record(a.json, rows=rows)


if __name__ == "__main__":
    main()
