"""Triton kernels compiled for two architectures with no GPU: registers, spills, no matrix products in most."""

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

triton = pytest.importorskip("triton")

from ci.regressions.registers import (  # noqa: E402
    CHAINS,
    EDGE_LAYERS,
    chained,
    compiled,
    edge_layer,
    kernels,
    most_spilled,
    preset,
    resources,
    scalar_kernels,
    scalars,
)
from ci.regressions.registers import RECORD as REGISTERS  # noqa: E402

from equitensor.backends.triton import edge_atom  # noqa: E402

RECORD = json.loads(REGISTERS.read_text())
DTYPES = {"fp32": torch.float32, "fp64": torch.float64, "bf16": torch.bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(
    "count, group, architecture, l_max, channels, scalar",
    [
        (preset, "counters", 80, 1, 64, "fp32"),
        (preset, "counters", 90, 2, 64, "fp32"),
        (preset, "counters", 90, 2, 128, "fp32"),
        (preset, "counters", 90, 2, 64, "fp64"),
        (preset, "counters", 80, 2, 64, "bf16"),
        (scalars, "scalars", 90, 2, 64, "fp32"),
        (most_spilled, "any config", 80, 1, 64, "fp32"),
        (most_spilled, "any config", 90, 1, 128, "fp32"),
    ],
)
def test_registers_and_no_spills(count, group, architecture, l_max, channels, scalar):
    """Of the default tile configs and of all candidates; the record holds more shapes than are compiled here."""
    found = count(l_max, channels, architecture, DTYPES[scalar])
    assert not any(kernel["spilled"] for kernel in found.values())
    if RECORD["triton"] == triton.__version__:
        assert found == RECORD[group][f"sm_{architecture} l_max={l_max} C={channels} {scalar}"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture, name", [(80, "l_max=2 first layer"), (90, "l_max=2 last layer")])
def test_the_fused_edge_layer_does_not_spill(architecture, name):
    found = edge_layer(name, architecture)
    assert len(found) == 2 and not any(kernel["spilled"] for kernel in found.values())
    if RECORD["triton"] == triton.__version__:
        assert found == RECORD["edge layers"][f"sm_{architecture} {name}"]


@pytest.mark.slow
@pytest.mark.parametrize("architecture, name", [(80, "first latent"), (90, "last latent")])
def test_the_kernels_of_chained_products_do_not_spill(architecture, name):
    found = chained(name, architecture)
    assert len(found) == 4 and not any(kernel["spilled"] for kernel in found.values())
    if RECORD["triton"] == triton.__version__:
        assert found == RECORD["chains"][f"sm_{architecture} {name}"]


def test_nothing_on_record_spills_and_every_tile_config_of_every_preset_is_there():
    shapes = {f"sm_{a} l_max={ell} C={c} fp32" for a in (80, 90) for ell in (1, 2, 3, 4) for c in (64, 128)}
    assert set(RECORD["any config"]) == shapes
    assert all(k["configs"] >= 2 for shape in RECORD["any config"].values() for k in shape.values())
    assert set(RECORD["edge layers"]) == {f"sm_{a} {name}" for a in (80, 90) for name in EDGE_LAYERS}
    assert set(RECORD["chains"]) == {f"sm_{a} {name}" for a in (80, 90) for name in CHAINS}
    for group in ("counters", "any config", "scalars", "edge layers", "chains"):
        assert not any(k["spilled"] for shape in RECORD[group].values() for k in shape.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("l_max", [1, 2, 3, 4])
def test_sources_have_no_matrix_product(dtype, l_max):
    """So neither TF32 nor ``torch.set_float32_matmul_precision`` can change what they give."""
    for channels in (64, 256):
        found = {**kernels(l_max, channels, dtype), **scalar_kernels(l_max, channels, dtype)}
        assert len(found) == 15
        for name, k in found.items():
            assert "tl.fma" in k.kernel.src or "to_basis" in name
            assert "dot" not in k.kernel.src and "allow_tf32" not in k.kernel.src, name


def test_compiled_code_has_no_matrix_product():
    for name, k in kernels(1, 64, torch.float32).items():
        config = k.configs[0]
        ptx = compiled(k.kernel, {**config.constants, **k.constants}, config.warps, 90)["ptx"]
        assert "ld.global" in ptx and "mma" not in ptx and "tf32" not in ptx, name


def test_loads_of_later_turns_are_under_way_where_a_tile_config_says_so():
    """As asynchronous copies, of edges along a single channel too."""
    for dims, channels in (((1, 3), 64), ((1,), 1)):
        configs = edge_atom.configs_of("to_atoms", dims, channels, torch.float32)
        kernel = edge_atom.kernel_of("to_atoms", dims, channels, torch.float32, configs[0])
        for config in (configs[0], next(c for c in configs if c.stages > 1)):
            ptx = compiled(kernel, dict(config.constants), config.warps, 80)["ptx"]
            assert ("cp.async" in ptx) == (config.stages > 1), config


def test_a_single_channel_does_not_spill():
    for config in edge_atom.configs_of("to_atoms", (1,), 1, torch.float32):
        kernel = edge_atom.kernel_of("to_atoms", (1,), 1, torch.float32, config)
        assert resources(kernel, dict(config.constants), config.warps, 90)["spilled"] == 0
