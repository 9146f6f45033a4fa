"""The channel-wise tensor product with weights per path."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from equitensor import ops
from equitensor.dispatch import DTYPES, SOURCES, refuse_forward_mode
from equitensor.edge_atom import to_weights
from equitensor.irreps import Irrep, irreps_dim, irreps_string
from equitensor.paths import Path, Spec, admissible_paths, make_spec


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
    >>> import torch
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
        """Return the shape of the weights for this many channels."""
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
        out: Tensor = ops.OPERATORS["contract"](x, y, weights, str(self.spec), [0, 1, 2], SOURCES)
        return out

    def pull_back(self, g: Tensor, y: Tensor, weights: Tensor) -> Tensor:
        """Compute the vector–Jacobian product with respect to the first operand.

        It is the cotangent of x: Σ_p W[p, u] Σ_{bo} C^p_{abo} y[z, b, u] g[z, o, u].

        Parameters
        ----------
        g : Tensor, (Z, O, C)
            A cotangent of the output.
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
        >>> import torch
        >>> tp = TensorProduct("0e + 1o", "0e + 1o", "1o")
        >>> x, y, w, g = torch.rand(3, 4, 2), torch.rand(3, 4, 2), torch.rand(2, 2), torch.rand(3, 3, 2)
        >>> torch.allclose((tp(x, y, w) * g).sum(), (x * tp.pull_back(g, y, w)).sum())
        True
        """
        self._check({"g": (g, self.spec.out), "y": (y, self.spec.in2)}, weights)
        refuse_forward_mode(g, y, weights)
        out: Tensor = ops.OPERATORS["contract"](g, y, weights, str(self.spec), [2, 1, 0], SOURCES)
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
    """Compute the product of :class:`TensorProduct` in one call, (Z, O, C).

    Parameters
    ----------
    x : Tensor, (Z, A, C)
        First operand, channels last.
    y : Tensor, (Z, B, C)
        Second operand, same dtype.
    weights : Tensor, (P, C) or (P,)
        Weights (P, C) are per path and channel, (P,) per path; same dtype.
    irreps_in1, irreps_in2, irreps_out : str, e3nn.o3.Irreps, or sequence of (l, p)
        Each irrep with multiplicity 1: channels are an axis.

    Examples
    --------
    >>> import torch
    >>> x = torch.tensor([1.0, 2.0, 3.0]).reshape(1, 3, 1)
    >>> tensor_product(x, x, torch.ones(1), "1o", "1o", "0e") * 3**0.5
    tensor([[[14.0000]]])
    """
    return TensorProduct(irreps_in1, irreps_in2, irreps_out, coupled=weights.dim() == 2)(x, y, weights)
