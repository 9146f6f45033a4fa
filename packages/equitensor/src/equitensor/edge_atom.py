"""Sums over sorted edges: the partial contractions of an edge–atom form of w, basis, features and a scale."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equitensor import gradients, ops  # noqa: F401 (gradients registers an operator of to_scalars)
from equitensor.dispatch import SOURCES, check_dtype, check_edges, refuse_forward_mode


def row_offsets(centers: Tensor, num_atoms: int) -> Tensor:
    """Return where each atom's edges begin and end: edges of atom i are offsets[i] … offsets[i + 1] − 1.

    Parameters
    ----------
    centers : Tensor, (E,) int64
        Center of each edge, in 0 … N − 1. Must be sorted: the offsets delimit the edges where they stand
        (``localgraph.row_offsets`` takes any order).
    num_atoms : int
        N.

    Returns
    -------
    Tensor, (N + 1,) int64

    Raises
    ------
    ValueError
        If the centers are not sorted or out of range (checked in eager mode on the CPU; not in a compiled
        graph, and not on a GPU).
    TypeError
        If they are not int64.

    Examples
    --------
    >>> row_offsets(torch.tensor([0, 0, 2]), 3)
    tensor([0, 2, 2, 3])
    """
    if centers.dtype != torch.int64 or centers.dim() != 1:
        raise TypeError(f"centers must be (E,) int64, got {tuple(centers.shape)} {centers.dtype}")
    out: Tensor = ops.OPERATORS["row_offsets"](centers, num_atoms)
    return out


def to_atoms(
    w: Tensor,
    basis: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Sequence[int] | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Sum over the edges of each atom: out[i, k, u] = Σ_{e: c(e)=i} w[e, r(k), u] · basis[e, k].

    The density of Allegro (arXiv 2504.16068) is this with basis = Y. r(k) is the block that component k
    belongs to; the blocks have the sizes ``dims``.

    Parameters
    ----------
    w : Tensor, (E, R, C)
        Weights per edge, block and channel, float16, bfloat16, float32 or float64.
    basis : Tensor, (E, D)
        Components per edge, same dtype.
    centers : Tensor, (E,) int64
        Center of each edge, sorted.
    offsets : Tensor, (N + 1,) int64
        :func:`row_offsets` of the centers.
    dims : sequence of int, optional
        Sizes of the R blocks, sum D. By default D for R = 1 and 1, 3, 5, … (degrees l) otherwise.
    scale : Tensor, (E, C), optional
        A factor per edge and channel, same dtype: the sum is that of w[e, r, u] · scale[e, u].

    Returns
    -------
    Tensor, (N, D, C)
        Zero for an atom without edges. Summed in the order of edges: deterministic.

    Raises
    ------
    ValueError, TypeError
        For shapes that do not fit, or a dtype that differs or is not floating; for offsets that are not those of
        the centers (checked in eager mode on the CPU, as by :func:`row_offsets`).
    NotImplementedError
        For an operand with a forward-mode tangent.

    Examples
    --------
    >>> centers = torch.tensor([0, 0, 2])
    >>> to_atoms(torch.ones(3, 1, 1), torch.ones(3, 2), centers, row_offsets(centers, 3))[:, :, 0]
    tensor([[2., 2.],
            [0., 0.],
            [1., 1.]])
    """
    dims = _blocks("to_atoms", dims, w.shape[1] if w.dim() == 3 else None, basis.shape[-1])
    return _call("to_atoms", {"w": w, "basis": basis}, dims, centers, offsets, scale)


def to_weights(
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Sequence[int] | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Sum over the components of each block: out[e, r, u] = Σ_{k in r} basis[e, k] · features[c(e), k, u].

    Parameters
    ----------
    basis : Tensor, (E, D)
        Components per edge.
    features : Tensor, (N, D, C)
        Features per atom, same dtype.
    centers, offsets :
        As in :func:`to_atoms`.
    dims : sequence of int, optional
        Sizes of the R blocks; by default 1, 3, 5, …, so D must be a square.
    scale : Tensor, (E, C), optional
        A factor of out[e, r, u] per edge and channel, same dtype.

    Returns
    -------
    Tensor, (E, R, C)

    Examples
    --------
    >>> centers = torch.tensor([0, 0, 2])
    >>> to_weights(torch.ones(3, 4), torch.ones(3, 4, 1), centers, row_offsets(centers, 3))[0, :, 0]
    tensor([1., 3.])
    """
    dims = _blocks("to_weights", dims, None, basis.shape[-1])
    return _call("to_weights", {"basis": basis, "features": features}, dims, centers, offsets, scale)


def to_basis(
    w: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Sequence[int] | None = None,
    scale: Tensor | None = None,
) -> Tensor:
    """Sum over channels: out[e, k] = Σ_u w[e, r(k), u] · features[c(e), k, u].

    Parameters
    ----------
    w : Tensor, (E, R, C)
        Weights per edge, block and channel.
    features : Tensor, (N, D, C)
        Features per atom, same dtype.
    centers, offsets, dims, scale :
        As in :func:`to_atoms`.

    Returns
    -------
    Tensor, (E, D)

    Examples
    --------
    >>> centers = torch.tensor([0, 0, 2])
    >>> to_basis(torch.ones(3, 2, 5), torch.ones(3, 4, 5), centers, row_offsets(centers, 3))[0]
    tensor([5., 5., 5., 5.])
    """
    dims = _blocks("to_basis", dims, w.shape[1] if w.dim() == 3 else None, features.shape[1])
    return _call("to_basis", {"w": w, "features": features}, dims, centers, offsets, scale)


def to_scalars(
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    dims: Sequence[int] | None = None,
) -> Tensor:
    """Sum over the components of all blocks: out[e, u] = Σ_k w[e, r(k), u] · basis[e, k] · features[c(e), k, u].

    It is Σ_r w · ``to_weights(basis, features)``, which is (E, R, C) and is stored nowhere.

    Parameters
    ----------
    w : Tensor, (E, R, C)
        Weights per edge, block and channel.
    basis : Tensor, (E, D)
        Components per edge, same dtype.
    features : Tensor, (N, D, C)
        Features per atom, same dtype.
    centers, offsets, dims :
        As in :func:`to_atoms`.

    Returns
    -------
    Tensor, (E, C)

    Examples
    --------
    >>> centers = torch.tensor([0, 0, 2])
    >>> w = torch.tensor([[[1.0], [10.0]]]).expand(3, 2, 1)
    >>> to_scalars(w, torch.ones(3, 4), torch.ones(3, 4, 1), centers, row_offsets(centers, 3))[0]
    tensor([31.])
    """
    dims = _blocks("to_scalars", dims, w.shape[1] if w.dim() == 3 else None, basis.shape[-1])
    operands = {"w": w, "basis": basis, "features": features}
    return _call("to_scalars", operands, dims, centers, offsets)


def _call(
    name: str,
    operands: dict[str, Tensor],
    dims: list[int],
    centers: Tensor,
    offsets: Tensor,
    scale: Tensor | None = None,
) -> Tensor:
    """Check the operands and call the operator, or the one with a scale."""
    operands = operands if scale is None else {**operands, "scale": scale}
    _check(name, operands, dims, centers, offsets)
    operator = ops.OPERATORS[name if scale is None else f"scaled_{name}"]
    out: Tensor = operator(*operands.values(), centers, offsets, dims, SOURCES)
    return out


def _blocks(where: str, dims: Sequence[int] | None, blocks: int | None, size: int) -> list[int]:
    """Return the sizes of the blocks, given or by default, checked against the number of components."""
    if dims is None:
        if blocks == 1:
            return [int(size)]
        degrees = blocks if blocks is not None else round(int(size) ** 0.5)
        dims = [2 * ell + 1 for ell in range(degrees)]
    dims = [int(d) for d in dims]
    if sum(dims) != size or min(dims, default=0) < 1 or (blocks is not None and len(dims) != blocks):
        raise ValueError(
            f"{where}: dims must be sizes of blocks that fill the {size} components"
            + (f" and are {blocks} in number, as w's second axis" if blocks is not None else "")
            + f", got {dims}"
        )
    return dims


def _check(
    where: str, operands: dict[str, Tensor], dims: list[int], centers: Tensor, offsets: Tensor
) -> None:
    """Refuse shapes, dtypes and forward-mode tangents."""
    refuse_forward_mode(*operands.values())
    edges, atoms = centers.shape[0], offsets.shape[0] - 1
    rows: dict[str, tuple[int, ...]] = {
        "w": (edges, len(dims)),
        "basis": (edges, sum(dims)),
        "features": (atoms, sum(dims)),
        "scale": (edges,),
    }
    rank = {"w": 3, "basis": 2, "features": 3, "scale": 2}
    first = next(iter(operands.values()))
    for name, tensor in operands.items():
        if tensor.dim() != rank[name] or tuple(tensor.shape[: len(rows[name])]) != rows[name]:
            raise ValueError(
                f"{where}: {name} must have shape {rows[name]}{' + (channels,)' if name != 'basis' else ''} "
                f"(E = {edges}, N = {atoms}), got {tuple(tensor.shape)}"
            )
        check_dtype(where, name, tensor, first.dtype)
    channels = {name: tensor.shape[-1] for name, tensor in operands.items() if name != "basis"}
    counts = list(channels.values())  # compared one by one: sizes of a traced program have no hash
    if any(count != counts[0] for count in counts):
        raise ValueError(
            f"{where}: {', '.join(channels)} must have the same number of channels, got {counts}"
        )
    check_edges(where, centers, offsets)
