"""Rewriting of a traced graph: products with constant matrices by our kernel, with what follows in its epilogue."""

from __future__ import annotations

import operator
from collections import Counter
from dataclasses import dataclass, field
from functools import reduce
from typing import Any, cast

import torch
from torch import Tensor, fx
from torch.fx.experimental.symbolic_shapes import statically_known_true

from mlip_export.products.join import join, result
from mlip_export.products.measure import faster
from mlip_export.products.ops import products
from mlip_export.products.pack import LANES, pack

aten = torch.ops.aten
_VIEWS = (aten.view.default, aten.select.int, aten.t.default)
"""Operations between a constant and a product."""
CLEARLY = 0.9
"""Ratio of times below which torch's product is clearly faster than one of ours that saves a pass over its result."""


@dataclass
class Products:
    """Which products of a program run in our kernel, and what that was chosen by."""

    lanes: int
    """Which kernel: one of ``pack.LANES``."""
    over_torch: dict[str, float] = field(default_factory=dict)
    """By "inner x columns": how many times as fast as ``torch.mm`` our kernel was, on one thread; empty for tiles."""
    speedup: float = 1.0
    """The same for all products that the kernel may compute, weighted by their operations."""
    kernels: dict[str, int] = field(default_factory=dict)
    """Number of products by what the kernel does behind them; ``torch`` counts those left to torch."""
    milliseconds: dict[str, float] = field(default_factory=dict)
    """Time of a call of the whole program by its products, ``packed`` or ``torch``, and number of threads; empty where
    ``speedup`` decided."""
    chosen: str = "torch"
    """``packed`` where our kernel is in the exported model: ``speedup`` is clear, or the whole program was faster with
    every number of threads."""

    @property
    def ours(self) -> int:
        """Number of products that the kernel computes where it is chosen."""
        return sum(self.kernels.get(kind, 0) for kind in ("plain", "silu", "times"))


def use_packed_products(graph_module: fx.GraphModule, record: Products) -> None:
    """Let products of float32 matrices with constants run in our kernel, where torch's is not faster.

    Where the kernel saves a pass over an operand or the result, torch's must be clearly faster to be kept. Products in
    a row become one call.

    A product whose result goes through silu gives silu and its derivative, and the backward pass multiplies by that; a
    product with one inner element becomes an outer product by broadcasting, one with one column a sum.
    """
    graph, lanes, done = graph_module.graph, record.lanes, Counter[str]()
    for node in list(graph.nodes):
        if node.target is aten.mm.default and node.meta["val"].dtype == torch.float32:
            _narrow(node, done)
    matrices = {
        node: matrix
        for node in graph.nodes
        if node.target is aten.mm.default
        and node.meta["val"].dtype == torch.float32
        and (matrix := _constant(graph_module, node.args[1])) is not None
        and min(matrix.shape) > 1
    }
    shapes = {(m.shape[0], m.shape[1]) for m in matrices.values()}
    ratios = dict.fromkeys(shapes, 1.0)
    # Of tiles all or none are taken, by the time of the whole program: one product alone has to split its operand
    # (those in a row need not), and what else runs on the processor changes their time more than that of vectors.
    if shapes and lanes != LANES["amx"]:
        ratios = faster(shapes, lanes)
        record.over_torch = {f"{i}x{n}": round(ratio, 2) for (i, n), ratio in ratios.items()}
    work = [(m.numel(), ratios[m.shape[0], m.shape[1]]) for m in matrices.values()]
    if work:
        record.speedup = round(sum(n for n, _ in work) / sum(n / ratio for n, ratio in work), 3)
    for node, matrix in list(matrices.items()):
        if ratios[matrix.shape[0], matrix.shape[1]] < CLEARLY:
            del matrices[node]
            done["torch"] += 1
    slopes = {
        node: slope
        for node, matrix in matrices.items()
        if (slope := _silu(graph_module, node, matrix, lanes))
    }
    done["silu"] = len(slopes)
    for node in slopes:
        del matrices[node]
    for slope in slopes.values():
        for times in [user for user in slope.users if user.target is aten.mul.Tensor]:
            if found := _behind(times.args[0], slope, matrices):
                _times(graph_module, times, slope, found, matrices, lanes)
                del matrices[found[0]]
                done["times"] += 1
    for node, matrix in matrices.items():
        if ratios[matrix.shape[0], matrix.shape[1]] < 1.0 and result(_nodes(node)[0]) is None:
            done["torch"] += 1
            continue
        with graph.inserting_before(node):
            new = _item(graph, _call(graph_module, "plain", _nodes(node)[0], matrix, lanes), 0, node.meta)
        node.replace_all_uses_with(new)
        done["plain"] += 1
    graph.eliminate_dead_code()
    join(graph)
    graph.eliminate_dead_code()
    graph_module.recompile()
    record.kernels = {kind: number for kind, number in sorted(done.items()) if number}


def _narrow(node: fx.Node, done: Counter[str]) -> None:
    """Replace a product with one inner element, or with one column, by pointwise operations and sums."""
    graph = node.graph
    x, w = _nodes(node)
    inner, columns = w.meta["val"].shape
    with graph.inserting_before(node):
        if inner == 1:
            outer = graph.call_function(aten.mul.Tensor, (x, w))
            outer.meta = dict(node.meta)
            node.replace_all_uses_with(outer)
            done["outer"] += 1
        elif columns == 1:
            row = graph.call_function(aten.t.default, (w,))
            terms, first = [], 0
            for part in _parts(x):
                width = part.meta["val"].shape[1]
                weights = graph.call_function(aten.slice.Tensor, (row, 1, first, first + width))
                term = graph.call_function(aten.mul.Tensor, (part, weights))
                terms.append(graph.call_function(aten.sum.dim_IntList, (term, [1], True)))
                first += width
            total = reduce(lambda a, b: graph.call_function(aten.add.Tensor, (a, b)), terms)
            total.meta = dict(node.meta)
            node.replace_all_uses_with(total)
            done["sum"] += 1


def _nodes(node: fx.Node) -> list[fx.Node]:
    """Return the arguments of a product or sum of tensors."""
    return cast("list[fx.Node]", list(node.args))


def _parts(x: fx.Node) -> list[fx.Node]:
    """Return the matrices that ``x`` puts side by side."""
    if x.target is aten.cat.default and x.args[1:] == (1,):
        return list(cast("list[fx.Node]", x.args[0]))
    return [x]


def _constant(graph_module: fx.GraphModule, node: Any) -> Tensor | None:
    """Return the value of a node that depends on constants alone."""
    if node.op == "get_attr":
        value = getattr(graph_module, node.target)
        return value if isinstance(value, Tensor) else None
    if node.op == "call_function" and node.target in _VIEWS:
        base = _constant(graph_module, node.args[0])
        return None if base is None else node.target(base, *node.args[1:])
    return None


def _call(
    graph_module: fx.GraphModule, epilogue: str, x: fx.Node, matrix: Tensor, lanes: int, *operands: fx.Node
) -> fx.Node:
    """Insert a product; its packed matrix becomes a constant of the graph."""
    name = f"_packed_{sum(1 for key in graph_module._buffers if key.startswith('_packed_'))}"
    graph_module.register_buffer(name, pack(matrix.detach(), lanes))
    packed = graph_module.graph.get_attr(name)
    arguments = (x, [packed], list(operands), [matrix.shape[1]], f"{epilogue}+", lanes)
    return graph_module.graph.call_function(products._opoverload, arguments)


def _item(graph: fx.Graph, node: fx.Node, k: int, meta: dict[str, Any]) -> fx.Node:
    """Insert the ``k``-th result of a node."""
    found = graph.call_function(operator.getitem, (node, k))
    found.meta = dict(meta)
    return found


def _silu(graph_module: fx.GraphModule, node: fx.Node, matrix: Tensor, lanes: int) -> fx.Node | None:
    """Fuse a product with the silu behind it; return the derivative, None where something else reads the product."""
    graph = graph_module.graph
    forward = [user for user in node.users if user.target is aten.silu.default]
    backward = [
        user for user in node.users if user.target is aten.silu_backward.default and user.args[1] is node
    ]
    if not forward or len(forward) + len(backward) < len(node.users):
        return None
    with graph.inserting_before(node):
        both = _call(graph_module, "silu", _nodes(node)[0], matrix, lanes)
        value, slope = (_item(graph, both, k, node.meta) for k in range(2))
    for user in forward:
        user.replace_all_uses_with(value)
    for user in backward:
        with graph.inserting_before(user):
            user.replace_all_uses_with(graph.call_function(aten.mul.Tensor, (user.args[0], slope)))
    for user in (*forward, *backward):
        graph.erase_node(user)
    return slope


def _behind(
    node: Any, slope: fx.Node, matrices: dict[fx.Node, Tensor]
) -> tuple[fx.Node, fx.Node | None] | None:
    """Return the product (and the other term) that ``node`` is, or is the sum of, if nothing else reads them.

    All have the size and dtype of ``slope``: the kernel does not broadcast.
    """
    if not isinstance(node, fx.Node) or len(node.users) > 1:
        return None
    if node in matrices:
        return (node, None) if _alike(node, slope) else None
    if node.target is aten.add.Tensor and not node.kwargs:
        one, two = _nodes(node)
        for term, other in ((one, two), (two, one)):
            if term in matrices and len(term.users) == 1 and _alike(term, slope) and _alike(other, slope):
                return term, other
    return None


def _alike(one: Any, other: Any) -> bool:
    """Return whether two nodes are matrices of one size and dtype, as far as is known without assuming it."""
    if not (isinstance(one, fx.Node) and isinstance(other, fx.Node)):
        return False
    a, b = one.meta.get("val"), other.meta.get("val")
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)) or a.ndim != b.ndim or a.dtype != b.dtype:
        return False
    return all(statically_known_true(m == n) for m, n in zip(a.shape, b.shape, strict=True))


def _times(
    graph_module: fx.GraphModule,
    times: fx.Node,
    slope: fx.Node,
    found: tuple[fx.Node, fx.Node | None],
    matrices: dict[fx.Node, Tensor],
    lanes: int,
) -> None:
    """Compute a sum and its product with ``slope`` in the epilogue of a product."""
    node, addend = found
    operands = (slope,) if addend is None else (slope, addend)
    with graph_module.graph.inserting_before(times):
        epilogue = "times" if addend is None else "sum_times"
        call = _call(graph_module, epilogue, _nodes(node)[0], matrices[node], lanes, *operands)
        new = _item(graph_module.graph, call, 0, times.meta)
    times.replace_all_uses_with(new)
    graph_module.graph.erase_node(times)
