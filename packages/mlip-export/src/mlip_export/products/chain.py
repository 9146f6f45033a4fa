"""Operators of two products in a row with silu between them, and the launches of their Triton kernels.

On a GPU each is one kernel, which the compiler does not take apart; elsewhere it is composed of torch's products.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import silu

INNER = {"float32": "tf32x3", "tf32": "tf32", "float64": "ieee"}
"""Triton's ``input_precision`` for each precision; in float32 an operand is split into two TF32 numbers."""
WIDEST, NARROWEST, PARTS = 256, 16, 3
"""Bounds of the sizes that have kernels, and of the number of matrices side by side on the left."""


class ChainConfig(NamedTuple):
    """Launch configuration of a kernel of two products."""

    rows: int = 32
    """Rows of a tile."""
    block: int = 32
    """Columns of the inner matrix that are formed at once, and of the operands that are multiplied at once."""
    warps: int = 8


CONFIG = ChainConfig()


def has_kernel(parts: tuple[int, ...], inner: int, columns: int) -> bool:
    """Return whether there are kernels for these widths of the left matrices, of the inner one and of the result."""
    blocks = all(part % NARROWEST == 0 for part in parts) and sum(parts) <= WIDEST
    powers = all(n & (n - 1) == 0 and NARROWEST <= n <= WIDEST for n in (inner, columns))
    return 0 < len(parts) <= PARTS and all(parts) and blocks and powers


def _block(config: ChainConfig, *widths: int) -> int:
    """Return the columns of an operand that are multiplied at once: a divisor of all of its widths."""
    return NARROWEST if any(width % config.block for width in widths) else config.block


def constants(
    parts: tuple[int, ...],
    inner: int,
    columns: int,
    activated: bool,
    precision: str,
    config: ChainConfig = CONFIG,
) -> dict[str, Any]:
    """Return the constexpr arguments of the kernel of :func:`hidden_layers` for these sizes."""
    widths = [*parts, *[0] * (PARTS - len(parts))]
    return {
        **{f"K{i}": width for i, width in enumerate(widths)},
        "H": inner,
        "N": columns,
        "SILU": activated,
        "M": config.rows,
        "KB": _block(config, *widths),
        "HB": _block(config, inner),
        "PRECISION": INNER[precision],
    }


def backward_constants(
    width: int, inner: int, columns: int, precision: str, config: ChainConfig = CONFIG
) -> dict[str, Any]:
    """Return those of the kernel of :func:`hidden_layers_backward`."""
    return {
        "K": width,
        "KP": 1 << (width - 1).bit_length(),
        "H": inner,
        "N": columns,
        "M": config.rows,
        "NB": _block(config, columns),
        "HB": _block(config, inner),
        "PRECISION": INNER[precision],
    }


@torch.library.triton_op("mlip_export::hidden_layers", mutates_args=())
def hidden_layers(
    x: list[Tensor], first: Tensor, second: Tensor, activated: bool, precision: str
) -> tuple[Tensor, Tensor, Tensor]:
    """Compute z = silu(y) @ second with y = [x₀, x₁, …] @ first.

    Returns
    -------
    slope : Tensor, (E, H)
        silu'(y).
    out : Tensor, (E, N)
        silu'(z) if ``activated``, else z.
    hidden : Tensor, (E, N)
        silu(z) if ``activated``, else empty, (0, N).
    """
    if x[0].device.type == "cuda":
        return launch_hidden_layers(x, first, second, activated, precision)
    y = torch.cat(x, 1) @ first
    z = silu(y) @ second
    return (_slope(y), _slope(z), silu(z)) if activated else (_slope(y), z, z.new_empty(0, z.shape[1]))


@torch.library.triton_op("mlip_export::hidden_layers_backward", mutates_args=())
def hidden_layers_backward(g: Tensor, slope: Tensor, first: Tensor, second: Tensor, precision: str) -> Tensor:
    """Compute the gradient by x of :func:`hidden_layers`, (E, K), from that by z: ((g @ secondᵀ) · slope) @ firstᵀ."""
    if g.device.type == "cuda":
        return launch_hidden_layers_backward(g, slope, first, second, precision)
    return ((g @ second.t()) * slope) @ first.t()


def _slope(y: Tensor) -> Tensor:
    s = y.sigmoid()
    return s + y * s * (1.0 - s)


def launch_hidden_layers(
    x: list[Tensor],
    first: Tensor,
    second: Tensor,
    activated: bool,
    precision: str,
    config: ChainConfig = CONFIG,
) -> tuple[Tensor, Tensor, Tensor]:
    """See :func:`hidden_layers`; every operand of E rows is read once and the results are written once."""
    from mlip_export.products.chain_kernels import hidden_layers_kernel

    rows, (inner, columns) = x[0].shape[0], second.shape
    widths = tuple(part.shape[1] for part in x)
    absent = [x[0].new_empty(0, 0) for _ in range(PARTS - len(x))]
    slope, out = x[0].new_empty(rows, inner), x[0].new_empty(rows, columns)
    hidden = out.new_empty(rows if activated else 0, columns)
    tensors = [t.contiguous() for t in (*x, *absent, first, second)]
    given = constants(widths, inner, columns, activated, precision, config)
    _launch(hidden_layers_kernel, rows, (*tensors, slope, out, hidden), given, config)
    return slope, out, hidden


def launch_hidden_layers_backward(
    g: Tensor, slope: Tensor, first: Tensor, second: Tensor, precision: str, config: ChainConfig = CONFIG
) -> Tensor:
    """See :func:`hidden_layers_backward`."""
    from mlip_export.products.chain_kernels import hidden_layers_backward_kernel

    width, (inner, columns) = first.shape[0], second.shape
    out = g.new_empty(g.shape[0], width)
    tensors = [t.contiguous() for t in (g, slope, first, second)]
    given = backward_constants(width, inner, columns, precision, config)
    _launch(hidden_layers_backward_kernel, g.shape[0], (*tensors, out), given, config)
    return out


def _launch(
    kernel: Any,
    rows: int,
    tensors: tuple[Tensor, ...],
    constants: dict[str, Any],
    config: ChainConfig,
) -> None:
    """Run a kernel, or record it under a tracer; without rows nothing runs."""
    grid = ((rows + config.rows - 1) // config.rows,)
    if not all(type(t) is Tensor for t in tensors):
        torch.library.wrap_triton(kernel)[grid](*tensors, rows, **constants, num_warps=config.warps)
    elif rows > 0:
        with torch.cuda.device_of(tensors[0]):  # type: ignore[no-untyped-call]  # of a CPU's nothing is changed
            kernel[grid](*tensors, rows, **constants, num_warps=config.warps)
