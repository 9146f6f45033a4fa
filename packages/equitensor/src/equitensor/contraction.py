"""The channel-wise tensor product with weights per path, and its closed family of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equitensor.dispatch import DTYPES, SOURCES, decompose_when_compiled, implementation
from equitensor.edges import to_weights
from equitensor.paths import Path, admissible_paths, irreps_dim, irreps_string
from equitensor.spec import Spec, make_spec, parse_spec


class TensorProduct:
    """The product out[z, o, u] = Σ_p W[p, u] Σ_{ab} C^p_{abo} x[z, a, u] y[z, b, u] of given irreps.

    C^p = √(2 l_out + 1) · Wigner 3j (component normalisation, basis of e3nn); the paths p are all
    admissible ones in the order of :func:`equitensor.paths.admissible_paths`. Holds no tensors and no
    parameters: a value, equal to another of the same irreps. Its Triton kernels multiply and add in float32 (or
    float64), without matrix products: TF32 settings of torch do not change them.

    Parameters
    ----------
    irreps_in1, irreps_in2, irreps_out : str, e3nn.o3.Irreps, or sequence of (l, p)
        Each irrep with multiplicity 1: channels are an axis.
    coupled : bool
        Weights per path and channel (P, C), else per path (P,).

    Attributes
    ----------
    num_paths : int
        P.
    paths : tuple of Path
        Positions (in1, in2, out) in the lists of irreps.

    Raises
    ------
    ValueError
        If some output irrep is reached by no path.

    Examples
    --------
    >>> tp = TensorProduct("0e + 1o", "0e + 1o", "0e")
    >>> tp
    TensorProduct(0e+1o ⊗ 0e+1o → 0e, 2 paths, coupled)
    >>> tp(torch.ones(5, 4, 8), torch.ones(5, 4, 8), torch.ones(2, 8)).shape
    torch.Size([5, 1, 8])
    """

    def __init__(self, irreps_in1: Any, irreps_in2: Any, irreps_out: Any, coupled: bool = True) -> None:
        self.spec: Spec = make_spec(irreps_in1, irreps_in2, irreps_out)
        self.coupled = coupled
        self.paths: tuple[Path, ...] = admissible_paths(*self.spec)

    @property
    def num_paths(self) -> int:
        """Number of paths."""
        return len(self.paths)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, TensorProduct) and (self.spec, self.coupled) == (other.spec, other.coupled)

    def __hash__(self) -> int:
        return hash((self.spec, self.coupled))

    def __repr__(self) -> str:
        in1, in2, out = (irreps_string(s) for s in self.spec)
        kind = "coupled" if self.coupled else "uncoupled"
        return f"TensorProduct({in1} ⊗ {in2} → {out}, {self.num_paths} paths, {kind})"

    def weight_shape(self, channels: int) -> tuple[int, ...]:
        """Shape of the weights for this many channels."""
        return (self.num_paths, channels) if self.coupled else (self.num_paths,)

    def __call__(
        self,
        x: Tensor,
        y: Tensor,
        weights: Tensor,
        centres: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> Tensor:
        """The product, (Z, O, C).

        Parameters
        ----------
        x : Tensor, (Z, A, C)
            First operand, channels last.
        y : Tensor, (Z, B, C), or (N, B, C) with ``centres``
            Second operand, same dtype.
        weights : Tensor, (P, C) if coupled, else (P,)
            Same dtype.
        centres, offsets : Tensor (Z,) and (N + 1,) int64, optional
            Take row ``centres[z]`` of y for row z; sorted, with its :func:`equitensor.row_offsets`.

        Raises
        ------
        ValueError, TypeError
            For shapes that do not fit the irreps, or dtypes that differ.
        """
        if (centres is None) != (offsets is None):
            raise ValueError("centres and offsets: required both or neither, got one of them")
        self._check(x, y, weights, x.shape[0] if centres is None else y.shape[0])
        if centres is not None and offsets is not None:
            n, b, c = y.shape
            ones = y.new_ones(centres.shape[0], 1)
            y = to_weights(ones, y.reshape(n, 1, b * c), centres, offsets, [1]).reshape(-1, b, c)
        return _contract(x, y, weights, str(self.spec), [0, 1, 2], SOURCES)

    def pull_back(self, g: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """The transpose in the first operand: Σ_p W[p, u] Σ_{bo} C^p_{abo} y[z, b, u] g[z, o, u], (Z, A, C).

        Parameters
        ----------
        g : Tensor, (Z, O, C)
            A covector of the product: anything that is to be applied to it.
        y : Tensor, (Z, B, C)
            The second operand, same dtype.
        weights : Tensor, (P, C) if coupled, else (P,)
            Same dtype.

        Raises
        ------
        ValueError
            If ``g`` does not fit the output irreps.

        Examples
        --------
        >>> tp = TensorProduct("0e + 1o", "0e + 1o", "1o")
        >>> x, y, w, g = torch.rand(3, 4, 2), torch.rand(3, 4, 2), torch.rand(2, 2), torch.rand(3, 3, 2)
        >>> torch.allclose((tp(x, y, w) * g).sum(), (x * tp.pull_back(g, y, w)).sum())
        True
        """
        if g.dim() != 3 or g.shape[1] != irreps_dim(self.spec.out):
            raise ValueError(
                f"g: required shape (Z, {irreps_dim(self.spec.out)}, C) for irreps "
                f"{irreps_string(self.spec.out)}, got {tuple(g.shape)}"
            )
        return _contract(g, y, weights, str(self.spec), [2, 1, 0], SOURCES)

    def _check(self, x: Tensor, y: Tensor, weights: Tensor, rows: int) -> None:
        a, b = irreps_dim(self.spec.in1), irreps_dim(self.spec.in2)
        if x.dim() != 3 or x.shape[1] != a:
            raise ValueError(
                f"x: required shape (Z, {a}, C) for irreps {irreps_string(self.spec.in1)}, "
                f"got {tuple(x.shape)}"
            )
        if y.dim() != 3 or y.shape[1] != b or y.shape[0] != rows:
            raise ValueError(
                f"y: required shape ({rows}, {b}, C) for irreps {irreps_string(self.spec.in2)}, "
                f"got {tuple(y.shape)}"
            )
        if y.shape[2] != x.shape[2]:
            raise ValueError(
                f"x and y: required the same number of channels, got {x.shape[2]} and {y.shape[2]}"
            )
        if tuple(weights.shape) != self.weight_shape(x.shape[2]):
            raise ValueError(
                f"weights: required shape {self.weight_shape(x.shape[2])} "
                f"({'paths, channels' if self.coupled else 'paths'}), got {tuple(weights.shape)}"
            )
        if x.dtype not in DTYPES or not x.dtype == y.dtype == weights.dtype:
            raise TypeError(
                f"x, y and weights: required one floating dtype of 16, 32 or 64 bits, got {x.dtype}, {y.dtype} "
                f"and {weights.dtype}"
            )


def tensor_product(
    x: Tensor, y: Tensor, weights: Tensor, irreps_in1: Any, irreps_in2: Any, irreps_out: Any
) -> Tensor:
    """The product of :class:`TensorProduct` in one call; ``weights`` of two axes are coupled.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> tensor_product(x, x, torch.ones(1), "1o", "1o", "0e") * 3**0.5
    tensor([[[14.0000]]])
    """
    return TensorProduct(irreps_in1, irreps_in2, irreps_out, coupled=weights.dim() == 2)(x, y, weights)


# The operators. T(x, y, g; W) = Σ W[p,u] C^p_{abo} x[z,a,u] y[z,b,u] g[z,o,u] has operand slots 0, 1, 2.
# contract leaves out the operand slots[2]; contract_weights leaves out W. Their backwards are made of both.


def _third(spec: str, slots: Sequence[int]) -> int:
    return irreps_dim(parse_spec(spec)[slots[2]])


def _compute_contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: str, slots: Sequence[int], sources: str = ""
) -> Tensor:
    i, j, k = slots
    return implementation(first).contract(first, second, weights, parse_spec(spec), (i, j, k))


def _compute_contract_weights(
    x: Tensor, y: Tensor, g: Tensor, spec: str, coupled: bool, sources: str = ""
) -> Tensor:
    return implementation(x).contract_weights(x, y, g, parse_spec(spec), coupled)


_contract = torch.library.custom_op("equitensor::contract", _compute_contract, mutates_args=())


@_contract.register_fake
def _(
    first: Tensor, second: Tensor, weights: Tensor, spec: str, slots: Sequence[int], sources: str = ""
) -> Tensor:
    return first.new_empty(first.shape[0], _third(spec, slots), first.shape[2])


_contract_weights = torch.library.custom_op(
    "equitensor::contract_weights", _compute_contract_weights, mutates_args=()
)


@_contract_weights.register_fake
def _(x: Tensor, y: Tensor, g: Tensor, spec: str, coupled: bool, sources: str = "") -> Tensor:
    paths = parse_spec(spec).num_paths
    return x.new_empty(paths, x.shape[2]) if coupled else x.new_empty(paths)


def _save_contract(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.spec, ctx.slots, ctx.sources = inputs[3], list(inputs[4]), inputs[5]


def _backward_contract(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    first, second, weights = ctx.saved_tensors
    spec, (i, j, k), sources = ctx.spec, ctx.slots, ctx.sources
    g_first = _contract(g, second, weights, spec, [k, j, i], sources) if ctx.needs_input_grad[0] else None
    g_second = _contract(first, g, weights, spec, [i, k, j], sources) if ctx.needs_input_grad[1] else None
    g_weights = None
    if ctx.needs_input_grad[2]:
        operands = {i: first, j: second, k: g}
        g_weights = _contract_weights(
            operands[0], operands[1], operands[2], spec, weights.dim() == 2, sources
        )
    return g_first, g_second, g_weights, None, None, None


def _save_contract_weights(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs[:3])
    ctx.spec, ctx.sources = inputs[3], inputs[5]


def _backward_contract_weights(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
    x, y, o = ctx.saved_tensors
    spec, sources = ctx.spec, ctx.sources
    g_x = _contract(y, o, g, spec, [1, 2, 0], sources) if ctx.needs_input_grad[0] else None
    g_y = _contract(x, o, g, spec, [0, 2, 1], sources) if ctx.needs_input_grad[1] else None
    g_o = _contract(x, y, g, spec, [0, 1, 2], sources) if ctx.needs_input_grad[2] else None
    return g_x, g_y, g_o, None, None, None


_contract.register_autograd(_backward_contract, setup_context=_save_contract)
_contract_weights.register_autograd(_backward_contract_weights, setup_context=_save_contract_weights)
decompose_when_compiled(_contract, _compute_contract)
decompose_when_compiled(_contract_weights, _compute_contract_weights)
