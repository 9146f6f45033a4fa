"""Choice between our kernel of products and torch's, by the time of the products or of the whole compiled program."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path

import torch
from torch._inductor.cpu_vec_isa import valid_vec_isa_list
from torch.fx.experimental import _config as fx_config

from mlip_export import inductor
from mlip_export._trace import export, joint_graph
from mlip_export.graphs import Graphs, Inputs
from mlip_export.loaded import Function
from mlip_export.products.candidates import build_each, least_seconds
from mlip_export.products.pack import LANES
from mlip_export.products.rewrite import Products, use_packed_products

TIMED = "125 atoms"
"""The graph of the comparison that programs are timed on."""
CLEAR = 1.1
"""Speed of our kernel over ``torch.mm`` from which on the whole program need not be built with both to be timed."""


def fastest(
    module: torch.nn.Module, graphs: Graphs, path: Path, isa: str, products: Products
) -> tuple[torch.export.ExportedProgram, Function | None]:
    """Trace a model with either kind of products and choose the faster one, by building both where that is not clear.

    Parameters
    ----------
    module : torch.nn.Module
        As for :func:`mlip_export._trace.trace`.
    graphs : Graphs
        To trace and time on.
    path : Path
        The file to build, in a folder that may hold others meanwhile.
    isa : str
        As for :func:`mlip_export.compile`.
    products : Products
        Records what was measured and chosen.

    Returns
    -------
    program : ExportedProgram
        The one chosen.
    function : callable, optional
        It compiled, from ``path``; None where nothing had to be built to choose.
    """
    programs = _traced(module, graphs.traced, products)
    if len(programs) == 1:
        ((products.chosen, program),) = programs.items()
        return program, None

    def choice(built: Mapping[str, Function]) -> str:
        return choose(built, graphs.compared[TIMED], products)

    return build_each(programs, path, isa, torch.device("cpu"), choice)


def _traced(
    module: torch.nn.Module, example: Inputs, products: Products
) -> dict[str, torch.export.ExportedProgram]:
    """Trace ``module`` as ``torch``, and as ``packed`` with constant float32 matrices in our kernel.

    Only the first where that kernel computes nothing, only the second where it is clearly faster; ``products`` records
    what it does.
    """
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        joint = joint_graph(module, example)
        packed = torch.fx.GraphModule(joint, copy.deepcopy(joint.graph))
        use_packed_products(packed, products)
        found = {"torch": joint, "packed": packed}
        if not products.ours:
            del found["packed"]
        elif products.speedup >= CLEAR:
            del found["torch"]
        return {name: export(graph, example, None, None) for name, graph in found.items()}


def lanes_of(isa: str) -> int:
    """Return the lanes of the widest kernel for an instruction set that the compiler here can build.

    Raises
    ------
    KeyError
        If there is none.
    """
    code = inductor.code_of(isa)
    if code == "amx" and not any("amx" in str(found) for found in valid_vec_isa_list()):
        code = "avx512"
    return LANES[code]


def choose(functions: Mapping[str, Function], inputs: Inputs, products: Products) -> str:
    """Time the functions ``torch`` and ``packed``; choose the second if it is faster with every number of threads.

    Thread counts are one, where processor time counts, and what torch is set to, where time on the clock does.
    """
    before, faster = torch.get_num_threads(), True
    try:
        for threads in sorted({1, before}):
            torch.set_num_threads(threads)
            least = least_seconds(functions, inputs, time.thread_time if threads == 1 else time.perf_counter)
            for name, seconds in least.items():
                products.milliseconds[f"{name}, {threads} thread{'s' * (threads > 1)}"] = round(
                    1e3 * seconds, 3
                )
            faster = faster and least["packed"] < least["torch"]
    finally:
        torch.set_num_threads(before)
    products.chosen = "packed" if faster else "torch"
    return products.chosen
