"""Triton kernels of the tensor product and its weight gradient, coefficients written out."""

from __future__ import annotations

from functools import cache
from typing import Any

from torch import Tensor

from equitensor.paths import admissible_paths, coupling, irreps_dim, irreps_slices
from equitensor.spec import Spec
from equitensor.triton.source import build, channel_block, launch, tiles

# Rows that one program of the weight gradient sums.
CHUNK = 64


def _terms(spec: Spec, number: int, slots: tuple[int, int, int]) -> tuple[int, dict[int, str]]:
    """Path ``number``: the irrep at slots[2], and the expression of each of its components of a and b."""
    path = admissible_paths(*spec)[number]
    start = [irreps_slices(spec[s])[path[s]].start for s in slots]
    c = coupling(spec.in1[path.in1][0], spec.in2[path.in2][0], spec.out[path.out][0]).transpose(slots)
    found = {}
    for k in range(c.shape[2]):
        terms = [
            f"{float(c[i, j, k])!r} * (a{start[0] + i} * b{start[1] + j})"
            for i in range(c.shape[0])
            for j in range(c.shape[1])
            if c[i, j, k] != 0.0
        ]
        if terms:
            found[start[2] + k] = " + ".join(terms)
    return path[slots[2]], found


@cache
def contract_kernel(spec: Spec, slots: tuple[int, int, int], coupled: bool) -> Any:
    """The kernel that contracts operands slots[0] and slots[1]; one program per row and block of channels."""
    dims = [irreps_dim(spec[s]) for s in slots]
    lines = [
        "def contract(a, b, weights, out, C, BLOCK: tl.constexpr):",
        "    z = tl.program_id(0).to(tl.int64)",
        "    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = u < C",
    ]
    loads = []
    for name, d in zip("ab", dims[:2], strict=True):
        loads += [
            f"    {name}{k} = tl.load({name} + (z * {d} + {k}) * C + u, mask=inside, other=0.0)"
            for k in range(d)
        ]
    seen: set[int] = set()
    body = []
    for number in range(spec.num_paths):
        _, found = _terms(spec, number, slots)
        place = f"weights + {number} * C + u, mask=inside, other=0.0" if coupled else f"weights + {number}"
        body.append(f"    w = tl.load({place})")
        for k, expression in found.items():
            body.append(f"    o{k} {'+=' if k in seen else '='} w * ({expression})")
            seen.add(k)
    stores = []
    for k in range(dims[2]):
        value = f"o{k}" if k in seen else "tl.zeros((BLOCK,), dtype=out.dtype.element_ty)"
        stores.append(f"    tl.store(out + (z * {dims[2]} + {k}) * C + u, {value}, mask=inside)")
    return build("contract", "\n".join(lines + loads + body + stores) + "\n")


@cache
def contract_weights_kernel(spec: Spec) -> Any:
    """The kernel of the weight gradient; one program per chunk of rows, block of channels and path."""
    dims = [irreps_dim(s) for s in spec]
    lines = [
        "def contract_weights(a, b, g, out, Z, C, BLOCK: tl.constexpr, CHUNK: tl.constexpr):",
        "    chunk = tl.program_id(0).to(tl.int64)",
        "    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "    p = tl.program_id(2)",
        "    inside = u < C",
        "    total = tl.zeros((BLOCK,), dtype=out.dtype.element_ty)",
        "    last = tl.minimum((chunk + 1) * CHUNK, Z)",
    ]
    for number in range(spec.num_paths):
        _, found = _terms(spec, number, (0, 1, 2))
        text = " ".join(found.values())
        lines += [f"    if p == {number}:", "        for z in range(chunk * CHUNK, last):"]
        for name, d in zip("ab", dims[:2], strict=True):
            for k in range(d):
                if f"({name}{k} *" in text or f"* {name}{k})" in text:
                    lines.append(
                        f"            {name}{k} = tl.load({name} + (z * {d} + {k}) * C + u, mask=inside, other=0.0)"
                    )
        for k, expression in found.items():
            load = f"tl.load(g + (z * {dims[2]} + {k}) * C + u, mask=inside, other=0.0)"
            lines.append(f"            total += {load} * ({expression})")
    lines.append(f"    tl.store(out + (chunk * {spec.num_paths} + p) * C + u, total, mask=inside)")
    return build("contract_weights", "\n".join(lines) + "\n")


def contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: Spec, slots: tuple[int, int, int]
) -> Tensor:
    """See :func:`equitensor.reference.contract`."""
    z, c = first.shape[0], first.shape[2]
    out = first.new_empty(z, irreps_dim(spec[slots[2]]), c)
    block = channel_block(c, 64)
    tensors = (first.contiguous(), second.contiguous(), weights.contiguous(), out)
    kernel = contract_kernel(spec, slots, weights.dim() == 2)
    launch(kernel, (z, tiles(c, block)), tensors, C=c, BLOCK=block, num_warps=max(1, block // 32))
    return out


def contract_weights(x: Tensor, y: Tensor, g: Tensor, spec: Spec, coupled: bool) -> Tensor:
    """See :func:`equitensor.reference.contract_weights`; chunks are summed in order: deterministic."""
    z, c = x.shape[0], x.shape[2]
    chunks = (z + CHUNK - 1) // CHUNK
    out = x.new_empty(chunks, spec.num_paths, c)
    block = channel_block(c, 64)
    tensors = (x.contiguous(), y.contiguous(), g.contiguous(), out)
    kernel = contract_weights_kernel(spec)
    grid = (chunks, tiles(c, block), spec.num_paths)
    launch(kernel, grid, tensors, Z=z, C=c, BLOCK=block, CHUNK=CHUNK, num_warps=max(1, block // 32))
    return out.sum(0) if coupled else out.sum((0, 2))
