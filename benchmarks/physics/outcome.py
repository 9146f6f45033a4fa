"""What a check takes and returns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from matplotlib.axes import Axes

from mlip_export.ase import Calculator


class Outcome(NamedTuple):
    """Figures of a check, the bounds it exceeds in words, and what draws its panels."""

    figures: dict[str, Any]
    faults: list[str]
    panels: tuple[Callable[[Axes], None], ...]


class Models(NamedTuple):
    """The exported model and its float64 twin."""

    used: Calculator
    exact: Calculator
