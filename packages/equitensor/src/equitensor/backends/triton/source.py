"""Triton kernels from generated source, their launch eagerly or under a tracer, and their tile configs."""

from __future__ import annotations

import hashlib
import linecache
import re
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """Return the type that kernels compute in: float64 for float64, float32 for anything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def build(name: str, lines: Sequence[str], dtype: torch.dtype) -> Any:
    """Build the kernel ``name`` that these lines define, for tensors of ``dtype``; ACC in them is its type.

    Triton reads a kernel's source through ``inspect``; the text is entered where ``inspect`` looks, under
    a name that its content decides. Products are fused by ``tl.fma``, whatever Triton's own default is.
    """
    kind = str(accumulator(dtype)).removeprefix("torch.")
    text = re.sub(r"\bACC\b", f"tl.{kind}", "\n".join(lines) + "\n")
    filename = f"<equitensor {name} {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(text, filename, "exec"), scope)
    return triton.jit(scope[name])


_EAGER = (Tensor, torch.nn.Parameter)
"""Exact classes of tensors that hold data."""


def launched(*tensors: Tensor) -> bool:
    """Return whether a kernel on these tensors runs now: none of them is a tracer's (fake, functional, proxy)."""
    return all(type(t) in _EAGER for t in tensors)


def launch(kernel: Any, grid: tuple[Any, ...], tensors: tuple[Tensor, ...], **constants: Any) -> None:
    """Run ``kernel`` on these tensors, on their device; under a tracer, record it. An empty grid runs nothing."""
    if not launched(*tensors):
        torch.library.wrap_triton(kernel)[grid](*tensors, **constants)
    elif all(size > 0 for size in grid):
        # Triton launches on the current device; of tensors on the CPU (the interpreter) nothing is changed
        with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]
            kernel[grid](*tensors, **constants)


class TileConfig(NamedTuple):
    """Launch configuration: channels of a program, edges (or rows) that it takes at once, warps.

    ``stages`` is the number of turns whose loads are under way together, 1 where each turn waits for its own.
    """

    block: int
    rows: int
    warps: int
    stages: int = 1

    @property
    def constants(self) -> dict[str, int]:
        """Return the constexpr arguments of a kernel with this configuration."""
        rows = {"ROWS": self.rows, "STAGES": self.stages} if self.rows else {}
        return {"BLOCK": self.block, **rows}


# Registers that the tiles of one program may take per thread; the rest is for addresses and what passes by.
REGISTERS = 128

# The same where more than MOST_WARPS share a multiprocessor's registers: more than these have spilled (sm_80).
CROWDED_REGISTERS = 24
MOST_WARPS = 8


@cache
def threads_per_warp() -> int:
    """Return the threads per warp: 32, or 64 on AMD CDNA, which ROCm without a GPU is assumed to target."""
    if torch.version.hip is None:
        return 32
    return int(torch.cuda.get_device_properties(0).warp_size) if torch.cuda.is_available() else 64


def default_config(
    components: int, channels: int, dtype: torch.dtype, rows: int, warp: int | None = None
) -> TileConfig:
    """Return the default tile config of a shape class: components held at once, channels, dtype.

    Counts of edges and atoms never enter. ``warp``: the threads of a warp, by default this machine's.

    As many channels as leave ``components`` tiles of (rows, block) in registers, so that none spills
    (``ci/regressions/registers.py`` counts spills), with one warp per row of edges (fewer where channels do not fill
    it), or where there are no rows a channel per thread. A single channel is summed by one warp, an edge per thread.
    """
    warp = warp or threads_per_warp()
    words = accumulator(dtype).itemsize // 4
    block = min(128 if rows else 64, _widest(channels, rows))
    if block == 1:
        return TileConfig(1, warp, 1)
    while block > warp and components * words * (block // warp) > REGISTERS:
        block //= 2
    threads = rows * min(block, warp) if rows else block
    return TileConfig(block, rows, max(1, threads // warp))


def candidate_configs(
    components: int, channels: int, dtype: torch.dtype, rows: int, warp: int | None = None
) -> tuple[TileConfig, ...]:
    """Return the tile configs that may be fastest for a shape class: :func:`default_config` first, then its variations.

    Half and twice the channels and half and twice the rows, each with as many channels per thread as before; half
    and twice the warps. For atoms with many edges, whose turns wait for memory one after the other where few programs
    run: four and eight times the rows, and loads of later turns under way; where so many threads would have too few
    registers, with half the warps. Left out are those with less than an element per thread, and those that hold more
    per thread than both the default and ``REGISTERS``, or half of it where there are no rows: products are held too.
    """
    warp = warp or threads_per_warp()
    default = default_config(components, channels, dtype, rows, warp)
    b, r, w, _ = default
    words = accumulator(dtype).itemsize // 4

    def held(c: TileConfig) -> float:
        return components * words * max(1, c.rows) * c.block / (warp * c.warps)

    def wider(block: int, times: int, warps: int, stages: int = 1) -> TileConfig:
        c = TileConfig(block, times * r, warps, stages)
        crowded = c.warps > MOST_WARPS and held(c) > CROWDED_REGISTERS
        return c._replace(warps=c.warps // 2) if crowded else c

    varied = [
        TileConfig(b // 2, r, w // 2),
        TileConfig(2 * b, r, 2 * w),
        TileConfig(b, r, w // 2),
        TileConfig(b, r, 2 * w),
    ]
    if r:
        varied += [TileConfig(b, r // 2, w // 2), TileConfig(b, 2 * r, 2 * w)]
        varied += [wider(b, 4, 4 * w), wider(b // 2, 4, 2 * w), wider(b // 2, 8, 4 * w)]
        varied += [TileConfig(b, r, w, 3), wider(b // 2, 4, 2 * w, 2)]

    widest = _widest(channels, rows)
    limit = max(REGISTERS if r else REGISTERS // 2, held(default))

    def fits(c: TileConfig) -> bool:
        return (
            min(16, widest) <= c.block <= widest
            and 0 < warp * c.warps <= max(1, c.rows) * c.block
            and held(c) <= limit
        )

    return default, *filter(fits, varied)


def width(channels: int) -> int:
    """Return the number of channels that tile configs are made for, 64 where a tracer knows it by a symbol only."""
    return channels if isinstance(channels, int) else 64


def _widest(channels: int, rows: int) -> int:
    """Return the smallest block that holds all channels, at least 16; in kernels with rows, 1 for a single channel."""
    return 1 if rows and channels == 1 else max(16, int(triton.next_power_of_2(channels)))


def tiles(channels: int, block: int) -> int:
    """Return the number of blocks that cover the channels."""
    return (channels + block - 1) // block
