"""Times on an H100, predicted from the code that Inductor generates for it, to be proved wrong by the GPU day.

    python -m benchmarks.gpu.predict      # prints them, and writes predicted.json beside this file

A kernel takes the longest of its bytes at ``BANDWIDTH``, the operations of its products at ``RATES``, and its launch;
caches, the neighbor list and the host's work are left out. What comes from no count is in ``ESTIMATES``.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_json

PREDICTED = Path(__file__).with_name("predicted.json")
BANDWIDTH = 2.55e12
"""Bytes per second: three quarters of an H100's."""
RATES = {"float32": 48e12, "TF32": 300e12}
"""Operations per second of large matrix products."""
LAUNCH, GRAPHED = 3e-6, 1e-6
"""Least seconds of a kernel, launched on its own and in a CUDA graph."""
PADDED = 1.04
"""Edges and atoms of a CUDA graph over those of the system."""
ESTIMATES = {
    "to_atoms, 468,000 edges, share of copy bandwidth": 0.7,
    "small, 5,184 atoms, TF32, fused, ms": 5.3,
    "ASE over the bare call, small, 5,184 atoms": 4.0,
}
"""What the counted bytes do not tell: shares and ratios, and a kernel that computes its hidden layers twice."""


def resized(inputs: list[Any], sizes: dict[int, int]) -> list[Any]:
    """Return shapes, contiguous strides and dtypes of inputs, with dimensions replaced."""
    found = []
    for shape, _, dtype in inputs:
        new = [sizes.get(n, n) for n in shape]
        found.append((new, [math.prod(new[k + 1 :]) for k in range(len(new))], dtype))
    return found


def predict(graph: str, preset: str) -> dict[str, float]:
    """Return milliseconds of one graph of a preset; this process takes itself for one with a GPU afterwards."""
    from ci.regressions.h100 import pretend
    from ci.regressions.lowered import ATOMS, FRAMES, GRAPHS, NEIGHBORS
    from ci.regressions.replay import run

    pretend()
    source, inputs, edges = GRAPHS[graph](preset)
    whole = run(source, inputs)
    if graph == "training":
        seconds = whole.seconds(BANDWIDTH, RATES["float32"], LAUNCH)
        return {f"{preset}, training step of {FRAMES} frames, float32, ms": 1e3 * seconds}
    chained = ", chained" if graph == "chained" else ""
    found = {}
    for atoms in (192, ATOMS):
        cost = run(source, resized(inputs, {ATOMS: atoms, ATOMS * NEIGHBORS: atoms * NEIGHBORS}))
        for precision, rate in RATES.items():
            name = f"{preset}, {atoms:,} atoms, {precision}{chained}"
            found[f"{name}, ms"] = 1e3 * cost.seconds(BANDWIDTH, rate, LAUNCH)
    found[f"{preset}, float32{chained}, peak kB per edge"] = whole.memory.peak / edges / 1e3
    if chained:
        return found
    slots, rows = (math.ceil(PADDED * n) for n in (192 * NEIGHBORS, 192))
    cost = run(source, resized(inputs, {ATOMS: rows, ATOMS * NEIGHBORS: slots}))
    seconds = cost.seconds(BANDWIDTH, RATES["float32"], GRAPHED)
    return found | {f"{preset}, 192 atoms, float32, CUDA graph, ms": 1e3 * seconds}


CASES = (("inference", "small"), ("inference", "medium"), ("inference", "large"), ("chained", "small"))
CASES += (("chained", "medium"), ("training", "small"))


def main() -> None:
    """Predict every case in a process of its own, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs=2, metavar=("GRAPH", "PRESET"), help="print one case as JSON")
    options = parser.parse_args()
    if options.only:
        print(json.dumps(predict(*options.only)))
        return
    found: dict[str, float] = {}
    for case in CASES:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.predict", "--only", *case]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        found |= {name: float(f"{v:.3g}") for name, v in json.loads(done.stdout.splitlines()[-1]).items()}
        print(f"{' of '.join(case)} done", file=sys.stderr, flush=True)
    found |= ESTIMATES
    for name, value in found.items():
        print(f"{name:52} {value:8.3g}")
    write_json(PREDICTED, found)


if __name__ == "__main__":
    main()
