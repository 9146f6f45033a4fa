"""Checks of the arguments of a model call: dtypes and shapes always, values in eager mode on the CPU."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import get_proxy_mode


def check_inputs(edge_vectors: Tensor, edge_index: Tensor, types: Tensor, num_types: int) -> None:
    """Raise ``TypeError`` or ``ValueError`` naming the argument, the requirement and the value.

    ``RuntimeError`` under autocast, which would change the dtype of the matrix products, those of the forces too.

    Dtypes and shapes are always checked. Values are checked in eager mode on the CPU: tracing has none, and reading
    them from an accelerator would synchronize it.
    """
    _check(
        "edge_vectors",
        edge_vectors,
        torch.float64,
        "(E, 3)",
        edge_vectors.dim() == 2 and edge_vectors.shape[1] == 3,
    )
    _check(
        "edge_index", edge_index, torch.int64, "(2, E)", edge_index.dim() == 2 and edge_index.shape[0] == 2
    )
    _check("types", types, torch.int64, "(N,)", types.dim() == 1)
    device = edge_vectors.device.type
    if torch.is_autocast_enabled(device):
        raise RuntimeError(
            "autocast must be disabled around a call of the model, which computes in AllegroConfig.dtype "
            f"(torch.autocast({device!r}, enabled=False)), got autocast to {torch.get_autocast_dtype(device)}"
        )
    if edge_vectors.device.type != "cpu" or torch.compiler.is_compiling() or get_proxy_mode() is not None:
        return
    if type(edge_vectors.detach()) is not Tensor or torch._C._functorch.is_functorch_wrapped_tensor(
        edge_vectors
    ):
        return
    _check_values(edge_vectors, edge_index, types, num_types)


def _check_values(edge_vectors: Tensor, edge_index: Tensor, types: Tensor, num_types: int) -> None:
    """Raise ``ValueError`` for unsorted or out-of-range indices, types out of range and vectors that are not finite."""
    if edge_vectors.shape[0] != edge_index.shape[1]:
        raise ValueError(
            f"edge_index must be one column per row of edge_vectors ({edge_vectors.shape[0]}), "
            f"got {edge_index.shape[1]}"
        )
    num_atoms = types.shape[0]
    if edge_index.numel():
        low, high = edge_index.aminmax()
        if low < 0 or high >= num_atoms:
            raise ValueError(
                f"edge_index must be within [0, {num_atoms}), got values from {int(low)} to {int(high)}"
            )
        step = edge_index[0].diff()
        if bool((step < 0).any()):
            where = int((step < 0).nonzero()[0])
            raise ValueError(
                "edge_index must be sorted by center, got center "
                f"{int(edge_index[0, where])} before {int(edge_index[0, where + 1])} at edge {where}"
            )
        if not bool(edge_vectors.isfinite().all()):
            where = int((~edge_vectors.isfinite()).any(1).nonzero()[0])
            raise ValueError(
                f"edge_vectors must be finite, got {edge_vectors[where].tolist()} at edge {where}"
            )
    if num_atoms:
        low, high = types.aminmax()
        if low < 0 or high >= num_types:
            raise ValueError(
                f"types must be within [0, {num_types}), got values from {int(low)} to {int(high)}"
            )


def _check(name: str, value: Tensor, dtype: torch.dtype, shape: str, shape_ok: bool) -> None:
    if value.dtype != dtype:
        raise TypeError(f"{name} must be of dtype {dtype}, got {value.dtype}")
    if not shape_ok:
        raise ValueError(f"{name} must be of shape {shape}, got {tuple(value.shape)}")
