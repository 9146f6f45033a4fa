"""Shuffles that are the same on every platform: an order in memory, and a permutation of any size without it."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Apply the finalizer of SplitMix64 (Steele, Lea and Flood 2014)."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _key(text: str) -> np.uint64:
    return np.uint64(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little"))


def shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """Return a permutation of n: the order of SplitMix64 of index and seed."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    with np.errstate(over="ignore"):
        z = _mixed((np.arange(n, dtype=np.uint64) + _key(f"spice-data split {seed}")) * golden + golden)
    return np.argsort(z, kind="stable")


def permuted(indices: NDArray[np.int64], n: int, seed: int) -> NDArray[np.int64]:
    """Return where a permutation of n takes ``indices``, in memory that does not grow with n.

    A balanced Feistel network of six rounds over the next power of four, walked until it lands below n again (Black
    and Rogaway 2002).
    """
    half = np.uint64(max(1, (max(n - 1, 1).bit_length() + 1) // 2))
    mask = (np.uint64(1) << half) - np.uint64(1)
    keys = [_key(f"spice-data shard {seed} {k}") for k in range(6)]

    def step(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
        left, right = x >> half, x & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right + key) & mask)
        return (left << half) | right

    with np.errstate(over="ignore"):
        out = step(indices.astype(np.uint64))
        while (outside := np.flatnonzero(out >= n)).size:
            out[outside] = step(out[outside])
    return out.astype(np.int64)
