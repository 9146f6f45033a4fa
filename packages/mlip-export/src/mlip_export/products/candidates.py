"""Build several programs of one model, time them in turn, and keep one."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from mlip_export import inductor
from mlip_export.graphs import Inputs
from mlip_export.loaded import Function, open_function

SECONDS, ROUNDS = 2.0, (7, 60)
"""Time spent in one comparison, and bounds of the number of calls of each program."""


def build_each(
    programs: Mapping[str, torch.export.ExportedProgram],
    path: Path,
    isa: str,
    device: torch.device,
    choice: Callable[[Mapping[str, Function]], str],
) -> tuple[torch.export.ExportedProgram, Function]:
    """Build every program, and keep as ``path`` the one that ``choice`` names; return it, and it compiled."""
    built = {}
    for name, program in programs.items():
        (folder := path.parent / name).mkdir()
        built[name] = folder / path.name
        inductor.build(program, built[name], inductor.options(isa))
    functions = {name: open_function(place, device) for name, place in built.items()}
    best = choice(functions)
    os.replace(built[best], path)
    return programs[best], functions[best]


def least_seconds(
    functions: Mapping[str, Function],
    inputs: Inputs,
    clock: Callable[[], float],
    rounds: tuple[int, int] = ROUNDS,
) -> dict[str, float]:
    """Return the least time of a call of each function, called in turn after a first call that is not timed.

    The calls take ``SECONDS``, within the bounds of their number.
    """
    best = dict.fromkeys(functions, math.inf)
    for function in functions.values():
        function(*inputs)
    end, count = time.perf_counter() + SECONDS, 0
    while count < rounds[0] or (count < rounds[1] and time.perf_counter() < end):
        count += 1
        for name, function in functions.items():
            begin = clock()
            function(*inputs)
            best[name] = min(best[name], clock() - begin)
    return best
