"""Choice of the implementation by device, and decomposition of the registered operators under compilers."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from importlib.resources import files
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch._library.custom_ops import CustomOpDef
from torch._subclasses.functional_tensor import FunctionalTensorMode

from equitensor.backends import aten, reference

# Releases of torch whose Inductor the C++ lowerings are tested with; others get the ATen formulation.
_INDUCTOR = ((2, 8), (2, 13))


def _digest() -> str:
    """Return a digest of every source file of this package."""
    sha, folders = hashlib.sha256(), [files("equitensor")]
    for folder in folders:
        for entry in sorted(folder.iterdir(), key=lambda e: e.name):
            if entry.is_dir():
                folders.append(entry)
            elif entry.name.endswith((".py", ".h")):
                sha.update(entry.name.encode() + b"\0" + entry.read_bytes())
    return sha.hexdigest()[:16]


SOURCES = _digest()
"""The last argument of every operator with kernels: compilers' caches (Inductor's and AOTAutograd's) are keyed on
the text of a graph alone, which must differ where an operator may be compiled to something else."""


def lowered(tensor: Tensor) -> bool:
    """Return whether Inductor is given a C++ lowering for operations on this tensor, which is then registered."""
    release = tuple(int(part) for part in torch.__version__.split(".")[:2])
    if not _INDUCTOR[0] <= release <= _INDUCTOR[1]:
        return False
    if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
        return False
    import equitensor.backends.inductor  # noqa: F401 (late: Inductor takes seconds to import)

    return True


DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
"""Supported dtypes."""


def check_dtype(where: str, name: str, tensor: Tensor, dtype: torch.dtype) -> None:
    """Refuse an operand whose dtype is not supported, or not ``dtype``, that of the first."""
    if tensor.dtype not in DTYPES or tensor.dtype != dtype:
        raise TypeError(
            f"{where}: {name} must have a floating dtype of 16, 32 or 64 bits, the same for all operands "
            f"({dtype}), got {tensor.dtype}"
        )


def check_edges(where: str, centers: Tensor, offsets: Tensor) -> None:
    """Refuse centers and offsets that are not lists of int64."""
    for name, tensor in (("centers", centers), ("offsets", offsets)):
        if tensor.dtype != torch.int64 or tensor.dim() != 1:
            raise TypeError(f"{where}: {name} must be (n,) int64, got {tuple(tensor.shape)} {tensor.dtype}")


_TRITON = find_spec("triton") is not None
_TRITON_DTYPES = (torch.float32, torch.float64, torch.bfloat16)


def implementation(tensor: Tensor) -> ModuleType:
    """Return the module whose functions compute on the device of ``tensor``.

    Triton where the device is a GPU and Triton is installed (float32, float64, and bfloat16 with sums in float32;
    no matrix products, so no TF32 whatever torch's settings), ATen without scatters on the CPU, and the reference
    anywhere else.
    """
    if tensor.device.type == "cpu":
        return aten
    if tensor.device.type == "cuda" and _TRITON and tensor.dtype in _TRITON_DTYPES:
        from equitensor.backends import triton  # late: imports Triton

        return triton
    return reference


def fused_kernels(tensor: Tensor) -> ModuleType | None:
    """Return the module of the fused edge layer's kernels, for float32 on a GPU with Triton; None elsewhere."""
    if tensor.device.type != "cuda" or not _TRITON or tensor.dtype != torch.float32:
        return None
    from equitensor.backends.triton import edge_layer  # late: imports Triton

    return edge_layer


def outside_autocast(tensor: Tensor) -> AbstractContextManager[Any]:
    """Return a context in which operations on the device of ``tensor`` keep the dtypes of their operands."""
    kind = tensor.device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


def refuse_forward_mode(*tensors: Tensor) -> None:
    """Raise ``NotImplementedError`` for a forward-mode tangent, which the operators would drop silently."""
    if forward_ad._current_level < 0:
        return
    if any(
        forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]
        for tensor in tensors
    ):
        raise NotImplementedError(
            "operands must have no forward-mode tangent (use torch.autograd.grad), got an operand with a forward-mode "
            "tangent (of torch.autograd.forward_ad, or of torch.func.jvp, jacfwd or hessian)"
        )


def decompose_when_compiled(op: CustomOpDef, function: Callable[..., Any], lowering: bool = True) -> None:
    """Let compilers see ``function``'s operations instead of ``op``.

    The operator stays one node for autograd, make_fx and torch.export, and is replaced where
    torch.compile and AOT Inductor lower a graph, so that a compiled artifact needs no Python. ``lowering``: the
    operator has a C++ lowering.
    """

    def rule(mode: Any, func: Any, types: Any, args: Any, kwargs: Any) -> Any:
        from torch.export._trace import custom_triton_ops_decomposition_disabled

        disabled = custom_triton_ops_decomposition_disabled()  # type: ignore[no-untyped-call]
        if disabled or (lowering and lowered(args[0])):
            return mode.__torch_dispatch__(func, types, args, kwargs)
        with mode:
            return function(*args, **kwargs)

    torch.library.register_torch_dispatch(op, FunctionalTensorMode, rule)
