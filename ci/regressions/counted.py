"""What the counters are taken of: the three presets' forward and forces, train step, exported graphs, and kernels."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any
from unittest import mock

import torch
from benchmarks.systems import PRESETS, System, box, model
from torch._dynamo.utils import counters as dynamo_counters

import localgraph
import mlip_train.steps.trace
from ci.regressions import lowered, registers
from ci.regressions.counting import count
from mlip_export._trace import trace
from mlip_export.graphs import Inputs
from mlip_export.products import rewrite
from mlip_export.products.pack import LANES
from mlip_train import Batch, compile_step
from mlip_train.config import LossConfig

Counters = dict[str, Any]
KERNELS = ((2, 64), (3, 64), (3, 128))
"""(l_max, channels) of the three presets."""
ARCHITECTURE = 90


def batch(system: System) -> Batch:
    """One frame of a box with labels of zero, as the training step takes it."""
    n, f64 = system.atoms, torch.float64
    zeros = torch.zeros(n, dtype=torch.int64)
    return Batch(
        positions=system.positions,
        edges=system.graph.edge_index.int(),
        shifts=system.graph.shifts.short(),
        cells=system.cell[None],
        types=system.types,
        frame=zeros,
        atoms=torch.tensor([n], dtype=f64),
        volume=system.cell.det().abs().reshape(1),
        energy=torch.zeros(1, dtype=f64),
        forces=torch.zeros(n, 3, dtype=f64),
        stress=torch.zeros(1, 3, 3, dtype=f64),
        energy_weight=torch.ones(1, dtype=f64),
        force_weight=torch.ones(n, dtype=f64),
        stress_weight=torch.zeros(1, dtype=f64),
        norms=torch.tensor([1.0, 3.0 * n, 1.0], dtype=f64),
        subset=zeros[:1],
        row=zeros[:1],
    )


def forward(preset: str) -> Counters:
    """Energies and edge forces in eager PyTorch with folded weights."""
    system, potential = box(2), model(preset).for_inference()
    return count(
        lambda: localgraph.energies_and_edge_forces(
            potential, system.vectors, system.graph.edge_index, system.types
        )
    )


def train_step(preset: str) -> Counters:
    """The eager training step with its parameter gradients."""
    given, potential = batch(box(2)), model(preset)
    step, weights = compile_step(potential, LossConfig(), "eager"), torch.ones(3, dtype=torch.float64)

    def call() -> None:
        step(given, weights).loss.backward()
        potential.zero_grad()

    return count(call)


def nodes(graph: torch.fx.Graph) -> Counters:
    """The nodes of a graph, in all and by target."""
    targets = Counter(str(node.target) for node in graph.nodes if node.op == "call_function")
    return {"nodes": len(graph.nodes), "operators": dict(sorted(targets.items()))}


def whole_step(preset: str) -> Counters:
    """The graph of the whole training step, as Inductor is given it."""
    seen: list[torch.fx.GraphModule] = []

    def keep(graph: torch.fx.GraphModule, _: Any) -> torch.fx.GraphModule:
        seen.append(copy.deepcopy(graph))
        return graph

    with mock.patch.object(mlip_train.steps.trace, "compile_fx", keep):
        compile_step(model(preset), LossConfig(), "full")
    return {"graphs": len(seen), **nodes(seen[0].graph)}


def exported(preset: str) -> Counters:
    """The program of energies and edge forces that a package is built from."""
    return program(model(preset))


def packed(preset: str) -> Counters:
    """The program that a package for AVX2 is built from where our kernel is chosen for every product that it can do."""
    products = rewrite.Products(LANES["avx2"])
    with mock.patch.object(
        rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, 2.0)
    ):  # not measured
        return program(model(preset), lambda graph: rewrite.use_packed_products(graph, products))


def program(potential: Any, change: Callable[[torch.fx.GraphModule], object] | None = None) -> Counters:
    """The nodes of the program of a model with folded weights, whose graph ``change`` changes before it is exported."""
    system, folded = box(3), potential.for_inference()
    for parameter in folded.parameters():
        parameter.requires_grad_(False)
    inputs = Inputs(system.vectors, system.graph.edge_index, system.types)
    return nodes(trace(folded, inputs, rewrite=change).graph)


def compiled(preset: str) -> Counters:
    """Graphs and graph breaks of ``torch.compile(model)`` over two sizes."""
    graphs = 0

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        nonlocal graphs
        graphs += 1
        return graph.forward

    torch.compiler.reset()
    dynamo_counters.clear()
    run = torch.compile(model(preset), backend=backend, dynamic=True)
    with torch.no_grad():
        for system in (box(2), box(3)):
            run(system.vectors, system.graph.edge_index, system.types)
    return {"graphs": graphs, "graph_breaks": sum(dynamo_counters["graph_break"].values())}


def kernels() -> Counters:
    """Registers and spilled bytes of the Triton kernels at the presets' shapes, compiled for sm_90 with no GPU."""
    return {
        f"sm_{ARCHITECTURE} l_max={l_max} C={channels} fp32": registers.preset(l_max, channels, ARCHITECTURE)
        for l_max, channels in KERNELS
    }


COUNTED: dict[str, Callable[[str], Counters]] = {
    "forward and forces": forward,
    "train step": train_step,
    "whole train step, traced": whole_step,
    "exported graph": exported,
    "exported graph, packed products": packed,
    "torch.compile": compiled,
}


def groups() -> dict[str, Callable[[], Counters]]:
    """What counts every group, by the group's name."""
    found = {f"{name}, {preset}": partial(of, preset) for name, of in COUNTED.items() for preset in PRESETS}
    return {**found, **lowered.groups(PRESETS)}
