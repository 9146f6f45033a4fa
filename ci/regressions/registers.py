"""Registers and spills of the Triton kernels for a GPU architecture, compiled with no GPU present."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import triton
from benchmarks.common import ROOT, write_json
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from equitensor.backends.triton import edge_atom, edge_sums, second, tensor_product
from equitensor.backends.triton.edge_layer import FORWARD, gradients_config
from equitensor.backends.triton.edge_layer_gradients import edge_layer_backward_kernel
from equitensor.backends.triton.edge_layer_kernels import edge_layer_kernel
from equitensor.backends.triton.source import TileConfig
from equitensor.irreps import spherical_irreps
from equitensor.paths import Spec, chain_irreps
from mlip_export.products import chain
from mlip_export.products.chain_kernels import hidden_layers_backward_kernel, hidden_layers_kernel

RECORD = ROOT / "ci" / "regressions" / "registers.json"
_SCALARS = {torch.float32: "fp32", torch.float64: "fp64", torch.bfloat16: "bf16"}

RECORDED = [
    *((torch.float32, l_max, 64) for l_max in (1, 2, 3, 4)),
    *((torch.float32, l_max, 128) for l_max in (2, 3)),
    *((torch.float64, l_max, 64) for l_max in (2, 3, 4)),
    *((torch.bfloat16, l_max, 64) for l_max in (2, 3)),
]
"""What the record counts: dtype, l_max, channels."""

TUNED = [(torch.float32, l_max, channels) for l_max in (1, 2, 3, 4) for channels in (64, 128)]
"""Of what it counts every tile config that tuning may choose."""


def compiled(
    kernel: Any, constants: dict[str, Any], warps: int, architecture: int, scalar: str = "fp32"
) -> dict[str, Any]:
    """Compile ``kernel`` for sm_``architecture``; return text or bytes by stage ("ptx", "cubin", …).

    Parameters
    ----------
    kernel : triton.JITFunction
        A kernel of equitensor.
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
        elif name in ("C", "S") and constants.get("BLOCK") == 1:
            signature[name], constants = "constexpr", {**constants, name: 1}  # as Triton does at a launch
        elif name in ("C", "S", "Z", "edges"):
            signature[name] = "i32"
        else:
            signature[name] = "*i64" if name == "offsets" else f"*{scalar}"
    # pointers and channel counts are multiples of 16 in every preset, which Triton finds out at a launch
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(kernel.arg_names)
        if name not in constants and name != "edges"
    }
    source = ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=aligned)
    target = GPUTarget("cuda", architecture, 32)
    options = {"num_warps": warps}
    asm: dict[str, Any] = triton.compile(source, target=target, options=options).asm
    return asm


def resources(
    kernel: Any, constants: dict[str, Any], warps: int, architecture: int, scalar: str = "fp32"
) -> dict[str, int]:
    """Return registers per thread and spilled bytes of what :func:`compiled` gives for the same arguments."""
    cubin = compiled(kernel, constants, warps, architecture, scalar)["cubin"]
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as f:
        f.write(cubin)
        f.flush()
        command = [str(tool), "--dump-resource-usage", f.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", text)
    if found is None:
        raise RuntimeError(f"cuobjdump must print a line with REG and LOCAL, got {text!r}")
    registers, stack, _, local = map(int, found.groups())
    return {"registers": registers, "spilled": stack + local}


SCALARS = [(torch.float32, l_max, channels) for l_max in (2, 3) for channels in (64, 128)]
"""Of what it counts the kernels of :func:`scalars`."""


class Shaped(NamedTuple):
    """A kernel for one shape class, its other constexpr arguments, and its tile configs, the default first."""

    kernel: Any
    constants: dict[str, int]
    configs: tuple[TileConfig, ...]


def kernels(l_max: int, channels: int, dtype: torch.dtype) -> dict[str, Shaped]:
    """Return every kernel for one l_max, number of channels and dtype, by name."""
    dims = tuple(2 * ell + 1 for ell in range(l_max + 1))
    found = {}
    for name in ("to_atoms", "to_weights", "to_basis"):
        configs = edge_atom.configs_of(name, dims, channels, dtype)
        found[name] = Shaped(edge_atom.kernel_of(name, dims, channels, dtype, configs[0]), {}, configs)
    irreps = spherical_irreps(l_max)
    chain = chain_irreps(irreps, irreps, irreps, 3)
    spec = Spec(chain[1], irreps, chain[2])
    split = tensor_product.split_of(spec, dtype)
    for name, slots in (("contract", (0, 1, 2)), ("contract_in1", (2, 1, 0)), ("contract_in2", (0, 2, 1))):
        kernel = tensor_product.contract_kernel(spec, slots, True, dtype, split)
        found[name] = Shaped(kernel, {}, tensor_product.configs_of(spec, slots, channels, dtype))
    kernel = tensor_product.contract_weights_kernel(spec, dtype)
    configs = tensor_product.configs_of(spec, (0, 1, 2), channels, dtype)
    found["contract_weights"] = Shaped(kernel, {"CHUNK": tensor_product.CHUNK}, configs)
    return found


def scalar_kernels(l_max: int, channels: int, dtype: torch.dtype) -> dict[str, Shaped]:
    """Return the kernels of to_scalars and of its derivatives, by name."""
    dims = tuple(2 * ell + 1 for ell in range(l_max + 1))
    found = {}
    for name in (
        "to_scalars",
        "to_scalars_backward",
        "scaled_to_atoms",
        "scaled_to_weights",
        "scaled_to_basis",
    ):
        configs = edge_atom.configs_of(name, dims, channels, dtype)
        found[name] = Shaped(edge_atom.kernel_of(name, dims, channels, dtype, configs[0]), {}, configs)
    started, backward = "started_to_scalars_backward", found["to_scalars_backward"].configs
    kernel = edge_atom.kernel_of(started, dims, channels, dtype, backward[0])
    found[started] = Shaped(kernel, {}, backward)
    configs = second.configs_of(dims, channels, dtype)
    found["to_scalars_second"] = Shaped(edge_sums.to_scalars_second_kernel(dims, dtype), {}, configs)
    configs = edge_atom.configs_of("to_basis", dims, channels, dtype)
    kernel = edge_atom.kernel_of("to_basis", dims, channels, dtype, configs[0], slabs=True)
    found["to_basis of slabs"] = Shaped(kernel, {}, configs)
    return found


def preset(
    l_max: int,
    channels: int,
    architecture: int,
    dtype: torch.dtype = torch.float32,
    of: Callable[[int, int, torch.dtype], dict[str, Shaped]] = kernels,
) -> dict[str, dict[str, int]]:
    """Return counters of every kernel with its default tile config, for one l_max, number of channels and dtype."""
    return {
        name: resources(
            k.kernel,
            {**k.configs[0].constants, **k.constants},
            k.configs[0].warps,
            architecture,
            _SCALARS[dtype],
        )
        for name, k in of(l_max, channels, dtype).items()
    }


scalars = partial(preset, of=scalar_kernels)
"""Counters of the kernels of to_scalars, as :func:`preset` gives those of the others."""


EDGE_LAYERS = {
    f"l_max={l_max} {place} layer": (l_max + 1, s, o, density)
    for l_max in (2, 3)
    for place, s, o, density in (("first", 64, 64, True), ("last", 128, 1, False))
}
"""Layers of the small and the medium preset by name: R, S, O, and whether they have a density."""


def edge_layer(name: str, architecture: int) -> dict[str, dict[str, int]]:
    """Return counters of the two kernels of the fused edge layer, for a layer of a preset."""
    r, s, o, density = EDGE_LAYERS[name]
    found = {}
    for kernel, config in ((edge_layer_kernel, FORWARD), (edge_layer_backward_kernel, gradients_config(r))):
        constants = config.constants(s, 64, r, 256, o, density)
        found[kernel.__name__] = resources(kernel, constants, config.warps, architecture)
    return found


CHAINS = {
    "embedding": ((32,), 64, 64, True),
    "first latent": ((64, 64), 256, 256, True),
    "last latent": ((64, 64, 64), 256, 256, False),
}
"""Pairs of products of the small and the medium preset by name: widths on the left, H, N, and whether silu follows."""


def chained(name: str, architecture: int) -> dict[str, dict[str, int]]:
    """Return counters of the kernels of pairs of products in either precision of float32, for one of a preset."""
    sizes, found = CHAINS[name], {}
    for precision in ("float32", "tf32"):
        for kernel, constants in (
            (hidden_layers_kernel, chain.constants(*sizes, precision)),
            (hidden_layers_backward_kernel, chain.backward_constants(sum(sizes[0]), *sizes[1:3], precision)),
        ):
            found[f"{kernel.__name__} {precision}"] = resources(
                kernel, constants, chain.CONFIG.warps, architecture
            )
    return found


def most_spilled(
    l_max: int, channels: int, architecture: int, dtype: torch.dtype = torch.float32
) -> dict[str, dict[str, int]]:
    """Return the number of tile configs of every kernel, and the most registers and spilled bytes of any of them."""
    found = {}
    for name, k in kernels(l_max, channels, dtype).items():
        each = [
            resources(
                k.kernel, {**config.constants, **k.constants}, config.warps, architecture, _SCALARS[dtype]
            )
            for config in k.configs
        ]
        found[name] = {"configs": len(each), **{c: max(e[c] for e in each) for c in ("registers", "spilled")}}
    return found


def record(
    count: Callable[..., dict[str, dict[str, int]]], shapes: Iterable[tuple[torch.dtype, int, int]]
) -> dict[str, dict[str, dict[str, int]]]:
    """Return what ``count`` finds for sm_80 and sm_90 at these (dtype, l_max, channels)."""
    return {
        f"sm_{architecture} l_max={l_max} C={channels} {_SCALARS[dtype]}": count(
            l_max, channels, architecture, dtype
        )
        for architecture in (80, 90)
        for dtype, l_max, channels in shapes
    }


def update() -> None:
    """Compile every recorded shape, and write the record. Takes an hour on two cores."""
    counters, any_config = record(preset, RECORDED), record(most_spilled, TUNED)
    layers = {
        f"sm_{architecture} {name}": edge_layer(name, architecture)
        for architecture in (80, 90)
        for name in EDGE_LAYERS
    }
    chains = {
        f"sm_{architecture} {name}": chained(name, architecture)
        for architecture in (80, 90)
        for name in CHAINS
    }
    groups: dict[str, Any] = {"edge layers": layers, "chains": chains}
    groups |= {"counters": counters, "any config": any_config, "scalars": record(scalars, SCALARS)}
    write_json(RECORD, {"triton": triton.__version__, **groups})
