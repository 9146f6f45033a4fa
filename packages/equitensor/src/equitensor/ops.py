"""Registered operators, all in one table: arguments, shape of the result, derivatives.

The edge–atom sums are the partial contractions of T(w, basis, features) and of T(w, basis, features, scale), the
products those of T(x, y, g; W) = Σ W[p, u] C^p_{abo} x[z, a, u] y[z, b, u] g[z, o, u]. Each derivative is another
contraction of the same form, so derivatives of every order exist.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch._library.custom_ops import CustomOpDef

from equitensor.dispatch import decompose_when_compiled, implementation, outside_autocast, refuse_forward_mode
from equitensor.irreps import irreps_dim
from equitensor.paths import parse_spec

Call = tuple[str, tuple[Any, ...]]
"""An operator of the table and its arguments but ``sources``."""


class Operator(NamedTuple):
    """One operator."""

    arguments: str
    """Of the schema; tensors come first."""
    shape: Callable[..., tuple[Any, ...]]
    """Shape of the result from the arguments; its dtype and device are those of the first."""
    gradients: tuple[Callable[..., Call], ...]
    """For each differentiable argument (they come first) the call that gives its gradient, from (g, *arguments)."""
    check: Callable[..., None] | None = None
    """Raises for wrong values of the arguments, in eager mode."""
    compute: Callable[..., Tensor] | None = None
    """The value, where it is not the function of this name of the device's backend."""
    together: bool = False
    """Whether the operator NAME_backward gives all gradients at once, where all are needed."""


def _check_centers(centers: Tensor, num_atoms: int) -> None:
    """Refuse centers that are unsorted or out of range, on the CPU."""
    if centers.device.type != "cpu" or not centers.shape[0]:
        return
    low, high = int(centers[0]), int(centers[-1])
    if low < 0 or high >= num_atoms or bool((centers[1:] < centers[:-1]).any()):
        raise ValueError(
            f"centers must be sorted indices of {num_atoms} atoms, got "
            + ("some outside them" if low < 0 or high >= num_atoms else "an unsorted list")
        )


def _check_offsets(*arguments: Any) -> None:
    """Refuse offsets of other edges, on the CPU: ATen validates them in part only."""
    *_, centers, offsets, _ = arguments
    if centers.device.type != "cpu":
        return
    edges, counts = centers.shape[0], offsets.diff()
    if (
        offsets.shape[0] == 0
        or int(offsets[0]) != 0
        or int(offsets[-1]) != edges
        or (counts.numel() and int(counts.min()) < 0)
        or not torch.equal(torch.repeat_interleave(counts, output_size=edges), centers)
    ):
        raise ValueError(
            "offsets must be row_offsets(centers, N) of these centers, got offsets of other edges, or centers "
            "that are not sorted or not in 0 … N − 1"
        )


def _row_offsets(centers: Tensor, num_atoms: int) -> Tensor:
    return torch.searchsorted(centers, torch.arange(num_atoms + 1, device=centers.device))


def _third(first: Tensor, second: Tensor, weights: Tensor, spec: str, slots: Any) -> tuple[Any, ...]:
    return first.shape[0], irreps_dim(parse_spec(spec)[slots[2]]), first.shape[2]


def _per_path(x: Tensor, y: Tensor, g: Tensor, spec: str, coupled: bool) -> tuple[Any, ...]:
    paths = parse_spec(spec).num_paths
    return (paths, x.shape[2]) if coupled else (paths,)


def _gradient_of_weights(g: Tensor, a: Tensor, b: Tensor, weights: Tensor, spec: str, slots: Any) -> Call:
    operands = dict(zip(slots, (a, b, g), strict=True))
    return "contract_weights", (operands[0], operands[1], operands[2], spec, weights.dim() == 2)


def _edges(operands: str) -> str:
    return f"{operands}, Tensor centers, Tensor offsets, SymInt[] dims"


# contract leaves out the operand slots[2] of T(x, y, g; W), contract_weights leaves out W
TABLE = {
    "row_offsets": Operator(
        "Tensor centers, SymInt num_atoms", lambda c, n: (n + 1,), (), _check_centers, _row_offsets
    ),
    "to_atoms": Operator(
        _edges("Tensor w, Tensor basis"),
        lambda w, basis, centers, offsets, dims: (offsets.shape[0] - 1, basis.shape[1], w.shape[2]),
        (
            lambda g, w, basis, *rest: ("to_weights", (basis, g, *rest)),
            lambda g, w, basis, *rest: ("to_basis", (w, g, *rest)),
        ),
        _check_offsets,
    ),
    "to_weights": Operator(
        _edges("Tensor basis, Tensor features"),
        lambda basis, features, centers, offsets, dims: (basis.shape[0], len(dims), features.shape[2]),
        (
            lambda g, basis, features, *rest: ("to_basis", (g, features, *rest)),
            lambda g, basis, features, *rest: ("to_atoms", (g, basis, *rest)),
        ),
        _check_offsets,
    ),
    "to_basis": Operator(
        _edges("Tensor w, Tensor features"),
        lambda w, features, centers, offsets, dims: (w.shape[0], features.shape[1]),
        (
            lambda g, w, features, *rest: ("to_weights", (g, features, *rest)),
            lambda g, w, features, *rest: ("to_atoms", (w, g, *rest)),
        ),
        _check_offsets,
    ),
    "to_scalars": Operator(
        _edges("Tensor w, Tensor basis, Tensor features"),
        lambda w, basis, features, *rest: (w.shape[0], w.shape[2]),
        (
            lambda g, w, basis, features, *rest: ("scaled_to_weights", (basis, features, g, *rest)),
            lambda g, w, basis, features, *rest: ("scaled_to_basis", (w, features, g, *rest)),
            lambda g, w, basis, features, *rest: ("scaled_to_atoms", (w, basis, g, *rest)),
        ),
        _check_offsets,
        together=True,
    ),
    "scaled_to_atoms": Operator(
        _edges("Tensor w, Tensor basis, Tensor scale"),
        lambda w, basis, scale, centers, offsets, dims: (offsets.shape[0] - 1, basis.shape[1], w.shape[2]),
        (
            lambda g, w, basis, scale, *rest: ("scaled_to_weights", (basis, g, scale, *rest)),
            lambda g, w, basis, scale, *rest: ("scaled_to_basis", (w, g, scale, *rest)),
            lambda g, w, basis, scale, *rest: ("to_scalars", (w, basis, g, *rest)),
        ),
        _check_offsets,
    ),
    "scaled_to_weights": Operator(
        _edges("Tensor basis, Tensor features, Tensor scale"),
        lambda basis, features, scale, centers, offsets, dims: (
            basis.shape[0],
            len(dims),
            features.shape[2],
        ),
        (
            lambda g, basis, features, scale, *rest: ("scaled_to_basis", (g, features, scale, *rest)),
            lambda g, basis, features, scale, *rest: ("scaled_to_atoms", (g, basis, scale, *rest)),
            lambda g, basis, features, scale, *rest: ("to_scalars", (g, basis, features, *rest)),
        ),
        _check_offsets,
    ),
    "scaled_to_basis": Operator(
        _edges("Tensor w, Tensor features, Tensor scale"),
        lambda w, features, *rest: (w.shape[0], features.shape[1]),
        (
            lambda g, w, features, scale, *rest: ("scaled_to_weights", (g, features, scale, *rest)),
            lambda g, w, features, scale, *rest: ("scaled_to_atoms", (w, g, scale, *rest)),
            lambda g, w, features, scale, *rest: ("to_scalars", (w, g, features, *rest)),
        ),
        _check_offsets,
    ),
    "contract": Operator(
        "Tensor first, Tensor second, Tensor weights, str spec, SymInt[] slots",
        _third,
        (
            lambda g, a, b, w, spec, slots: ("contract", (g, b, w, spec, [slots[2], slots[1], slots[0]])),
            lambda g, a, b, w, spec, slots: ("contract", (a, g, w, spec, [slots[0], slots[2], slots[1]])),
            _gradient_of_weights,
        ),
    ),
    "contract_weights": Operator(
        "Tensor x, Tensor y, Tensor g, str spec, bool coupled",
        _per_path,
        (
            lambda w, x, y, g, spec, coupled: ("contract", (y, g, w, spec, [1, 2, 0])),
            lambda w, x, y, g, spec, coupled: ("contract", (x, g, w, spec, [0, 2, 1])),
            lambda w, x, y, g, spec, coupled: ("contract", (x, y, w, spec, [0, 1, 2])),
        ),
    ),
}


def backend_value(argument: Any) -> Any:
    """Return an argument as backends take it: a specification instead of its text, a tuple instead of a list."""
    if isinstance(argument, str):
        return parse_spec(argument)
    return tuple(argument) if isinstance(argument, (list, tuple)) else argument


def _register(name: str, entry: Operator) -> CustomOpDef:
    """Register the operator, its fake and its derivative.

    Those with kernels have the argument ``sources``, which tells caches of compiled graphs that kernels changed.
    """
    count, tensors = entry.arguments.count(",") + 1, entry.arguments.count("Tensor ")

    def compute(*arguments: Any) -> Tensor:
        if entry.compute is not None:
            return entry.compute(*arguments)
        first, *rest = (backend_value(a) for a in arguments[:count])
        with outside_autocast(first):
            out: Tensor = getattr(implementation(first), name)(first, *rest)
            return out

    def eager(*arguments: Any) -> Tensor:
        if entry.check is not None:
            entry.check(*arguments[:count])
        return compute(*arguments)

    def fake(*arguments: Any) -> Tensor:
        first: Tensor = arguments[0]
        return first.new_empty(entry.shape(*arguments[:count]))

    def save(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:tensors])
        ctx.rest, ctx.sources = inputs[tensors:count], inputs[count:]

    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        refuse_forward_mode(g)
        found: list[Tensor | None] = [None] * len(ctx.needs_input_grad)
        if entry.together and all(ctx.needs_input_grad[: len(entry.gradients)]):
            all_of_them = getattr(torch.ops.equitensor, f"{name}_backward")
            gradients = all_of_them(
                *ctx.saved_tensors[:3], g, *ctx.saved_tensors[3:], *ctx.rest, None, *ctx.sources
            )
            return (*gradients, *found[len(gradients) :])
        for n, gradient in enumerate(entry.gradients):
            if ctx.needs_input_grad[n]:
                operator, arguments = gradient(g, *ctx.saved_tensors, *ctx.rest)
                found[n] = OPERATORS[operator](*arguments, *ctx.sources)
        return tuple(found)

    sources = "" if entry.compute is not None else ', str sources=""'
    schema = f"({entry.arguments}{sources}) -> Tensor"
    op = torch.library.custom_op(f"equitensor::{name}", eager, mutates_args=(), schema=schema)
    op.register_fake(fake)
    if entry.gradients:
        op.register_autograd(backward, setup_context=save)
    decompose_when_compiled(op, compute)
    return op


OPERATORS = {name: _register(name, entry) for name, entry in TABLE.items()}
