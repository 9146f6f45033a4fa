"""Turns generated source into Triton kernels, launches them eagerly or under a tracer."""

from __future__ import annotations

import hashlib
import linecache
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor


def build(name: str, text: str) -> Any:
    """The kernel ``name`` that ``text`` defines.

    Triton reads a kernel's source through ``inspect``; the text is entered where ``inspect`` looks, under
    a name that its content decides.
    """
    filename = f"<equitensor {name} {hashlib.sha256(text.encode()).hexdigest()[:12]}>"
    linecache.cache[filename] = (len(text), None, text.splitlines(keepends=True), filename)
    scope: dict[str, Any] = {"tl": tl, "__name__": __name__}
    exec(compile(text, filename, "exec"), scope)
    return triton.jit(scope[name])


def launch(kernel: Any, grid: tuple[Any, ...], tensors: tuple[Tensor, ...], **constants: Any) -> None:
    """Run ``kernel`` on these tensors; under a tracer, record it. An empty grid runs nothing."""
    if type(tensors[0]) is not Tensor:
        torch.library.wrap_triton(kernel)[grid](*tensors, **constants)
    elif all(size > 0 for size in grid):
        kernel[grid](*tensors, **constants)


def channel_block(channels: int, most: int = 128) -> int:
    """Channels of one program: a power of two, at least 16."""
    return min(most, max(16, triton.next_power_of_2(channels)))


def tiles(channels: int, block: int) -> int:
    """Number of blocks that cover the channels."""
    return (channels + block - 1) // block
