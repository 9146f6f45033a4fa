"""Times on an H100 and an H200, predicted from the code that Inductor generates, to be proved wrong by the GPU day.

    python -m benchmarks.gpu.predict                          # from counted.json: writes predicted.json, at once
    python -m benchmarks.gpu.predict --count                  # counts every case again first, a quarter of an hour
    python -m benchmarks.gpu.predict --count training small   # counts one case again

``counted.json`` holds bytes, and operations of products, of every kernel. A kernel takes the longest of its bytes at
the device's bandwidth in ``DEVICES``, its operations at ``RATES``, and its launch; caches, the neighbor list and the
host's work are left out. Bandwidths, rates and launches are assumptions, as is all of ``estimates``.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_json, write_text

COUNTED, PREDICTED = (Path(__file__).with_name(f"{name}.json") for name in ("counted", "predicted"))
DEVICES = {"H100": 2.55e12, "H200": 0.75 * 4.8e12}
"""Bytes per second, assumed: about three quarters of what the maker names. Both devices compute alike."""
RATES = {"float32": 48e12, "TF32": 300e12}
"""Operations per second of large matrix products, assumed."""
LAUNCH, GRAPHED = 3e-6, 1e-6
"""Least seconds of a kernel, launched on its own and in a CUDA graph, assumed."""
PADDED = 1.04
"""Edges and atoms of a CUDA graph over those of the system."""
FUSED = 1.5
"""Operations of fused layers over those of the products that they replace: the backward kernel repeats the forward."""
SMALL, LARGE = 192, 5184
"""Atoms of the boxes of water of which times are predicted."""
CASES = (("inference", "small"), ("inference", "medium"), ("inference", "large"), ("training", "small"))
CASES += (("chained", "small"), ("chained", "medium"), ("fused", "small"), ("fused-chained", "small"))
LABELS = {"inference": "", "chained": ", chained", "fused": ", fused", "fused-chained": ", fused and chained"}
"""What the names of predictions say of a graph."""

Kernels = Sequence[Sequence[int]]
"""Bytes, operations, and number of kernels that have them."""


def resized(inputs: list[Any], sizes: dict[int, int]) -> list[Any]:
    """Return shapes, contiguous strides and dtypes of inputs, with dimensions replaced."""
    found = []
    for shape, _, dtype in inputs:
        new = [sizes.get(n, n) for n in shape]
        found.append((new, [math.prod(new[k + 1 :]) for k in range(len(new))], dtype))
    return found


def count(graph: str, preset: str) -> dict[str, Any]:
    """Return the kernels of a graph by size; this process takes itself for one with a GPU afterwards."""
    from ci.regressions.h100 import pretend
    from ci.regressions.lowered import ATOMS, FRAMES, GRAPHS, NEIGHBORS
    from ci.regressions.replay import run

    pretend()
    source, inputs, edges = GRAPHS[graph](preset)
    whole = f"{FRAMES} frames" if graph == "training" else f"{ATOMS} atoms"
    given = {whole: inputs}
    if graph != "training":
        boxes = {f"{SMALL} atoms": (SMALL, SMALL * NEIGHBORS)}
        if graph == "inference":
            rows, slots = (math.ceil(PADDED * n) for n in boxes[f"{SMALL} atoms"])
            boxes[f"{SMALL} atoms in a CUDA graph"] = rows, slots
        for name, sizes in boxes.items():
            given[name] = resized(inputs, dict(zip((ATOMS, ATOMS * NEIGHBORS), sizes, strict=True)))
    costs = {name: run(source, each) for name, each in given.items()}
    kernels = {name: Counter(cost.kernels) for name, cost in costs.items()}
    return {
        "peak_bytes_per_edge": costs[whole].memory.peak / edges,
        "kernels": {name: [[*kernel, n] for kernel, n in found.items()] for name, found in kernels.items()},
    }


def seconds(kernels: Kernels, bandwidth: float, rate: float, least: float = LAUNCH) -> float:
    """Return the sum over kernels of the longest of their bytes, their products' operations, and ``least``."""
    return sum(n * max(size / bandwidth, operations / rate, least) for size, operations, n in kernels)


def operations_of(kernels: Kernels) -> int:
    """Return the operations of all products."""
    return sum(operations * n for _, operations, n in kernels)


def predict(counted: Mapping[str, Any], bandwidth: float) -> dict[str, float]:
    """Return the predictions for a device from what ``count`` returned by "graph preset"."""
    found: dict[str, float] = {}
    for case, counts in counted.items():
        (graph, preset), kernels = case.split(), counts["kernels"]
        if graph == "training":
            for precision, rate in RATES.items():
                name = f"{preset}, training step of 256 frames, {precision}, ms"
                found[name] = 1e3 * seconds(kernels["256 frames"], bandwidth, rate)
            continue
        fused = graph.startswith("fused")
        precisions = ["TF32"] if fused else list(RATES)  # fused layers round as TF32 does, in every program
        for atoms in (SMALL, LARGE):
            size = f"{atoms} atoms"
            for precision in precisions:
                time = seconds(kernels[size], bandwidth, RATES[precision])
                if (
                    fused
                ):  # their operations are not counted: those that are missing, not overlapped with bytes
                    unfused = counted[f"inference {preset}"]["kernels"][size]
                    hidden = operations_of(unfused) - operations_of(kernels[size])
                    time += FUSED * hidden / RATES[precision]
                found[f"{preset}, {atoms:,} atoms, {precision}{LABELS[graph]}, ms"] = 1e3 * time
        found[f"{preset}, {precisions[0]}{LABELS[graph]}, peak kB per edge"] = (
            counts["peak_bytes_per_edge"] / 1e3
        )
        if graph == "inference":
            time = seconds(kernels[f"{SMALL} atoms in a CUDA graph"], bandwidth, RATES["float32"], GRAPHED)
            found[f"{preset}, {SMALL} atoms, float32, CUDA graph, ms"] = 1e3 * time
    return found | estimates()


def estimates() -> dict[str, float]:
    """Return what no count tells: shares and ratios, the same for every device."""
    return {
        "to_atoms, 468,000 edges, share of copy bandwidth": 0.7,
        "ASE over the bare call, small, 5,184 atoms": 4.0,
    }


def count_again(cases: Sequence[tuple[str, ...]]) -> None:
    """Count cases, each in a process of its own, and write ``counted.json`` after each."""
    for case in cases:
        command = [sys.executable, "-W", "ignore", "-m", "benchmarks.gpu.predict", "--print", *case]
        done = subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        counted = json.loads(COUNTED.read_text()) if COUNTED.exists() else {}
        counted[" ".join(case)] = json.loads(done.stdout.splitlines()[-1])
        lines = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in counted.items())
        write_text(COUNTED, "{\n" + ",\n".join(lines) + "\n}\n")
        print(f"{' of '.join(case)} counted", file=sys.stderr, flush=True)


def rounded(counted: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Return the predictions for every device, with three digits."""
    return {
        device: {name: float(f"{value:.3g}") for name, value in predict(counted, bandwidth).items()}
        for device, bandwidth in DEVICES.items()
    }


def main() -> None:
    """Predict, print and write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    case = "GRAPH PRESET"
    parser.add_argument("--count", nargs="*", metavar=case, help="count every case again first, or one")
    parser.add_argument("--print", nargs=2, metavar=tuple(case.split()), help="print one count as JSON")
    options = parser.parse_args()
    if options.print:
        print(json.dumps(count(*options.print)))
        return
    if options.count is not None:
        if options.count and tuple(options.count) not in CASES:
            parser.error(f"--count must be one of {', '.join(map(' '.join, CASES))}, got {options.count!r}")
        count_again([tuple(options.count)] if options.count else CASES)
    counted = json.loads(COUNTED.read_text())
    found = rounded({name: counted[name] for name in map(" ".join, CASES)})
    for name, value in found["H100"].items():
        print(f"{name:52} {value:8.3g} {found['H200'][name]:8.3g}")
    write_json(PREDICTED, found)


if __name__ == "__main__":
    main()
