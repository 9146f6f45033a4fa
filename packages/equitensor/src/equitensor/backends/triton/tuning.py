"""Autotuning of tile configs: the fastest on the device, once per kernel and number of channels.

Times are taken on operands made here, of the same sizes for every caller. No tensor of a caller is written while they
are tried (kernels write every element of their output, so repeating one needs nothing restored anyway), neither
counts of edges and atoms nor what ran first matter, and compilers are given the tile config like any other constant:
AOT Inductor, left to tune a kernel itself, would do so with ``offsets`` of zeros, which is with no edges.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.utils._python_dispatch import _disable_current_modes

from equitensor.backends.triton.source import TileConfig, tiles

ATOMS, EDGES = 2048, 32
"""Atoms, and edges of each, that kernels are timed on."""
FEW, MANY = 192, 96
"""The same of the second sample of kernels with rows: few programs, many turns each."""


class Sample(NamedTuple):
    """A launch for timing.

    Attributes
    ----------
    operands : tuple of (shape, dtype)
        The kernel's tensors in its order; int64 stands for offsets.
    programs : int
        First extent of the grid.
    blocked : bool
        Whether the second is the number of blocks of channels (else 1).
    parts : int
        The third.
    scalars : tuple of (name, int)
        The kernel's other arguments but C.
    degree : int
        Edges of each atom.
    """

    operands: tuple[tuple[tuple[int, ...], torch.dtype], ...]
    programs: int
    blocked: bool = True
    parts: int = 1
    scalars: tuple[tuple[str, int], ...] = ()
    degree: int = EDGES

    def tensors(self, device: torch.device) -> list[Tensor]:
        """Return operands of ones (no random number is drawn), every atom with ``degree`` edges."""
        return [
            self.degree * torch.arange(*shape, device=device)
            if dtype == torch.int64
            else torch.ones(shape, dtype=dtype, device=device)
            for shape, dtype in self.operands
        ]


def choose(
    kernel: Any, configs: tuple[TileConfig, ...], channels: int, device: torch.device, *samples: Sample
) -> TileConfig:
    """Return one of ``configs``: the fastest on a GPU, the first where nothing can or may be timed.

    That is in the interpreter, without a GPU (fake tensors of one), for a symbolic number of channels, while a CUDA
    graph is captured, and under ``torch.use_deterministic_algorithms(True)``: tile configs differ in the order of sums.
    """
    if (
        len(configs) == 1
        or not isinstance(channels, int)
        or device.type != "cuda"
        or triton.knobs.runtime.interpret
        or torch.are_deterministic_algorithms_enabled()
        or not torch.cuda.is_available()
        or torch.cuda.is_current_stream_capturing()
    ):
        return configs[0]
    return fastest(kernel, configs, channels, device, samples)


@cache
def fastest(
    kernel: Any,
    configs: tuple[TileConfig, ...],
    channels: int,
    device: torch.device,
    samples: tuple[Sample, ...],
    bench: Callable[..., list[float]] | None = None,
) -> TileConfig:
    """Return the tile config whose times, one per sample, have the least product.

    The first of ``configs`` where there is no memory for a sample. ``bench(call, quantiles)`` is Triton's own
    benchmarker unless given.
    """
    if len(configs) == 1:
        return configs[0]
    products = dict.fromkeys(configs, 1.0)
    for number, sample in enumerate(samples):
        # what is kept on disk goes by the list of tile configs, not by sizes: clear it when those of a sample change
        order = (*configs[number:], *configs[:number])
        try:
            found = _times(kernel, order, channels, device, sample, bench)
        except torch.OutOfMemoryError:
            return configs[0]
        products = {config: product * found[config] for config, product in products.items()}
    return min(configs, key=products.__getitem__)


def _times(
    kernel: Any,
    configs: tuple[TileConfig, ...],
    channels: int,
    device: torch.device,
    sample: Sample,
    bench: Callable[..., list[float]] | None,
) -> dict[TileConfig, float]:
    """Return the median time of each tile config by ``triton.autotune``, which keeps times on disk."""
    variants = [triton.Config(c.constants, num_warps=c.warps) for c in configs]
    tuner = triton.autotune(variants, key=["C"], do_bench=bench, cache_results=True)(kernel)

    def grid(meta: dict[str, Any]) -> tuple[int, int, int]:
        return sample.programs, tiles(channels, meta["BLOCK"]) if sample.blocked else 1, sample.parts

    here = torch.cuda.device(device) if device.type == "cuda" else nullcontext()
    with _disable_current_modes(), torch.no_grad(), here:  # a tracer's modes would make the sample fake
        tuner[grid](*sample.tensors(device), C=channels, **dict(sample.scalars))
    found = {}
    for variant, times in tuner.configs_timings.items():
        given = variant.kwargs
        config = TileConfig(given["BLOCK"], given.get("ROWS", 0), variant.num_warps, given.get("STAGES", 1))
        found[config] = float(times[0] if isinstance(times, (list, tuple)) else times)
    return found
