"""Precision of the products of float32 matrices.

A GPU rounds their operands to TF32 where a setting of the process says so; compiled code reads it at every call. bf16
on a CPU is part of the program: torch's setting reaches processors with AMX alone.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

PRECISIONS = {"cpu": ("float32", "bf16"), "cuda": ("float32", "tf32")}
"""What a product of float32 matrices may round its operands to, by device; sums are float32 always."""

_NAMES = {"float32": "ieee", "tf32": "tf32", "bf16": "bf16"}
_LEGACY = {"float32": "highest", "tf32": "high", "bf16": "medium"}


class _Products:
    """Sets the precision while calls run, and restores it after the last; calls of another precision wait."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._running, self._current = 0, ("", "")
        self._before: Any = None

    def enter(self, device: str, precision: str) -> None:
        with self._changed:
            while self._running and self._current != (device, precision):
                self._changed.wait()
            if not self._running:
                self._before, self._current = _get(device), (device, precision)
                _set(device, precision)
            self._running += 1

    def leave(self) -> None:
        with self._changed:
            self._running -= 1
            if not self._running:
                _restore(self._current[0], self._before)
                self._changed.notify_all()


_products = _Products()


def after_fork() -> None:
    """Forget the calls of other threads, which a forked child does not have."""
    global _products
    _products = _Products()


def setting(device: str, precision: str) -> str:
    """Return what the process is to be set to for a package: on a CPU full precision, in which bf16 is written out."""
    return precision if device == "cuda" else "float32"


@contextmanager
def product_precision(device: str, precision: str) -> Iterator[None]:
    """Evaluate with this precision of float32 products on a kind of device, whatever the process is set to.

    Other threads' products on that device have it meanwhile: torch has one setting per process. Threads that enter with
    another one wait.
    """
    gate = _products
    gate.enter(device, precision)
    try:
        yield
    finally:
        gate.leave()


def can_bf16() -> bool:
    """Return whether this processor has instructions for products of bf16 (AVX-512 BF16 or AMX)."""
    asked = [getattr(torch.cpu, f"_is_{name}_supported", None) for name in ("avx512_bf16", "amx_tile")]
    return any(ask is not None and ask() for ask in asked)


def _backend(device: str) -> Any:
    """Return torch's settings of products on a device; before torch 2.9 there is one for all devices."""
    found = torch.backends.cuda.matmul if device == "cuda" else getattr(torch.backends.mkldnn, "matmul", None)
    return found if hasattr(found, "fp32_precision") else None


def _get(device: str) -> str:
    backend = _backend(device)
    return torch.get_float32_matmul_precision() if backend is None else str(backend.fp32_precision)


def _set(device: str, precision: str) -> None:
    backend = _backend(device)
    if backend is None:
        torch.set_float32_matmul_precision(_LEGACY[precision])
    elif _in_effect(str(backend.fp32_precision)) != _NAMES[precision]:
        backend.fp32_precision = _NAMES[precision]


def _restore(device: str, before: str) -> None:
    backend = _backend(device)
    if backend is None:
        torch.set_float32_matmul_precision(before)
    elif backend.fp32_precision != before:
        # of all operations on all devices
        inherited = getattr(torch.backends, "fp32_precision", None) == before
        backend.fp32_precision = "none" if inherited else before


def _in_effect(name: str) -> str:
    return "ieee" if name == "none" else name
