"""Triton kernels of the tensor product and its weight gradient, coefficients written out."""

from __future__ import annotations

import re
from functools import cache, reduce
from typing import Any

import torch
from torch import Tensor

from equitensor.backends.triton.source import (
    REGISTERS,
    TileConfig,
    accumulator,
    build,
    candidate_configs,
    launch,
    tiles,
    width,
)
from equitensor.backends.triton.tuning import Sample, choose
from equitensor.irreps import irreps_dim, irreps_slices
from equitensor.paths import Spec, admissible_paths
from equitensor.wigner import coupling

# Rows that one program of the weight gradient sums.
CHUNK = 64


def _fused(total: str, term: tuple[str, str]) -> str:
    # a bare number among the arguments of tl.fma is rounded to float32, whatever the others are
    return f"tl.fma(tl.full((), {term[0]}, ACC), {term[1]}, {total})"


def _terms(spec: Spec, number: int, slots: tuple[int, int, int]) -> tuple[int, dict[int, str]]:
    """Return the irrep at slots[2], and the expression of each of its components of a and b."""
    path = admissible_paths(*spec)[number]
    start = [irreps_slices(spec[s])[path[s]].start for s in slots]
    c = coupling(spec.in1[path.in1][0], spec.in2[path.in2][0], spec.out[path.out][0]).transpose(slots)
    found = {}
    for k in range(c.shape[2]):
        terms = [
            (repr(float(c[i, j, k])), f"(a{start[0] + i} * b{start[1] + j})")
            for i in range(c.shape[0])
            for j in range(c.shape[1])
            if c[i, j, k] != 0.0
        ]
        if terms:
            found[start[2] + k] = reduce(_fused, terms[1:], " * ".join(terms[0]))
    return path[slots[2]], found


def _load(name: str, d: int, k: int) -> str:
    """Load component ``k`` of ``d`` of an operand's row z, all channels of the block."""
    return f"tl.load({name} + (z * {d} + {k}) * C + u, mask=inside, other=0.0).to(ACC)"


def _loads(text: str, a: int, b: int) -> list[str]:
    """Return loads of the components that ``text`` uses, of operands with ``a`` and ``b`` components."""
    used = [(name, d, k) for name, d in (("a", a), ("b", b)) for k in range(d)]
    return [f"{name}{k} = {_load(name, d, k)}" for name, d, k in used if re.search(rf"\b{name}{k}\b", text)]


@cache
def contract_kernel(
    spec: Spec, slots: tuple[int, int, int], coupled: bool, dtype: torch.dtype, split: bool
) -> Any:
    """Return the kernel that contracts operands slots[0] and slots[1]; one program per row and block of channels.

    With ``split`` also per irrep of the result, of which each program loads only the components it needs.
    """
    dims = [irreps_dim(spec[s]) for s in slots]
    lines = [
        "def contract(a, b, weights, out, C, BLOCK: tl.constexpr):",
        "    z = tl.program_id(0).to(tl.int64)",
        "    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "    inside = u < C",
    ]
    where = irreps_slices(spec[slots[2]])
    body: list[list[str]] = [[] for _ in where]
    seen: set[int] = set()
    for number in range(spec.num_paths):
        result, found = _terms(spec, number, slots)
        place = f"weights + {number} * C + u, mask=inside, other=0.0" if coupled else f"weights + {number}"
        body[result].append(f"w = tl.load({place}).to(ACC)")
        for k, expression in found.items():
            value = f"tl.fma(w, {expression}, o{k})" if k in seen else f"w * ({expression})"
            body[result].append(f"o{k} = {value}")
            seen.add(k)
    for result, components in enumerate(where):
        for k in range(components.start, components.stop):
            value = f"o{k}" if k in seen else "tl.zeros((BLOCK,), dtype=ACC)"
            body[result].append(f"tl.store(out + (z * {dims[2]} + {k}) * C + u, {value}, mask=inside)")
    if split:
        for result, part in enumerate(body):
            lines.append(f"    if tl.program_id(2) == {result}:")
            lines += [f"        {line}" for line in _loads("\n".join(part), *dims[:2]) + part]
    else:
        whole = [line for part in body for line in part]
        lines += [f"    {line}" for line in _loads("\n".join(whole), *dims[:2]) + whole]
    return build("contract", lines, dtype)


@cache
def contract_weights_kernel(spec: Spec, dtype: torch.dtype) -> Any:
    """Return the kernel of the weight gradient; one program per chunk of rows, block of channels and path."""
    dims = [irreps_dim(s) for s in spec]
    lines = [
        "def contract_weights(a, b, g, out, Z, C, BLOCK: tl.constexpr, CHUNK: tl.constexpr):",
        "    chunk = tl.program_id(0).to(tl.int64)",
        "    u = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)",
        "    p = tl.program_id(2)",
        "    inside = u < C",
        "    total = tl.zeros((BLOCK,), dtype=ACC)",
        "    last = tl.minimum((chunk + 1) * CHUNK, Z)",
    ]
    for number in range(spec.num_paths):
        _, found = _terms(spec, number, (0, 1, 2))
        text = " ".join(found.values())
        lines += [f"    if p == {number}:", "        for z in range(chunk * CHUNK, last):"]
        lines += [f"            {line}" for line in _loads(text, *dims[:2])]
        for k, expression in found.items():
            load = _load("g", dims[2], k)
            lines.append(f"            total = tl.fma({load}, {expression}, total)")
    lines.append(f"    tl.store(out + (chunk * {spec.num_paths} + p) * C + u, total, mask=inside)")
    return build("contract_weights", lines, dtype)


@cache
def configs_of(
    spec: Spec, slots: tuple[int, int, int], channels: int, dtype: torch.dtype
) -> tuple[TileConfig, ...]:
    """Return the candidate tile configs of the kernel that contracts operands slots[0] and slots[1]."""
    return candidate_configs(sum(irreps_dim(spec[s]) for s in slots), channels, dtype, 0)


@cache
def split_of(spec: Spec, dtype: torch.dtype) -> bool:
    """Return whether operands and result of one channel and the products of their components spill, as at l_max 4."""
    return sum(irreps_dim(s) for s in spec) * accumulator(dtype).itemsize // 4 > REGISTERS // 2


def _rows(spec: Spec, channels: int) -> int:
    """Return the rows that a kernel is timed on: a few thousand, fewer where they would fill much memory."""
    return max(CHUNK, min(8192, 2**25 // (sum(irreps_dim(s) for s in spec) * channels)))


@cache
def sample_of(
    spec: Spec, slots: tuple[int, int, int], coupled: bool, channels: int, dtype: torch.dtype
) -> Sample:
    """Return the sample that the kernel of operands slots[0] and slots[1] is timed on."""
    z = _rows(spec, channels)
    first, second, out = (((z, irreps_dim(spec[s]), channels), dtype) for s in slots)
    weights = ((spec.num_paths, channels) if coupled else (spec.num_paths,), dtype)
    parts = len(spec[slots[2]]) if split_of(spec, dtype) else 1
    return Sample((first, second, weights, out), z, parts=parts)


@cache
def weights_sample_of(spec: Spec, channels: int, dtype: torch.dtype) -> Sample:
    """Return the sample that the kernel of the weight gradient is timed on."""
    chunks = _rows(spec, channels) // CHUNK
    rows = tuple(((chunks * CHUNK, irreps_dim(s), channels), dtype) for s in spec)
    out = ((chunks, spec.num_paths, channels), accumulator(dtype))
    scalars = (("Z", chunks * CHUNK), ("CHUNK", CHUNK))
    return Sample((*rows, out), chunks, parts=spec.num_paths, scalars=scalars)


def contract(
    first: Tensor,
    second: Tensor,
    weights: Tensor,
    spec: Spec,
    slots: tuple[int, int, int],
    config: TileConfig | None = None,
) -> Tensor:
    """See :func:`equitensor.backends.reference.contract`; use `config` if given, else the autotuned one."""
    (z, _, c), dtype, coupled = first.shape, first.dtype, weights.dim() == 2
    split = split_of(spec, dtype)
    kernel = contract_kernel(spec, slots, coupled, dtype, split)
    if config is None:
        sample = sample_of(spec, slots, coupled, width(c), dtype)
        config = choose(kernel, configs_of(spec, slots, width(c), dtype), c, first.device, sample)
    out = first.new_empty(z, irreps_dim(spec[slots[2]]), c)
    tensors = (first.contiguous(), second.contiguous(), weights.contiguous(), out)
    grid = (z, tiles(c, config.block), len(spec[slots[2]]) if split else 1)
    launch(kernel, grid, tensors, C=c, **config.constants, num_warps=config.warps)
    return out


def contract_weights(
    x: Tensor, y: Tensor, g: Tensor, spec: Spec, coupled: bool, config: TileConfig | None = None
) -> Tensor:
    """See :func:`equitensor.backends.reference.contract_weights`; use `config` if given, else the autotuned one.

    Chunks are summed in order: deterministic.
    """
    (z, _, c), dtype = x.shape, x.dtype
    kernel = contract_weights_kernel(spec, dtype)
    if config is None:
        candidates = configs_of(spec, (0, 1, 2), width(c), dtype)
        config = choose(kernel, candidates, c, x.device, weights_sample_of(spec, width(c), dtype))
    chunks = (z + CHUNK - 1) // CHUNK
    out = x.new_empty(chunks, spec.num_paths, c, dtype=accumulator(dtype))
    tensors = (x.contiguous(), y.contiguous(), g.contiguous(), out)
    grid = (chunks, tiles(c, config.block), spec.num_paths)
    launch(kernel, grid, tensors, Z=z, C=c, CHUNK=CHUNK, **config.constants, num_warps=config.warps)
    return (out.sum(0) if coupled else out.sum((0, 2))).to(dtype)
