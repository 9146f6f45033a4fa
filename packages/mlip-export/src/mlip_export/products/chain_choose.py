"""Choice between products in pairs and torch's on a GPU, by the option or by the time of the whole compiled program."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from mlip_export._precision import product_precision, setting
from mlip_export._trace import trace
from mlip_export.graphs import Graphs, Inputs
from mlip_export.loaded import Function
from mlip_export.products.candidates import build_each, least_seconds
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

    def choice(functions: Mapping[str, Function]) -> str:
        times = record["milliseconds"] = _milliseconds(functions, graphs, precision)
        record["chosen"] = "chained" if times["chained"] < times["torch"] else "torch"
        return str(record["chosen"])

    programs = {"torch": trace(module, graphs.traced, limit), "chained": chained}
    return *build_each(programs, path, "native", graphs.traced.types.device, choice), record


def _milliseconds(functions: Mapping[str, Function], graphs: Graphs, precision: str) -> dict[str, float]:
    """Return the least time of a call of each function on the largest graph, called in turn."""
    place = graphs.traced.types.device
    largest = max(graphs.reference.values(), key=lambda given: given.edge_vectors.shape[0])
    inputs = Inputs(*(t.to(place) for t in largest))

    def clock() -> float:
        if place.type == "cuda":
            torch.cuda.synchronize(place)
        return time.perf_counter()

    with product_precision(place.type, setting(place.type, precision)):
        best = least_seconds(functions, inputs, clock, (ROUNDS, ROUNDS))
    return {name: round(1e3 * seconds, 3) for name, seconds in best.items()}
