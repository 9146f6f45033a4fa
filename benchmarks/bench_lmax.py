"""Cost of an Allegro energy-and-forces step against l_max, channels fixed: spice_small with l_max 1 to 6 on one system.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000 \\
        python -m benchmarks.bench_lmax --work out --threads 1 --output benchmarks/results/lmax_1.json

Exports one model per l_max (random weights, fixed seed; those in ``--work`` are reused), finds the graph once, and
asks for energies and forces, all values of l_max in turn: of the exported models, then of the same models in eager
PyTorch. The ratios to the smallest l_max are min over min in one run. The tunables keep the allocator from returning
pages.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from benchmarks.common import DATA, least_times, write_record
from benchmarks.providers import INFERENCE, Case
from benchmarks.systems import read

WAYS = {"compiled": "exported", "eager": "eager"}


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=Path("bench-out"))
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--system", default="water_192")
    parser.add_argument("--l-max", type=int, nargs="+", default=[1, 2, 3, 4, 5, 6])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    system, rows = read(options.system, options.data), []
    cases = {
        degree: Case("small", system, exported=options.work / f"lmax{degree}.pt2", l_max=degree)
        for degree in options.l_max
    }
    ways = {way: {str(d): INFERENCE[name](case) for d, case in cases.items()} for way, name in WAYS.items()}
    for degree in map(str, cases):
        for a, b in zip(*(ways[way][degree]() for way in WAYS), strict=True):
            torch.testing.assert_close(a, b, atol=5e-3, rtol=1e-4)
    for way, calls in ways.items():
        times = least_times(calls, float("inf"), options.rounds)
        first = times[str(min(cases))].wall
        for degree, least in times.items():
            rows.append(dict(way=way, l_max=int(degree), ms=least.wall * 1e3, over_first=least.wall / first))
            print(
                f"{way:8} l_max={degree}: {least.wall * 1e3:8.1f} ms, × {least.wall / first:.2f}", flush=True
            )
    size = {"system": options.system, "atoms": system.atoms, "edges": system.edges}
    write_record(options.output, **size, threads=options.threads, rows=rows)


if __name__ == "__main__":
    main()
