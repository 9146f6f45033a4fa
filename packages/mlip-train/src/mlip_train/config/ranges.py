"""Ranges of numbers, declared in the annotations of the schema and checked by dotted path."""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any


@dataclasses.dataclass(frozen=True)
class Range:
    """Admitted finite numbers from ``low`` to ``high``; ``above`` and ``below`` exclude the ends."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False
    zero: bool = True

    def __contains__(self, value: float) -> bool:
        low = value > self.low if self.above else value >= self.low
        high = value < self.high if self.below else value <= self.high
        return math.isfinite(value) and low and high and (self.zero or value != 0)

    def __str__(self) -> str:
        if not self.zero:
            return "other than 0"
        if math.isinf(self.high):
            return f"{'greater than' if self.above else 'at least'} {self.low:.10g}"
        ends = "(" if self.above else "[", ")" if self.below else "]"
        return f"in {ends[0]}{self.low:.10g}, {self.high:.10g}{ends[1]}"


Positive = Annotated[float, Range(0, above=True)]
NonNegative = Annotated[float, Range(0)]
NonZero = Annotated[float, Range(zero=False)]
Fraction = Annotated[float, Range(0, 1, below=True)]
Factor = Annotated[float, Range(0, 1, above=True)]
Count = Annotated[int, Range(1)]
Natural = Annotated[int, Range(0)]
Seed = Annotated[int, Range(0, 2**32, below=True)]
Charge = Annotated[int, Range(-1000, 1000)]


def check_ranges(config: Any, path: str = "") -> None:
    """Check every number of a (nested) dataclass against the range in its annotation.

    Raises
    ------
    ValueError
        Naming the dotted path, the range and the value.
    """
    for where, admitted, value in numbers(config, path):
        if value not in admitted:
            required = admitted if math.isfinite(value) else "finite"
            raise ValueError(f"{where} must be {required}, got {value!r}")


def numbers(config: Any, path: str = "") -> Iterator[tuple[str, Range, float]]:
    """Dotted path, range and value of every number in a (nested) dataclass that has a range."""
    hints = typing.get_type_hints(type(config), include_extras=True)
    for field in dataclasses.fields(config):
        where = f"{path}.{field.name}" if path else field.name
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, where)
        elif isinstance(value, tuple):
            for i, item in enumerate(value):
                if dataclasses.is_dataclass(item):
                    yield from numbers(item, f"{where}[{i}]")
                elif (admitted := find_range(hints[field.name])) is not None:
                    yield f"{where}[{i}]", admitted, item
        elif isinstance(value, Mapping):
            kinds = typing.get_args(hints[field.name])
            for key, item in value.items():
                found = zip(map(find_range, kinds), (key, item), strict=True)
                yield from ((f"{where}.{key}", admitted, v) for admitted, v in found if admitted is not None)
        elif isinstance(value, int | float) and (admitted := find_range(hints[field.name])) is not None:
            yield where, admitted, value


def find_range(hint: Any) -> Range | None:
    """Return the range in an annotation, also inside ``... | None`` and ``tuple[...]``."""
    for part in (*getattr(hint, "__metadata__", ()), *typing.get_args(hint)):
        if isinstance(part, Range):
            return part
        if (found := find_range(part)) is not None:
            return found
    return None
