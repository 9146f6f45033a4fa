"""Choice between products in pairs and torch's on a GPU, by the option or by the time of the whole compiled program."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlip_export import inductor
from mlip_export._precision import product_precision, setting
from mlip_export._trace import trace
from mlip_export.graphs import Graphs
from mlip_export.loaded import Function, open_function
from mlip_export.products.chain_rewrite import use_chained_products

CHAINED = ("no", "yes", "measured")
"""Whether pairs of products run in one kernel; ``measured``: if the whole program is faster so."""
ROUNDS = 20
"""Timed calls of each program."""


def check_triton(chained: str) -> None:
    """Raise ValueError unless the installed Triton has the kernels' products: in float64 they came with 3.5."""
    import triton

    if tuple(int(part) for part in triton.__version__.split(".")[:2]) < (3, 5):
        raise ValueError(
            f"chained must be 'no' with Triton {triton.__version__}, older than 3.5, got {chained!r}"
        )


def chosen(
    module: torch.nn.Module, graphs: Graphs, path: Path, precision: str, option: str, limit: int | None
) -> tuple[torch.export.ExportedProgram, Function | None, dict[str, Any]]:
    """Trace a model with pairs of products as one operator, or with torch's products where those are faster.

    Parameters
    ----------
    module : torch.nn.Module
        As for :func:`mlip_export._trace.trace`; so is ``limit``, as its ``index_limit``.
    graphs : Graphs
        To trace and time on.
    path : Path
        The file to build, in a folder that may hold others meanwhile.
    precision : str
        As for :func:`mlip_export.compile`.
    option : str
        ``yes`` or ``measured``.

    Returns
    -------
    program : ExportedProgram
        The one chosen.
    function : callable, optional
        The compiled program, which is in ``path``; None where nothing had to be built to choose.
    record : dict
        What the metadata's ``products`` holds.

    Raises
    ------
    ValueError
        Under ``yes``, for a model without such pairs.
    """
    kernels: dict[str, int] = {}
    chained = trace(
        module,
        graphs.traced,
        limit,
        rewrite=lambda joint: kernels.update(use_chained_products(joint, precision)),
    )
    record: dict[str, Any] = {"chosen": "chained", "kernels": kernels, "milliseconds": {}}
    if "forward" not in kernels:
        if option == "yes":
            raise ValueError(
                "chained must be 'no' or 'measured' for a model without two float32 hidden layers in a row of widths "
                f"that have a kernel, got {option!r}"
            )
        return chained, None, record | {"chosen": "torch"}
    if option == "yes":
        return chained, None, record
    programs, built = {"torch": trace(module, graphs.traced, limit), "chained": chained}, {}
    for name, program in programs.items():
        (folder := path.parent / name).mkdir()
        built[name] = folder / path.name
        inductor.build(program, built[name], inductor.options("native"))
    functions = {name: open_function(place) for name, place in built.items()}
    times = record["milliseconds"] = _milliseconds(functions, graphs, precision)
    best = record["chosen"] = "chained" if times["chained"] < times["torch"] else "torch"
    os.replace(built[best], path)
    return programs[best], functions[best], record


def _milliseconds(functions: Mapping[str, Function], graphs: Graphs, precision: str) -> dict[str, float]:
    """Return the least time of a call of each function on the largest graph, called in turn."""
    place, best = graphs.traced.types.device, dict.fromkeys(functions, math.inf)
    largest = max(graphs.reference.values(), key=lambda given: given.edge_vectors.shape[0])
    inputs = [t.to(place) for t in largest]

    def wait() -> None:
        if place.type == "cuda":
            torch.cuda.synchronize(place)

    with product_precision(place.type, setting(place.type, precision)):
        for count in range(1 + ROUNDS):
            for name, function in functions.items():
                wait()
                begin = time.perf_counter()
                function(*inputs)
                wait()
                if count:  # the first loads the kernels
                    best[name] = min(best[name], time.perf_counter() - begin)
    return {name: round(1e3 * seconds, 3) for name, seconds in best.items()}
