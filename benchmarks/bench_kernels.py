"""Time of each equitensor operator on the CPU over the bare memory traffic, and against plain formulations.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000 \\
        python benchmarks/bench_kernels.py --threads 1 --json benchmarks/results/kernels_1.json

The tunables keep the allocator from returning pages, whose faults would otherwise be timed on every side.
Every provider of an operator runs in turn within one loop, so all see the same machine; a time is the
least of all rounds and a ratio is min over min of one run. The floor of an operator is the time to read its
operands once (a sum) plus the time to write its result once (a fill), into buffers that are reused.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial

import torch

import equitensor as eq
from equitensor import reference
from equitensor.paths import coupling_table, spherical_irreps


def rounds(providers: dict[str, Callable[[], object]], seconds: float) -> dict[str, float]:
    """Least time of each provider, ms, all run in turn until the time is up."""
    for f in providers.values():
        f()
    best = dict.fromkeys(providers, float("inf"))
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for name, f in providers.items():
            start = time.perf_counter()
            f()
            best[name] = min(best[name], time.perf_counter() - start)
    return {name: 1e3 * t for name, t in best.items()}


def floor(reads: int, writes: int) -> Callable[[], object]:
    """Read and write so many float32 once."""
    source, target = torch.ones(reads), torch.empty(writes)
    return lambda: (source.sum(), target.fill_(1.0))


def edge_operands(
    edges: int, atoms: int, channels: int, l_max: int
) -> tuple[torch.Tensor, torch.Tensor, list[int], dict[str, tuple[torch.Tensor, torch.Tensor]]]:
    """Random centers and their offsets, the sizes of the irreps, and the two operands of each operator."""
    g = torch.Generator().manual_seed(0)
    dims = [2 * ell + 1 for ell in range(l_max + 1)]
    centers = torch.randint(0, atoms, (edges,), generator=g).sort()[0]
    offsets = eq.row_offsets(centers, atoms)
    w = torch.randn(edges, len(dims), channels, generator=g)
    y = torch.randn(edges, sum(dims), generator=g)
    f = torch.randn(atoms, sum(dims), channels, generator=g)
    return centers, offsets, dims, {"to_atoms": (w, y), "to_weights": (y, f), "to_basis": (w, f)}


def edge_operators(edges: int, atoms: int, channels: int, l_max: int, seconds: float) -> dict[str, dict]:
    centers, offsets, dims, operands = edge_operands(edges, atoms, channels, l_max)
    result = {}
    for name, given in operands.items():
        torch.compiler.reset()
        ours = torch.compile(partial(getattr(eq, name), centers=centers, offsets=offsets), fullgraph=True)
        plain = torch.compile(
            partial(getattr(reference, name), centers=centers, offsets=offsets, dims=dims), fullgraph=True
        )
        torch.testing.assert_close(ours(*given), plain(*given), atol=1e-3, rtol=1e-4)
        reads, writes = sum(t.numel() for t in given), ours(*given).numel()
        result[f"{name} l_max={l_max}"] = rounds(
            {
                "floor": floor(reads, writes),
                "ours": lambda h=ours, a=given: h(*a),
                "einsum/index_add compiled": lambda h=plain, a=given: h(*a),
            },
            seconds,
        )
    return result


def product(atoms: int, channels: int, l_max: int, seconds: float) -> dict[str, dict]:
    g = torch.Generator().manual_seed(0)
    irreps = spherical_irreps(l_max)
    tp = eq.TensorProduct(irreps, irreps, irreps)
    x, y = (torch.randn(atoms, (l_max + 1) ** 2, channels, generator=g) for _ in range(2))
    weights = torch.randn(tp.weight_shape(channels), generator=g)
    table = coupling_table(*tp.spec)
    dense = torch.zeros(tp.num_paths, *[(l_max + 1) ** 2] * 3)
    dense[table.path, table.a, table.b, table.o] = torch.from_numpy(table.value).float()
    torch.compiler.reset()
    ours = torch.compile(tp.__call__, fullgraph=True)
    plain = torch.compile(
        lambda x, y, w: torch.einsum("pu,pabo,zau,zbu->zou", w, dense, x, y), fullgraph=True
    )
    torch.testing.assert_close(ours(x, y, weights), plain(x, y, weights), atol=1e-3, rtol=1e-4)
    providers = {
        "floor": floor(x.numel() + y.numel(), x.numel()),
        "ours": lambda: ours(x, y, weights),
        "einsum compiled": lambda: plain(x, y, weights),
    }
    return {f"tensor_product l_max={l_max}": rounds(providers, seconds)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, default=16384)
    parser.add_argument("--atoms", type=int, default=400)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--l-max", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="per operator")
    parser.add_argument("--json", help="write the times here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    found: dict[str, dict] = {}
    with torch.no_grad():
        for l_max in options.l_max:
            sizes = (options.channels, l_max, options.seconds)
            found |= edge_operators(options.edges, options.atoms, *sizes)
            found |= product(options.atoms, *sizes)
    for name, times in found.items():
        ours = times["ours"]
        others = "  ".join(
            f"{provider} {t:.3f} ms (ours × {ours / t:.2f})"
            for provider, t in times.items()
            if provider != "ours"
        )
        print(f"{name}: ours {ours:.3f} ms  {others}")
    if options.json:
        record = {
            "command": " ".join(["python benchmarks/bench_kernels.py", *sys.argv[1:]]),
            "options": vars(options),
            "torch": torch.__version__,
            "cpu": torch.backends.cpu.get_cpu_capability(),
            "times_ms": found,
        }
        with open(options.json + ".part", "w") as file:
            file.write(json.dumps(record, indent=1) + "\n")
        os.replace(options.json + ".part", options.json)


if __name__ == "__main__":
    main()
