"""equitensor's operators at the sizes of inference and training: time, bandwidth, share of a plain copy."""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any
from unittest import mock

import torch
import triton
from benchmarks.gpu.part import Part
from torch import Tensor

import equitensor as eq
from equitensor import reference
from equitensor.backends.triton import edge_atom, tensor_product, tuning
from equitensor.irreps import spherical_irreps

MODULES = (edge_atom, tensor_product)
"""Modules of kernels that have tile configs to choose from."""
QUICK = partial(triton.testing.do_bench, warmup=2, rep=10)
"""How tuning times a tile config here; by itself it takes ten times as long."""


def operators(edges: int, degree: int, channels: int, l_max: int, device: torch.device) -> dict[str, tuple]:
    """Return (call, operands, reference call or None) of every operator, atoms of ``degree`` edges."""
    g = torch.Generator(device).manual_seed(0)
    atoms, dims = max(1, edges // degree), [2 * ell + 1 for ell in range(l_max + 1)]
    centers = (torch.arange(edges, device=device) // degree).clamp(max=atoms - 1)
    offsets = eq.row_offsets(centers, atoms)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g, device=device)

    w, y = random(edges, len(dims), channels), random(edges, sum(dims))
    f = random(atoms, sum(dims), channels)
    rows: dict[str, tuple] = {}
    sums = {"to_atoms": (w, y), "to_weights": (y, f), "to_basis": (w, f), "to_scalars": (w, y, f)}
    for name, given in sums.items():
        plain = partial(getattr(reference, name), centers=centers, offsets=offsets, dims=dims)
        rows[name] = partial(getattr(eq, name), centers=centers, offsets=offsets), given, plain
    irreps = spherical_irreps(l_max)
    tp = eq.TensorProduct(irreps, irreps, irreps)
    weights = random(*tp.weight_shape(channels))
    rows["tensor_product"] = tp, (f, random(atoms, sum(dims), channels), weights), None
    return rows


def configs_of(call: Callable[[], object], modules: Sequence[Any]) -> list[tuple[Any, tuple[Any, ...]]]:
    """Return the modules that choose a tile config in a call, with the candidates; nothing is tuned."""
    seen: list[tuple[Any, tuple[Any, ...]]] = []
    with contextlib.ExitStack() as stack:
        for module in modules:

            def first(kernel: Any, configs: tuple[Any, ...], *rest: Any, module: Any = module) -> Any:
                seen.append((module, configs))
                return configs[0]

            stack.enter_context(mock.patch.object(module, "choose", first))
        call()
    return seen


def with_each_config(call: Callable[[], object], modules: Sequence[Any]) -> Iterator[Any]:
    """Call once, and then yield each tile config of the call while it is the one that is chosen."""
    for module, configs in configs_of(call, modules):
        for config in configs:
            with mock.patch.object(module, "choose", lambda *_, config=config: config):
                yield config


def compile_all(part: Part, shapes: Sequence[tuple[int, int]]) -> None:
    """Compile every kernel with every tile config, by calls on tiny operands."""
    for l_max, channels in shapes:
        for name, (call, given, _) in operators(64, 8, channels, l_max, part.device).items():

            def build(call: Any = call, given: Any = given) -> None:
                with torch.no_grad():
                    for _ in with_each_config(lambda: call(*given), MODULES):
                        call(*given)

            part.attempt(f"compile {name} l_max={l_max} C={channels}", build)


def compile_beside(part: Part, shapes: Sequence[tuple[int, int]], arguments: Sequence[str]) -> None:
    """Fill Triton's cache on disk: each shape in a process of its own, all at once."""
    command = [sys.executable, "-m", "benchmarks.gpu.parts.kernels", *arguments, "--compile"]
    running = [
        subprocess.Popen([*command, str(k)], stdin=-3, stdout=-1, stderr=-2) for k in range(len(shapes))
    ]
    for process, shape in zip(running, shapes, strict=True):
        printed = process.communicate()[0].decode(errors="replace")
        if process.returncode:
            part.section.setdefault("failed", {})[f"compile {shape}"] = printed[-1500:]


def chosen(call: Callable[[], object], module: Any = edge_atom) -> str | None:
    """Return the tile config that tuning chooses in a call, timed for a few milliseconds each; None without any."""
    seen: list[Any] = []
    choose = module.choose

    def keep(*given: Any) -> Any:
        seen.append(choose(*given))
        return seen[-1]

    quick = partial(tuning.fastest, bench=QUICK)
    with mock.patch.object(tuning, "fastest", quick), mock.patch.object(module, "choose", keep):
        call()
    return str(seen[-1]) if seen else None


def by_config(part: Part, call: Callable[[], object], module: Any = edge_atom) -> dict[str, Any]:
    """Return the time with every tile config that tuning chooses from, and the chosen one; nothing without Triton."""
    name = chosen(call, module)
    times = {str(c): part.device_milliseconds(call, 0.01) for c in with_each_config(call, [module])}
    return {"chosen": name, "ms_by_config": times} if name else {}


def row(part: Part, name: str, call: Callable[..., Tensor], given: tuple, plain: Callable | None) -> dict:
    """Time one operator, and compare it with the plain formulation in float64."""
    with torch.no_grad():
        module = tensor_product if name == "tensor_product" else edge_atom
        found = by_config(part, lambda: call(*given), module)
        out = call(*given)
        found |= {"op": name, "ms": part.device_milliseconds(lambda: call(*given), 0.05)}
        found["call_ms"] = part.milliseconds(lambda: call(*given), 0.02)
        found["GBps"] = (sum(t.nbytes for t in given) + out.nbytes) / found["ms"] / 1e6
        if plain is not None:
            exact = plain(*(t.double() for t in given))
            found["error"] = float((out - exact).abs().max() / exact.abs().max())
            del exact
            found["plain_ms"] = part.device_milliseconds(lambda: plain(*given), 0.03)
    return found


def main() -> None:
    """Compile every kernel, then time every operator at every size; with ``--compile`` only compile one shape's."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--compile", type=int)
    options, rest = parser.parse_known_args()
    arguments = [argument for argument in rest if argument != "--wait"]
    compiling = options.compile is not None
    part = Part(f"kernels_{options.compile}", arguments) if compiling else Part("kernels", rest)
    sizes = part.pick([(468_000, 90), (17_000, 90), (187_000, 24)], [(64, 8)])
    shapes = part.pick([(2, 64), (3, 64), (3, 128), (2, 256)], [(1, 4)])
    os.environ["TRITON_CACHE_DIR"] = str(
        part.work / "kernels_triton"
    )  # no choice that was timed beside others
    if compiling:
        compile_all(part, [shapes[options.compile]])
        for name, text in part.section.get("failed", {}).items():
            print(name, text)
        sys.exit(int("failed" in part.section))
    begin = time.perf_counter()
    compile_beside(part, shapes, arguments)
    compile_all(part, shapes)  # from the cache
    part.section["build_s"] = time.perf_counter() - begin
    part.turn()
    copy = part.section["copy_GBps"] = part.copy_bandwidth(part.pick(2**28, 2**16)) / 1e9
    part.save()
    rows = part.section.setdefault("rows", [])
    for edges, degree in sizes:
        for l_max, channels in shapes:
            given = operators(edges, degree, channels, l_max, part.device)
            for name, (call, operands, plain) in given.items():
                label = f"{name} l_max={l_max} C={channels} E={edges} degree={degree}"
                found = part.attempt(label, partial(row, part, name, call, operands, plain))
                if found:
                    size = {"l_max": l_max, "channels": channels, "edges": edges, "degree": degree}
                    rows.append({**found, **size, "share_of_copy": found["GBps"] / copy})
    part.save()


if __name__ == "__main__":
    main()
