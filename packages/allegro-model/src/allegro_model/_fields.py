"""Checks of fields of a configuration, each an error that names the field, the requirement and the value."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor


def require(condition: bool, name: str, required: str, got: object) -> None:
    """Raise ``ValueError`` unless ``condition``."""
    if not condition:
        raise ValueError(f"{name} must be {required}, got {got!r}")


def plain(value: Any) -> Any:
    """Return a copy in Python's own numbers, tuples and dictionaries."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(plain(entry) for entry in value)
    return float(value) if is_number(value) else value


def is_number(value: object) -> bool:
    """Return whether a value is a real number and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def require_int(name: str, value: Any, low: int) -> None:
    """Raise ``ValueError`` unless ``value`` is an integer ≥ ``low``."""
    ok = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
    require(ok, name, f"an integer ≥ {low}", value)


def require_positive(name: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is a finite number > 0."""
    require(is_number(value) and math.isfinite(value) and value > 0, name, "a finite number > 0", value)
