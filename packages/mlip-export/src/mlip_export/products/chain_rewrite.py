"""Rewriting of a traced graph for a GPU: two hidden layers as one operator, and their gradient as another."""

from __future__ import annotations

import operator
from collections import Counter
from typing import Any, NamedTuple, cast

import torch
from torch import fx

from mlip_export.products.chain import has_kernel, hidden_layers, hidden_layers_backward

aten = torch.ops.aten


class _Chain(NamedTuple):
    """Two products in a row, with silu between them."""

    parts: list[fx.Node]
    first: fx.Node
    second: fx.Node
    inner: fx.Node
    """The first product."""
    between: fx.Node
    outer: fx.Node
    """The second product."""


def use_chained_products(graph_module: fx.GraphModule, precision: str) -> dict[str, int]:
    """Replace pairs of float32 products with silu between them, and the pairs of their gradients, by operators.

    What lies between the two products must be read by nothing else but its gradient; matrices on the right must have
    sizes that are known. Pairs without a kernel for their sizes stay as they are.

    Where there are pairs, a product of a sum of operators' results is distributed over the terms if its own result is
    narrower, so that the wide sum is not written.

    Parameters
    ----------
    graph_module : fx.GraphModule
        Of aten operators, functional, with the values' shapes in its nodes' metadata.
    precision : str
        What the products round their operands to, as for :func:`mlip_export.compile`.

    Returns
    -------
    dict
        Numbers of pairs ``forward`` and ``backward``, of sums that are ``split``, and of products left to torch, where
        there are any.
    """
    graph, done = graph_module.graph, Counter[str]()
    for node in list(graph.nodes):
        chain = _chain(node)
        if chain is not None:
            slope = _replace(graph, chain, precision)
            done["forward"] += 1
            done["backward"] += _replace_gradients(graph, chain, slope, precision)
    if done["forward"]:
        done["split"] = _split_sums(graph)
    graph.eliminate_dead_code()
    graph.lint()
    graph_module.recompile()
    done["torch"] = sum(_is_product(node) for node in graph.nodes)
    return {kind: number for kind, number in sorted(done.items()) if number}


def _is_product(node: Any) -> bool:
    return (
        isinstance(node, fx.Node) and node.target is aten.mm.default and _value(node).dtype == torch.float32
    )


def _value(node: fx.Node) -> Any:
    return node.meta["val"]


def _sizes(matrix: fx.Node) -> tuple[int, int] | None:
    """Return the sizes of a matrix if both are known."""
    rows, columns = (_number(size) for size in _value(matrix).shape)
    return None if rows is None or columns is None else (rows, columns)


def _number(size: int | torch.SymInt) -> int | None:
    """Return a size if it is known."""
    return size if isinstance(size, int) else cast("int | None", size.node.maybe_as_int())


def _only_user(node: fx.Node) -> Any:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _gradients(product: fx.Node) -> list[fx.Node]:
    """Return the gradients of silu of a product."""
    return [
        user
        for user in product.users
        if user.target is aten.silu_backward.default
        and user.args[1] is product
        and user.args[0] is not product
    ]


def _activation(product: fx.Node) -> fx.Node | None:
    """Return silu of a product that nothing reads but it and its gradients."""
    values = [user for user in product.users if user.target is aten.silu.default]
    return values[0] if len(values) == 1 and 1 + len(_gradients(product)) == len(product.users) else None


def _chain(inner: fx.Node) -> _Chain | None:
    """Return the pair of products that begins with a node, if there is a kernel for it."""
    if not _is_product(inner):
        return None
    between = _activation(inner)
    if between is None:
        return None
    outer = _only_user(between)
    if not _is_product(outer) or outer.args[0] is not between:
        return None
    x, first = cast("list[fx.Node]", inner.args)
    second = cast(fx.Node, outer.args[1])
    sizes, next_sizes = _sizes(first), _sizes(second)
    if sizes is None or next_sizes is None:
        return None
    parts = list(cast("list[fx.Node]", x.args[0])) if _is_row(x) else [x]
    for left in (parts, [x]):
        widths = [_number(_value(part).shape[1]) for part in left]
        if has_kernel(tuple(width or 0 for width in widths), *next_sizes):
            return _Chain(left, first, second, inner, between, outer)
    return None


def _is_row(x: fx.Node) -> bool:
    """Return whether a matrix is others side by side."""
    return x.target is aten.cat.default and x.args[1:] in ((1,), (-1,))


def _replace(graph: fx.Graph, chain: _Chain, precision: str) -> fx.Node:
    """Put the operator in the place of both products, and of silu of the second if that is stored anyway.

    Returns the derivative of the silu between them.
    """
    hidden = _activation(chain.outer)
    activated = hidden is not None and any(user.target is not aten.mul.Tensor for user in hidden.users)
    arguments = (chain.parts, chain.first, chain.second, activated, precision)
    with graph.inserting_before(chain.outer):
        both = graph.call_function(hidden_layers._opoverload, arguments)
        slope, out, value = (graph.call_function(operator.getitem, (both, k)) for k in range(3))
    slope.meta, out.meta = dict(chain.inner.meta), dict(chain.outer.meta)
    if activated and hidden is not None:
        value.meta = dict(chain.outer.meta)
        hidden.replace_all_uses_with(value)
        for gradient in _gradients(chain.outer):
            _multiply(graph, gradient, out)
    else:
        chain.outer.replace_all_uses_with(out)
    return slope


def _multiply(graph: fx.Graph, gradient: fx.Node, slope: fx.Node) -> None:
    """Let a gradient through silu be a product with its derivative."""
    with graph.inserting_before(gradient):
        times = graph.call_function(aten.mul.Tensor, (gradient.args[0], slope))
    times.meta = dict(gradient.meta)
    gradient.replace_all_uses_with(times)
    graph.erase_node(gradient)


def _replace_gradients(graph: fx.Graph, chain: _Chain, slope: fx.Node, precision: str) -> int:
    """Put the operator in the place of the products of the gradients; return how many there are."""
    replaced = 0
    for gradient in _gradients(chain.inner):
        before, after = gradient.args[0], _only_user(gradient)
        if (
            _is_transposed_product(before, chain.second)
            and _only_user(cast(fx.Node, before)) is gradient
            and _is_transposed_product(after, chain.first)
            and after.args[0] is gradient
        ):
            g = cast(fx.Node, before).args[0]
            with graph.inserting_before(after):
                arguments = (g, slope, chain.first, chain.second, precision)
                new = graph.call_function(hidden_layers_backward._opoverload, arguments)
            new.meta = dict(after.meta)
            after.replace_all_uses_with(new)
            replaced += 1
        else:
            _multiply(graph, gradient, slope)
    return replaced


def _split_sums(graph: fx.Graph) -> int:
    """Distribute products over sums of what operators have written, where the sum is wider than the product."""
    split = 0
    for node in [node for node in graph.nodes if _is_product(node)]:
        x, matrix = cast("list[fx.Node]", node.args)
        shaped = x.target is aten.view.default and len(x.users) == 1
        terms, sizes = _terms(cast(fx.Node, x.args[0]) if shaped else x), _sizes(matrix)
        if sizes is None or sizes[0] <= sizes[1] or len(terms) == 1:
            continue
        with graph.inserting_before(node):
            products = []
            for term in terms:
                if shaped:
                    term = graph.call_function(aten.view.default, (term, x.args[1]))
                    term.meta = dict(x.meta)
                products.append(graph.call_function(aten.mm.default, (term, matrix)))
                products[-1].meta = dict(node.meta)
            total = products[0]
            for product in products[1:]:
                total = graph.call_function(aten.add.Tensor, (total, product))
                total.meta = dict(node.meta)
        node.replace_all_uses_with(total)
        split += 1
    return split


def _terms(node: fx.Node) -> list[fx.Node]:
    """Return the terms of a sum read at most once, if all are results of operators outside aten; else the node."""
    if node.target is not aten.add.Tensor or node.kwargs or len(node.users) > 1:
        return [node]
    found: list[fx.Node] = []
    for term in node.args:
        if not isinstance(term, fx.Node) or _value(term).shape != _value(node).shape:
            return [node]
        found += _terms(term)
    return found if all(_is_written(term) for term in found) else [node]


def _is_written(node: fx.Node) -> bool:
    """Return whether a node is one of the results of an operator that compilers do not fuse."""
    source = node.args[0] if node.target is operator.getitem else None
    return isinstance(source, fx.Node) and getattr(source.target, "namespace", "aten") != "aten"


def _is_transposed_product(node: Any, matrix: fx.Node) -> bool:
    """Return whether a node is a product with the transpose of a matrix on the right."""
    return (
        _is_product(node)
        and isinstance(right := node.args[1], fx.Node)
        and right.target is aten.t.default
        and _same(right.args[0], matrix)
    )


def _same(one: Any, other: fx.Node) -> bool:
    """Return whether two nodes are one value: a tracer may read a constant by another node where it is used again."""
    return one is other or (one.op == other.op == "get_attr" and one.target == other.target)
