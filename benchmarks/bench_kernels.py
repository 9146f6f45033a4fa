"""Time of each equitensor operator on the CPU over the bare memory traffic, and against plain formulations.

    GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000 \\
        python -m benchmarks.bench_kernels --threads 1 --json benchmarks/results/kernels_1.json

The tunables keep the allocator from returning pages, whose faults would otherwise be timed on every side. Every
provider of an operator runs in turn within one loop; a time is the least of all rounds and a ratio is min over min of
one run. The floor of an operator is the time to read its operands once (a sum) plus the time to write its result once
(a fill), into buffers that are reused. ``test_kernels.py`` asks the same of smaller operands.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from benchmarks.common import least_times, write_record
from torch import Tensor

import equitensor as eq
from equitensor import reference
from equitensor.irreps import spherical_irreps
from equitensor.paths import coupling_table

EDGE_OPERATORS = ("to_atoms", "to_weights", "to_basis")
Calls = dict[str, Callable[[], Callable[[], object]]]


def floor(reads: int, writes: int) -> Callable[[], object]:
    """Return a call that reads and writes so many float32 once."""
    source, target = torch.ones(reads), torch.empty(writes)
    return lambda: (source.sum(), target.fill_(1.0))


def edge_calls(operator: str, edges: int, atoms: int, channels: int, l_max: int) -> Calls:
    """Return the providers of an edge–atom operator on random operands, each built on call."""
    g = torch.Generator().manual_seed(0)
    dims = [2 * ell + 1 for ell in range(l_max + 1)]
    centers = torch.randint(0, atoms, (edges,), generator=g).sort()[0]
    offsets = eq.row_offsets(centers, atoms)
    w = torch.randn(edges, len(dims), channels, generator=g)
    y = torch.randn(edges, sum(dims), generator=g)
    f = torch.randn(atoms, sum(dims), channels, generator=g)
    given = {"to_atoms": (w, y), "to_weights": (y, f), "to_basis": (w, f)}[operator]
    ours = partial(getattr(eq, operator), centers=centers, offsets=offsets)
    plain = partial(getattr(reference, operator), centers=centers, offsets=offsets, dims=dims)
    return {
        "memory": lambda: floor(sum(t.numel() for t in given), ours(*given).numel()),
        "compiled": lambda: checked(torch.compile(ours, fullgraph=True), given, plain),
        "eager": lambda: partial(ours, *given),
        "einsum": lambda: checked(torch.compile(plain, fullgraph=True), given, ours),
    }


def product_calls(atoms: int, channels: int, l_max: int) -> Calls:
    """Return the providers of the tensor product with all paths, each built on call."""
    g = torch.Generator().manual_seed(0)
    irreps, size = spherical_irreps(l_max), (l_max + 1) ** 2
    tp = eq.TensorProduct(irreps, irreps, irreps)
    x, y = (torch.randn(atoms, size, channels, generator=g) for _ in range(2))
    weights = torch.randn(tp.weight_shape(channels), generator=g)

    def einsum() -> Callable[[], object]:
        table = coupling_table(*tp.spec)
        dense = torch.zeros(tp.num_paths, size, size, size)
        dense[table.path, table.a, table.b, table.o] = torch.from_numpy(table.value).float()
        plain = lambda x, y, w: torch.einsum("pu,pabo,zau,zbu->zou", w, dense, x, y)  # noqa: E731
        return checked(torch.compile(plain, fullgraph=True), (x, y, weights), tp)

    def e3nn() -> Callable[[], object]:
        from e3nn import o3

        full = o3.Irreps([(channels, tuple(ir)) for ir in irreps])
        paths = [(p.in1, p.in2, p.out, "uuu", True) for p in tp.paths]
        options = dict(irrep_normalization="component", path_normalization="none")
        product = o3.TensorProduct(full, full, full, paths, **options)
        a, b, w = _flat(x, l_max), _flat(y, l_max), weights.flatten()
        return checked(product, (a, b, w), lambda *_: _flat(tp(x, y, weights), l_max))

    return {
        "memory": lambda: floor(x.numel() + y.numel(), x.numel()),
        "compiled": lambda: checked(torch.compile(tp.__call__, fullgraph=True), (x, y, weights), tp),
        "eager": lambda: partial(tp, x, y, weights),
        "einsum": einsum,
        "e3nn": e3nn,
    }


def checked(
    call: Callable[..., Tensor], given: tuple[Tensor, ...], other: Callable[..., Tensor]
) -> Callable[[], object]:
    """Return ``call`` on its operands, after comparison with another implementation."""
    torch.testing.assert_close(call(*given), other(*given), atol=1e-3, rtol=1e-4)
    return partial(call, *given)


def _flat(t: Tensor, l_max: int) -> Tensor:
    """Return components and channels in e3nn's order: the channels of one irrep together."""
    blocks = t.split([2 * ell + 1 for ell in range(l_max + 1)], 1)
    return torch.cat([b.transpose(1, 2).flatten(1) for b in blocks], 1)


def main() -> None:
    """Time, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--edges", type=int, default=16384)
    parser.add_argument("--atoms", type=int, default=400)
    parser.add_argument("--channels", type=int, default=64)
    parser.add_argument("--l-max", type=int, nargs="+", default=[2, 3])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=3.0, help="per operator")
    parser.add_argument("--json", type=Path, help="write the times here")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    names = {"memory": "floor", "compiled": "ours", "einsum": "einsum compiled"}
    found: dict[str, dict[str, float]] = {}
    with torch.no_grad():
        for l_max in options.l_max:
            shape = options.channels, l_max
            asked = {o: edge_calls(o, options.edges, options.atoms, *shape) for o in EDGE_OPERATORS}
            for operator, calls in (asked | {"tensor_product": product_calls(options.atoms, *shape)}).items():
                torch.compiler.reset()
                built = {label: calls[provider]() for provider, label in names.items()}
                times = least_times(built, options.seconds)
                row = {label: 1e3 * t.wall for label, t in times.items()}
                found[f"{operator} l_max={l_max}"] = row
                beside = (
                    f"{k} {t:.3f} ms (ours × {row['ours'] / t:.2f})" for k, t in row.items() if k != "ours"
                )
                print(f"{operator} l_max={l_max}: ours {row['ours']:.3f} ms ", *beside, flush=True)
    shown = {k: str(v) if isinstance(v, Path) else v for k, v in vars(options).items()}
    cpu = torch.backends.cpu.get_cpu_capability()
    write_record(options.json, options=shown, torch=torch.__version__, cpu=cpu, times_ms=found)


if __name__ == "__main__":
    main()
