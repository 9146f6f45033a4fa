"""The fused edge layer: read, two hidden layers, image and density of a layer of Allegro as one operator."""

from __future__ import annotations

from torch import Tensor

from equitensor.dispatch import SOURCES, check_dtype, check_edges, refuse_forward_mode
from equitensor.layer import EDGE_LAYER


def edge_layer(
    x: Tensor,
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    first: Tensor,
    second: Tensor,
    last: Tensor,
    density: bool = True,
) -> tuple[Tensor, Tensor]:
    """Compute a layer's work on edges: hidden = silu(silu([x, read] · first) · second), its image and its density.

    read[e, u] = Σ_k w[e, l(k), u] · basis[e, k] · features[c(e), k, u] are the scalars that Allegro's tensor product
    gives an edge (:func:`equitensor.to_scalars`). The two results are

        out[e, o] = Σ_h hidden[e, h] · last[h, o]
        sums[i, k, h] = Σ_{e: c(e)=i} hidden[e, h] · basis[e, k]

    On a GPU in float32 it is one Triton kernel, and another for its gradients by x, w, basis and features, which
    computes the hidden layers again: nothing as wide as H is read or written per edge. The operands of its products
    are rounded to TF32, whatever torch's settings. Gradients that are to be differentiated again, those by the
    matrices, other dtypes and CPUs use the formula above, in torch's products and the edge–atom sums.

    Parameters
    ----------
    x : Tensor, (E, S)
        Scalars per edge, floating.
    w : Tensor, (E, R, C)
        Weights per edge, degree l = 0 … R − 1 and channel, same dtype as all.
    basis : Tensor, (E, D)
        Components per edge, D = R².
    features : Tensor, (N, D, C)
        Features per atom.
    centers, offsets :
        As in :func:`equitensor.to_atoms`.
    first : Tensor, (S + C, H)
        Matrix of the first hidden layer; its rows are those of x, then those of the read scalars.
    second : Tensor, (H, H)
        Matrix of the second hidden layer.
    last : Tensor, (H, O)
        Matrix of the image.
    density : bool
        Whether ``sums`` is computed; otherwise it is empty, (0, D, H).

    Returns
    -------
    out : Tensor, (E, O)
    sums : Tensor, (N, D, H)

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, a dtype that differs or is not floating, and offsets of other edges (checked in
        eager mode on the CPU). On a GPU in float32 for sizes that have no kernel: S, C, H and O must be powers of two
        from 16 (O may be 1), S ≤ 128, C ≤ 64, H ≤ 256, O ≤ 64, R ≤ 4.
    NotImplementedError
        For an operand with a forward-mode tangent.
    RuntimeError
        On a GPU with Triton older than 3.5.

    Examples
    --------
    >>> import torch
    >>> from equitensor import row_offsets
    >>> centers = torch.tensor([0, 0, 2])
    >>> x, w, basis = torch.ones(3, 2), torch.ones(3, 1, 4), torch.ones(3, 1)
    >>> matrices = torch.eye(6), torch.eye(6), torch.ones(6, 1)
    >>> out, sums = edge_layer(x, w, basis, torch.zeros(3, 1, 4), centers, row_offsets(centers, 3), *matrices)
    >>> out.shape, sums[:, 0, 0]
    (torch.Size([3, 1]), tensor([0.9870, 0.0000, 0.4935]))
    """
    operands = {
        "x": x,
        "w": w,
        "basis": basis,
        "features": features,
        "first": first,
        "second": second,
        "last": last,
    }
    refuse_forward_mode(*operands.values())
    _check(operands, centers, offsets)
    out: tuple[Tensor, Tensor] = EDGE_LAYER(
        x, w, basis, features, centers, offsets, first, second, last, density, SOURCES
    )
    return out


def _check(operands: dict[str, Tensor], centers: Tensor, offsets: Tensor) -> None:
    """Refuse shapes and dtypes that do not fit."""
    ranks = {"x": 2, "w": 3, "basis": 2, "features": 3, "first": 2, "second": 2, "last": 2}
    for name, tensor in operands.items():
        if tensor.dim() != ranks[name]:
            raise ValueError(
                f"edge_layer: {name} must have {ranks[name]} axes, got shape {tuple(tensor.shape)}"
            )
    edges, atoms = centers.shape[0], offsets.shape[0] - 1
    scalars, (degrees, channels) = operands["x"].shape[1], operands["w"].shape[1:]
    components, hidden = degrees * degrees, operands["second"].shape[0]
    shapes = {
        "x": (edges, scalars),
        "w": (edges, degrees, channels),
        "basis": (edges, components),
        "features": (atoms, components, channels),
        "first": (scalars + channels, hidden),
        "second": (hidden, hidden),
        "last": (hidden, operands["last"].shape[1]),
    }
    dtype = operands["x"].dtype
    for name, tensor in operands.items():
        if tuple(tensor.shape) != shapes[name]:
            raise ValueError(
                f"edge_layer: {name} must have shape {shapes[name]} (E = {edges}, N = {atoms}), "
                f"got {tuple(tensor.shape)}"
            )
        check_dtype("edge_layer", name, tensor, dtype)
    check_edges("edge_layer", centers, offsets)
