"""Trace an EdgeModel to a program of energies and edge forces with dynamic sizes."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.fx.experimental import _config as fx_config
from torch.fx.experimental.proxy_tensor import make_fx

from localgraph import energies_and_edge_forces
from mlip_export._limits import widths
from mlip_export.graphs import Inputs


def trace(
    module: torch.nn.Module,
    example: Inputs,
    index_limit: int | None = None,
    bf16: bool = False,
    rewrite: Callable[[torch.fx.GraphModule], object] | None = None,
) -> torch.export.ExportedProgram:
    """Trace energies and edge forces of ``module`` into a program with dynamic numbers of atoms and edges.

    The derivative is taken while tracing (``make_fx``), since ``torch.export`` does not export
    ``torch.autograd.grad``; weights become constants of the program.

    Parameters
    ----------
    module : torch.nn.Module
        Called as ``module(edge_vectors, edge_index, types)``; its parameters must not require gradients.
    example : Inputs
        Sizes that differ from one another and from every size in the model (duck shaping is off, so equal
        sizes would be harmless; they still steer the compiler's loop heuristics).
    index_limit : int, optional
        Elements of the largest tensor: bounds the numbers of atoms and edges of the program, so that the compiler knows
        that smaller indices do.
    bf16 : bool
        Round the operands of products of float32 matrices, and the products, to bf16.
    rewrite : callable, optional
        Changes the graph of energies and edge forces before it is exported.
    """
    with fx_config.patch(use_duck_shape=False):  # type: ignore[attr-defined]
        joint = joint_graph(module, example)
        if bf16:
            _round_products(joint.graph)
            joint.recompile()
        if rewrite is not None:
            rewrite(joint)
        program = export(joint, example, None, None)
        if index_limit is None:
            return program
        width = widths(program, example)
        return export(joint, example, index_limit // width.edge, index_limit // width.atom)


def joint_graph(module: torch.nn.Module, example: Inputs) -> torch.fx.GraphModule:
    """Return the graph of energies and edge forces."""

    def evaluate(edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        return energies_and_edge_forces(module, edge_vectors, edge_index, types)

    joint: torch.fx.GraphModule = make_fx(evaluate, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        *example
    )
    return joint


def _round_products(graph: torch.fx.Graph) -> None:
    """Let products of float32 matrices be of bf16; those with one column or row to sum have nothing to gain."""
    aten = torch.ops.aten
    for node in list(graph.nodes):
        if node.target not in (aten.mm.default, aten.bmm.default) or node.meta["val"].dtype != torch.float32:
            continue
        (*_, inner), (*_, columns) = (a.meta["val"].shape for a in node.args)
        if 1 in (inner, columns):
            continue
        with graph.inserting_before(node):
            operands = [
                graph.call_function(aten._to_copy.default, (a,), {"dtype": torch.bfloat16}) for a in node.args
            ]
            product = graph.call_function(node.target, tuple(operands))
            back = graph.call_function(aten._to_copy.default, (product,), {"dtype": torch.float32})
        node.replace_all_uses_with(back)
        graph.erase_node(node)


def export(
    joint: torch.fx.GraphModule, example: Inputs, max_edges: int | None, max_atoms: int | None
) -> torch.export.ExportedProgram:
    edges = torch.export.Dim("edges", min=1, max=max_edges)
    atoms = torch.export.Dim("atoms", min=1, max=max_atoms)
    shapes = ({0: edges}, {1: edges}, {0: atoms})
    return torch.export.export(joint, tuple(example), dynamic_shapes=shapes)
