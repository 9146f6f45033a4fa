"""The channel-wise tensor product with weights per path, and its closed family of derivatives."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from equitensor.dispatch import (
    DTYPES,
    SOURCES,
    decompose_when_compiled,
    implementation,
    outside_autocast,
    refuse_forward_mode,
)
from equitensor.edges import to_weights
from equitensor.paths import Irrep, Path, admissible_paths, irreps_dim, irreps_string
from equitensor.spec import Spec, make_spec, parse_spec


class TensorProduct:
    """The product out[z, o, u] = Σ_p W[p, u] Σ_{ab} C^p_{abo} x[z, a, u] y[z, b, u] of given irreps.

    C^p = √(2 l_out + 1) · Wigner 3j (component normalization, basis of e3nn); the paths p are all
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
        centers: Tensor | None = None,
        offsets: Tensor | None = None,
    ) -> Tensor:
        """Compute the product, (Z, O, C).

        Parameters
        ----------
        x : Tensor, (Z, A, C)
            First operand, channels last.
        y : Tensor, (Z, B, C), or (N, B, C) with ``centers``
            Second operand, same dtype.
        weights : Tensor, (P, C) if coupled, else (P,)
            Same dtype.
        centers, offsets : Tensor (Z,) and (N + 1,) int64, optional
            Take row ``centers[z]`` of y for row z; sorted, with its :func:`equitensor.row_offsets`.

        Raises
        ------
        ValueError, TypeError
            For shapes that do not fit the irreps, or dtypes that differ.
        NotImplementedError
            For an operand with a forward-mode tangent.
        """
        if (centers is None) != (offsets is None):
            raise ValueError("centers and offsets must be given both or neither, got one of them")
        self._check({"x": (x, self.spec.in1), "y": (y, self.spec.in2)}, weights, gathered=centers is not None)
        refuse_forward_mode(x, y, weights)
        if centers is not None and offsets is not None:
            if centers.dim() != 1 or centers.shape[0] != x.shape[0]:
                raise ValueError(
                    f"centers must be one per row of x ({x.shape[0]}), got shape {tuple(centers.shape)}"
                )
            n, b, c = y.shape
            ones = y.new_ones(centers.shape[0], 1)
            y = to_weights(ones, y.reshape(n, 1, b * c), centers, offsets, [1]).reshape(-1, b, c)
        out: Tensor = _contract(x, y, weights, str(self.spec), [0, 1, 2], SOURCES)
        return out

    def pull_back(self, g: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Compute the transpose in the first operand: Σ_p W[p, u] Σ_{bo} C^p_{abo} y[z, b, u] g[z, o, u].

        Parameters
        ----------
        g : Tensor, (Z, O, C)
            A covector of the output.
        y : Tensor, (Z, B, C)
            The second operand, same dtype.
        weights : Tensor, (P, C) if coupled, else (P,)
            Same dtype.

        Raises
        ------
        ValueError, TypeError
            For shapes that do not fit the irreps, or dtypes that differ.

        Examples
        --------
        >>> tp = TensorProduct("0e + 1o", "0e + 1o", "1o")
        >>> x, y, w, g = torch.rand(3, 4, 2), torch.rand(3, 4, 2), torch.rand(2, 2), torch.rand(3, 3, 2)
        >>> torch.allclose((tp(x, y, w) * g).sum(), (x * tp.pull_back(g, y, w)).sum())
        True
        """
        self._check({"g": (g, self.spec.out), "y": (y, self.spec.in2)}, weights)
        refuse_forward_mode(g, y, weights)
        out: Tensor = _contract(g, y, weights, str(self.spec), [2, 1, 0], SOURCES)
        return out

    def _check(
        self,
        operands: dict[str, tuple[Tensor, tuple[Irrep, ...]]],
        weights: Tensor,
        gathered: bool = False,
    ) -> None:
        """Refuse shapes and dtypes that do not fit; rows of both operands are the same unless ``gathered``."""
        for name, (tensor, irreps) in operands.items():
            size = irreps_dim(irreps)
            if tensor.dim() != 3 or tensor.shape[1] != size:
                raise ValueError(
                    f"{name} must have shape ({'N' if gathered and name == 'y' else 'Z'}, {size}, C) for irreps "
                    f"{irreps_string(irreps)}, got {tuple(tensor.shape)}"
                )
        (name, (first, _)), (_, (y, _)) = operands.items()
        if not gathered and y.shape[0] != first.shape[0]:
            raise ValueError(f"y must have one row per row of {name} ({first.shape[0]}), got {y.shape[0]}")
        if y.shape[2] != first.shape[2]:
            raise ValueError(
                f"{name} and y must have the same number of channels, got {first.shape[2]} and {y.shape[2]}"
            )
        if tuple(weights.shape) != self.weight_shape(first.shape[2]):
            raise ValueError(
                f"weights must have shape {self.weight_shape(first.shape[2])} "
                f"({'paths, channels' if self.coupled else 'paths'}), got {tuple(weights.shape)}"
            )
        if first.dtype not in DTYPES or not first.dtype == y.dtype == weights.dtype:
            raise TypeError(
                f"{name}, y and weights must have one floating dtype of 16, 32 or 64 bits, got {first.dtype}, "
                f"{y.dtype} and {weights.dtype}"
            )


def tensor_product(
    x: Tensor, y: Tensor, weights: Tensor, irreps_in1: Any, irreps_in2: Any, irreps_out: Any
) -> Tensor:
    """Compute the product of :class:`TensorProduct` in one call; ``weights`` of two axes are coupled.

    Examples
    --------
    >>> x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> tensor_product(x, x, torch.ones(1), "1o", "1o", "0e") * 3**0.5
    tensor([[[14.0000]]])
    """
    return TensorProduct(irreps_in1, irreps_in2, irreps_out, coupled=weights.dim() == 2)(x, y, weights)


# Operators. T(x, y, g; W) = Σ W[p,u] C^p_{abo} x[z,a,u] y[z,b,u] g[z,o,u] has operand slots 0, 1, 2.
# contract leaves out the operand slots[2]; contract_weights leaves out W. Their backwards are made of both.


def _third(spec: str, slots: Sequence[int]) -> int:
    return irreps_dim(parse_spec(spec)[slots[2]])


def _compute_contract(
    first: Tensor, second: Tensor, weights: Tensor, spec: str, slots: Sequence[int], sources: str = ""
) -> Tensor:
    i, j, k = slots
    with outside_autocast(first):
        out: Tensor = implementation(first).contract(first, second, weights, parse_spec(spec), (i, j, k))
        return out


def _compute_contract_weights(
    x: Tensor, y: Tensor, g: Tensor, spec: str, coupled: bool, sources: str = ""
) -> Tensor:
    with outside_autocast(x):
        out: Tensor = implementation(x).contract_weights(x, y, g, parse_spec(spec), coupled)
        return out


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
    refuse_forward_mode(g)
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
    refuse_forward_mode(g)
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
