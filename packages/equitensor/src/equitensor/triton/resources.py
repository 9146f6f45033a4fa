"""Registers and spills of the kernels for a GPU architecture, found by compiling with no GPU present.

``python -m equitensor.triton.resources`` prints the counters of the preset shapes as JSON.
"""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equitensor.paths import chain_irreps, spherical_irreps
from equitensor.spec import Spec
from equitensor.triton import contraction, edges
from equitensor.triton.source import tiles

_SCALARS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}

RECORDED = [
    *((torch.float32, l_max, 64) for l_max in (1, 2, 3, 4)),
    *((torch.float32, l_max, 128) for l_max in (2, 3)),
    *((torch.float64, l_max, 64) for l_max in (2, 3, 4)),
    *((torch.bfloat16, l_max, 64) for l_max in (2, 3)),
]
"""What the record counts: dtype, l_max, channels."""


def resources(
    kernel: Any, constants: dict[str, Any], warps: int, architecture: int, scalar: str = "fp32"
) -> dict[str, int]:
    """Compile ``kernel`` for sm_``architecture`` and read registers per thread and spilled bytes.

    Parameters
    ----------
    kernel : triton.JITFunction
        A kernel of this package.
    constants : dict
        Its constexpr arguments.
    warps : int
        Warps per program.
    architecture : int
        80, 90, …
    scalar : {"fp32", "fp64", "bf16"}
        Element type of the tensors.
    """
    signature = {}
    for name in kernel.arg_names:
        if name in constants:
            signature[name] = "constexpr"
        elif name in ("C", "Z"):
            signature[name] = "i32"
        else:
            signature[name] = "*i64" if name == "offsets" else f"*{scalar}"
    # pointers and channel counts are multiples of 16 in every preset, which Triton finds out at a launch
    aligned = {
        (i,): [["tt.divisibility", 16]] for i, name in enumerate(kernel.arg_names) if name not in constants
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps}
    compiled = triton.compile(source, target=target, options=options)
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(compiled.asm["cubin"])
        f.flush()
        command = [str(tool), "--dump-resource-usage", f.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump: required a line with REG and LOCAL, got {text!r}")
    registers, stack, _, local = map(int, found.groups())
    return {"registers": registers, "spilled": stack + local}


def preset(
    l_max: int, channels: int, architecture: int, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, int]]:
    """Counters of every kernel for one l_max, number of channels and dtype, by kernel."""
    dims = tuple(2 * ell + 1 for ell in range(l_max + 1))
    scalar = _SCALARS[dtype]
    shape = edges.cut_of(dims, channels, dtype)
    constants: dict[str, Any] = {"BLOCK": shape.block, "ROWS": shape.rows}
    rows = {
        "to_atoms": edges.to_atoms_kernel(dims, dtype),
        "to_weights": edges.to_weights_kernel(dims, dtype),
        "to_basis": edges.to_basis_kernel(dims, dtype, tiles(channels, shape.block) == 1),
    }
    found = {name: resources(k, constants, shape.warps, architecture, scalar) for name, k in rows.items()}
    irreps = spherical_irreps(l_max)
    chain = chain_irreps(irreps, irreps, irreps, 3)
    spec = Spec(chain[1], irreps, chain[2])
    split = contraction.split_of(spec, dtype)
    for name, slots in (("contract", (0, 1, 2)), ("contract_in1", (2, 1, 0)), ("contract_in2", (0, 2, 1))):
        kernel = contraction.contract_kernel(spec, slots, True, dtype, split)
        shape = contraction.cut_of(spec, slots, channels, dtype)
        found[name] = resources(kernel, {"BLOCK": shape.block}, shape.warps, architecture, scalar)
    kernel = contraction.contract_weights_kernel(spec, dtype)
    shape = contraction.cut_of(spec, (0, 1, 2), channels, dtype)
    constants = {"BLOCK": shape.block, "CHUNK": contraction.CHUNK}
    found["contract_weights"] = resources(kernel, constants, shape.warps, architecture, scalar)
    return found


if __name__ == "__main__":
    counters = {
        f"sm_{architecture} l_max={l_max} C={channels} {_SCALARS[dtype]}": preset(
            l_max, channels, architecture, dtype
        )
        for architecture in (80, 90)
        for dtype, l_max, channels in RECORDED
    }
    print(json.dumps({"triton": triton.__version__, "counters": counters}, indent=1))
