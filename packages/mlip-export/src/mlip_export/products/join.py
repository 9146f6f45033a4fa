"""Products in a row by one call of the kernel: a block of rows passes through all of them while it is in the cache."""

from __future__ import annotations

import operator
from typing import Any, NamedTuple

from torch import fx

from mlip_export.products import ops

_PRODUCTS: Any = ops.products._opoverload


class _Call(NamedTuple):
    """Arguments of a call of the operator."""

    x: fx.Node
    packed: list[fx.Node]
    operands: list[fx.Node]
    columns: list[int]
    steps: str
    lanes: int

    @property
    def outputs(self) -> list[tuple[int, str]]:
        """The product and the name of each result."""
        return [(product, name) for _, product, name in ops.outputs(self.columns, self.steps)]


def _call(node: fx.Node) -> _Call:
    return _Call(*node.args)  # type: ignore[arg-type]


def result(node: Any) -> fx.Node | None:
    """Return the call of the kernel whose last product ``node`` is, or None."""
    if not isinstance(node, fx.Node) or node.target is not operator.getitem:
        return None
    call: Any = node.args[0]
    if call.target is not _PRODUCTS:
        return None
    found = _call(call)
    return call if found.outputs[node.args[1]] == (len(found.columns) - 1, "c") else None  # type: ignore[index]


def join(graph: fx.Graph) -> None:
    """Join each product with the one whose result is its left operand; a result that only it reads is not written."""
    for second in [node for node in graph.nodes if node.target is _PRODUCTS]:
        first = result(second.args[0])
        if first is not None and (place := _place(graph, first, second)) is not None:
            _join(graph, first, second, place)


def _place(graph: fx.Graph, first: fx.Node, second: fx.Node) -> fx.Node | None:
    """Return which of the two calls the joint one can stand in for, in the order of the graph; None for neither."""
    operands = _call(second).operands
    if any(node in first.users for node in operands):
        return None
    order = {node: i for i, node in enumerate(graph.nodes)}
    readers = {user for item in first.users for user in item.users} - {second}
    if all(order[reader] > order[second] for reader in readers):
        return second
    if all(order[node] < order[first] for node in operands):
        return first
    return None


def _join(graph: fx.Graph, first: fx.Node, second: fx.Node, place: fx.Node) -> None:
    one, two = _call(first), _call(second)
    steps = one.steps if len(two.x.users) > 1 else one.steps.removesuffix("+")
    with graph.inserting_before(place):
        packed: Any = [graph.get_attr(str(node.target)) for node in (*one.packed, *two.packed)]
        joint = _Call(
            one.x,
            packed,
            [*one.operands, *two.operands],
            [*one.columns, *two.columns],
            f"{steps} {two.steps}",
            one.lanes,
        )
        call = graph.call_function(_PRODUCTS, tuple(joint))
        items = {key: graph.call_function(operator.getitem, (call, k)) for k, key in enumerate(joint.outputs)}
    for node, outputs, shift in ((second, two.outputs, len(one.columns)), (first, one.outputs, 0)):
        for user in list(node.users):
            product, name = outputs[user.args[1]]  # type: ignore[index]
            if (item := items.get((product + shift, name))) is not None:
                item.meta = dict(user.meta)
                user.replace_all_uses_with(item)
            graph.erase_node(user)
        graph.erase_node(node)
