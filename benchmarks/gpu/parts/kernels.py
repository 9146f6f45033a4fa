"""equitensor's operators at the sizes of inference and training: time, bandwidth, share of a plain copy."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from benchmarks.gpu.part import Part
from torch import Tensor

import equitensor as eq
from equitensor import reference
from equitensor.backends.triton import edge_atom
from equitensor.irreps import spherical_irreps


def operators(edges: int, degree: int, channels: int, l_max: int, device: torch.device) -> dict[str, tuple]:
    """Return (call, operands, reference call or None) of every operator, atoms of ``degree`` edges."""
    g = torch.Generator().manual_seed(0)
    atoms, dims = max(1, edges // degree), [2 * ell + 1 for ell in range(l_max + 1)]
    centers = torch.arange(edges) // degree
    centers = centers.clamp(max=atoms - 1).to(device)
    offsets = eq.row_offsets(centers, atoms)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=g).to(device)

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


def by_config(part: Part, call: Callable[[], object], module: Any = edge_atom) -> dict[str, Any]:
    """Return the time with every tile config that tuning chooses from, and the chosen one; nothing without Triton."""
    seen: dict[str, Any] = {}
    choose = module.choose

    def keep(kernel: Any, configs: tuple[Any, ...], *rest: Any) -> Any:
        seen.update(configs=configs, chosen=choose(kernel, configs, *rest))
        return seen["chosen"]

    with mock.patch.object(module, "choose", keep):
        call()
    times = {}
    for config in seen.get("configs", ()):
        with mock.patch.object(module, "choose", lambda *_, config=config: config):
            times[str(config)] = part.milliseconds(call, 0.05)
    return {"chosen": str(seen["chosen"]), "ms_by_config": times} if seen else {}


def row(part: Part, name: str, call: Callable[..., Tensor], given: tuple, plain: Callable | None) -> dict:
    """Time one operator, and compare it with the plain formulation in float64."""
    with torch.no_grad():
        out = call(*given)
        found = {"op": name, "ms": part.milliseconds(lambda: call(*given), 0.1)}
        found["GBps"] = (sum(t.nbytes for t in given) + out.nbytes) / found["ms"] / 1e6
        found |= by_config(part, lambda: call(*given)) if name != "tensor_product" else {}
        if plain is not None:
            exact = plain(*(t.double() for t in given))
            found["error"] = float((out - exact).abs().max() / exact.abs().max())
            found["plain_ms"] = part.milliseconds(lambda: plain(*given), 0.1)
    return found


def main() -> None:
    """Time every operator at every size."""
    part = Part("kernels")
    sizes = part.pick([(468_000, 90), (17_000, 90), (187_000, 24)], [(64, 8)])
    shapes = part.pick([(2, 64), (3, 64), (3, 128), (2, 256)], [(1, 4)])
    part.turn()
    copy = part.copy_bandwidth(part.pick(2**28, 2**16)) / 1e9
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
    part.section["copy_GBps"] = copy
    part.save()


if __name__ == "__main__":
    main()
