"""Values by type and cutoffs by ordered pair of types, from the forms in which a configuration may give them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from allegro_model._fields import is_number, require, require_positive


def per_type(field: str, value: Any, names: Sequence[str]) -> list[float]:
    """Return one number per type, or a single one where ``value`` is one number.

    Raises
    ------
    ValueError
        Naming the field.
    """
    if isinstance(value, Mapping):
        required = f"a mapping with exactly the keys {list(names)}"
        require(set(value) == set(names), field, required, dict(value))
        numbers = [value[name] for name in names]
    elif isinstance(value, Sequence) and not isinstance(value, str):
        require(len(value) == len(names), field, f"{len(names)} numbers, one per type", value)
        numbers = list(value)
    else:
        numbers = [value]
    for number in numbers:
        require(is_number(number) and math.isfinite(number), field, "finite numbers", value)
    return [float(number) for number in numbers]


def cutoff_matrix(given: Mapping[str, Any], cutoff: float, names: Sequence[str]) -> list[list[float]]:
    """Return the cutoff of each ordered pair ``[type of center][type of neighbor]``, Å.

    Raises
    ------
    ValueError
        Naming the center type under ``type_cutoffs``.
    """
    _require_types("type_cutoffs", given, names)
    matrix = []
    for center in names:
        field, entry = f"type_cutoffs.{center}", given.get(center, cutoff)
        if isinstance(entry, Mapping):
            _require_types(field, entry, names)
            row = [entry.get(neighbor, cutoff) for neighbor in names]
        else:
            row = [entry] * len(names)
        for value in row:
            require_positive(field, value)
            require(value <= cutoff, field, f"at most cutoff = {cutoff}", value)
        matrix.append([float(value) for value in row])
    return matrix


def _require_types(field: str, keys: Mapping[str, Any], names: Sequence[str]) -> None:
    unknown = sorted(set(keys) - set(names), key=str)
    require(not unknown, field, f"a mapping with keys among {list(names)}", unknown)
