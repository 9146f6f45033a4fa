"""Launches of the fused edge layer's kernels."""

from __future__ import annotations

from typing import Any, NamedTuple

import triton
from torch import Tensor

from equitensor.backends.triton.edge_layer_gradients import edge_layer_backward_kernel
from equitensor.backends.triton.edge_layer_kernels import edge_layer_kernel
from equitensor.backends.triton.source import launch


class LayerConfig(NamedTuple):
    """Launch configuration of a kernel of the fused edge layer."""

    rows: int
    """Edges of a tile."""
    block: int
    """Columns of the first hidden layer that are formed at once."""
    warps: int
    columns: int | None = None
    """Columns of the second hidden layer whose gradients are formed at once; of the gradients' kernel."""

    def constants(self, s: int, c: int, r: int, h: int, o: int, density: bool) -> dict[str, Any]:
        """Return the kernel's constexpr arguments for these sizes, in tiles that tensor cores take."""
        columns = {} if self.columns is None else {"HC": min(h, self.columns)}
        return {
            "S": s,
            "C": c,
            "R": r,
            "H": h,
            "OUT": o,
            "DP": max(16, int(triton.next_power_of_2(r * r))),
            "SUMS": density,
            "M": self.rows,
            "SB": min(s, 64),
            "HB": min(h, self.block),
            "OB": min(o, 16),
            "STAGES": 2,
            "PRECISION": "tf32",
            **columns,
        }


FORWARD = LayerConfig(rows=16, block=16, warps=8)
"""Of the value's kernel."""


def gradients_config(degrees: int) -> LayerConfig:
    """Return the gradients' kernel's: as many columns as leave registers for the parts of a basis of R degrees.

    The first hidden layer is formed again for each block of columns: fewer columns are more arithmetic. With these
    configurations nothing spills at the sizes of the small and the medium preset, on sm_80 and sm_90.
    """
    return LayerConfig(rows=16, block=16, warps=8, columns=64 if degrees <= 3 else 32)


OLDEST = (3, 5)
"""The oldest Triton whose ``tl.range`` takes ``disable_licm``."""
LARGEST = {"S": 128, "C": 64, "H": 256, "O": 64, "R": 4}
"""The largest sizes for which the kernels are compiled and their spills counted."""


def _sizes(x: Tensor, w: Tensor, last: Tensor) -> tuple[int, int, int, int, int]:
    """Return S, C, R, H and O, or refuse those that have no kernel, and a Triton that lacks what the kernels use."""
    if tuple(int(n) for n in triton.__version__.split(".")[:2]) < OLDEST:
        raise RuntimeError(
            f"edge_layer: the fused kernel needs Triton {OLDEST[0]}.{OLDEST[1]} or newer, got {triton.__version__}"
        )
    sizes = {"S": x.shape[1], "C": w.shape[2], "R": w.shape[1], "H": last.shape[0], "O": last.shape[1]}
    for name, size in sizes.items():
        power = name == "R" or (isinstance(size, int) and size & (size - 1) == 0)
        least = 1 if name == "R" else 16
        alone = name == "O" and size == 1
        if not (isinstance(size, int) and power and (alone or least <= size <= LARGEST[name])):
            kind = "from 1" if name == "R" else "a power of two from 16"
            raise ValueError(
                f"edge_layer: {name} must be {kind} to {LARGEST[name]}{', or 1,' if name == 'O' else ''} for the fused "
                f"kernel, got {size}"
            )
    return sizes["S"], sizes["C"], sizes["R"], sizes["H"], sizes["O"]


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
    density: bool,
    config: LayerConfig = FORWARD,
) -> tuple[Tensor, Tensor]:
    """See :func:`equitensor.edge_layer`; every operand of edges is read once and the results written once."""
    sizes, atoms = _sizes(x, w, last), offsets.shape[0] - 1
    out = x.new_empty(x.shape[0], last.shape[1])
    sums = x.new_empty(atoms if density else 0, basis.shape[1], last.shape[0])
    given = [t.contiguous() for t in (x, w, basis, features, offsets, first, second, last)]
    constants = config.constants(*sizes, density)
    launch(edge_layer_kernel, (atoms,), (*given, out, sums), **constants, num_warps=config.warps)
    return out, sums


def edge_layer_backward(
    g_out: Tensor,
    g_sums: Tensor,
    x: Tensor,
    w: Tensor,
    basis: Tensor,
    features: Tensor,
    centers: Tensor,
    offsets: Tensor,
    first: Tensor,
    second: Tensor,
    last: Tensor,
    density: bool,
    config: LayerConfig | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Compute the gradients by x, w, basis and features; the hidden layers are computed again."""
    sizes = _sizes(x, w, last)
    out = tuple(t.new_empty(t.shape) for t in (x, w, basis, features))
    given = (x, w, basis, features, offsets, first, second, last, g_out, g_sums)
    tensors = (*(t.contiguous() for t in given), *out)
    config = config or gradients_config(sizes[2])
    constants = config.constants(*sizes, density)
    launch(edge_layer_backward_kernel, (offsets.shape[0] - 1,), tensors, **constants, num_warps=config.warps)
    return out[0], out[1], out[2], out[3]
