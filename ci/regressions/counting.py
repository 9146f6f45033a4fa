"""Exact counts of one call: floating-point operations, dispatched operators, and the peak of allocated bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from equitensor.paths import coupling_table, parse_spec
from mlip_export._limits import peak_bytes

Shape = Sequence[int]
# Multiplications and additions of each registered operator, from the formula it computes (shapes, no tensors).


def _edges_atoms(w: Shape, basis: Shape, *_: Any, **__: Any) -> int:
    """Σ_e w[e, l, u] Y[e, lm]: one multiplication and one addition per edge, component and channel."""
    return 2 * w[0] * basis[1] * w[2]


def _to_weights(basis: Shape, features: Shape, *_: Any, **__: Any) -> int:
    return 2 * basis[0] * basis[1] * features[2]


def _to_basis(w: Shape, features: Shape, *_: Any, **__: Any) -> int:
    return 2 * w[0] * features[1] * w[2]


def _to_scalars(w: Shape, basis: Shape, *_: Any, **__: Any) -> int:
    return 2 * w[0] * (basis[1] + w[1]) * w[2]


def _scaled_to_atoms(w: Shape, basis: Shape, *_: Any, **__: Any) -> int:
    return _edges_atoms(w, basis) + w[0] * w[1] * w[2]


def _scaled_to_weights(
    basis: Shape, features: Shape, s: Shape, c: Any, o: Any, dims: Any, *_: Any, **__: Any
) -> int:
    return _to_weights(basis, features) + basis[0] * len(dims) * features[2]


def _scaled_to_basis(w: Shape, features: Shape, *_: Any, **__: Any) -> int:
    return _to_basis(w, features) + w[0] * w[1] * w[2]


def _to_scalars_backward(
    w: Shape, basis: Shape, f: Shape, s: Shape, c: Any, o: Any, dims: Any, *_: Any, **__: Any
) -> int:
    scaled = _scaled_to_weights(basis, f, s, c, o, dims)
    return scaled + _scaled_to_basis(w, f) + _scaled_to_atoms(w, basis)


def _to_scalars_second(
    w: Shape,
    basis: Shape,
    f: Shape,
    s: Shape,
    by_w: Any,
    by_y: Any,
    by_f: Any,
    c: Any,
    o: Any,
    dims: Any,
    *_: Any,
    **__: Any,
) -> int:
    """Its seven sums over edges."""
    scaled = _scaled_to_weights(basis, f, s, c, o, dims) + _scaled_to_atoms(w, basis)
    return 2 * scaled + 3 * _to_scalars(w, basis)


def _coefficients(spec: str) -> int:
    return len(coupling_table(*parse_spec(spec)).value)


def _contract(first: Shape, second: Shape, weights: Shape, spec: str, *_: Any, **__: Any) -> int:
    """Two products and a sum per coefficient, row and channel."""
    return 3 * first[0] * first[2] * _coefficients(spec)


def _contract_weights(x: Shape, y: Shape, g: Shape, spec: str, *_: Any, **__: Any) -> int:
    return 3 * x[0] * x[2] * _coefficients(spec)


def _operators() -> dict[Any, Callable[..., int]]:
    ours = torch.ops.equitensor
    return {
        ours.to_atoms: _edges_atoms,
        ours.to_weights: _to_weights,
        ours.to_basis: _to_basis,
        ours.to_scalars: _to_scalars,
        ours.to_scalars_backward: _to_scalars_backward,
        ours.to_scalars_second: _to_scalars_second,
        ours.scaled_to_atoms: _scaled_to_atoms,
        ours.scaled_to_weights: _scaled_to_weights,
        ours.scaled_to_basis: _scaled_to_basis,
        ours.contract: _contract,
        ours.contract_weights: _contract_weights,
    }


class Operators(TorchDispatchMode):
    """Counts every operator that is dispatched while it is entered, by name, and its floating-point operations.

    torch's own FlopCounterMode hooks modules, which ``autograd.grad`` inside the call does not bear; the formulas
    are its registry's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.flops = 0
        self.formulas = flop_registry | {op: shape_wrapper(f) for op, f in _operators().items()}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count and go on."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self.calls[str(func)] += 1
        formula = self.formulas.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        return out


def count(call: Callable[[], object]) -> dict[str, Any]:
    """FLOPs, dispatched operators (in all and by name) and peak bytes of ``call``, which is warmed up first.

    FLOPs are those of matrix products, by torch's counter, and of equitensor's operators, by their formulas;
    elementwise operators count under ``dispatched`` alone.
    """
    call()
    operators = Operators()
    with operators:
        call()
    return {
        "flops": operators.flops,
        "dispatched": sum(operators.calls.values()),
        "operators": dict(sorted(operators.calls.items())),
        "peak_bytes": peak_bytes(call, torch.device("cpu")),
    }
