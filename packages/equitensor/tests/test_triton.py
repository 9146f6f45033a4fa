"""Triton kernels: values in the interpreter, and registers without spills for two architectures, with no GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

triton = pytest.importorskip("triton")

INTERPRETED = r"""
import torch
import equitensor as eq
from equitensor import reference
from equitensor.triton import operations as triton
torch.manual_seed(0)
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
    centres = torch.tensor([0, 0, 0, 0, 0, 2, 2])
    offsets = eq.row_offsets(centres, 4)
    for dims, channels in (((1, 3, 5), 5), ((1, 3), 16), ((4,), 150)):
        w, y, f = (torch.randn(s, dtype=dtype) for s in (
            (7, len(dims), channels), (7, sum(dims)), (4, sum(dims), channels)))
        for name, given in (("to_atoms", (w, y)), ("to_weights", (y, f)), ("to_basis", (w, f))):
            got = getattr(triton, name)(*given, centres, offsets, list(dims))
            expected = getattr(reference, name)(*given, centres, offsets, list(dims))
            torch.testing.assert_close(got, expected, atol=10 * tolerance, rtol=0)
    empty = torch.zeros(0, dtype=torch.int64)
    none = triton.to_atoms(w[:0], y[:0], empty, eq.row_offsets(empty, 2), [4])
    assert none.shape == (2, 4, 150) and not none.any()
    assert triton.to_weights(y[:0], f[:0], empty, eq.row_offsets(empty, 0), [4]).shape == (0, 1, 150)
    for coupled in (True, False):
        tp = eq.TensorProduct("0e+1o+2e", "0e+1o", "0e+1o+1e", coupled=coupled)
        given = [torch.randn(3, d, 5, dtype=dtype) for d in (9, 4, 7)]
        weights = torch.randn(tp.weight_shape(5), dtype=dtype)
        for slots in ((0, 1, 2), (2, 1, 0), (0, 2, 1), (1, 2, 0)):
            pair = [given[s] for s in slots[:2]]
            torch.testing.assert_close(
                triton.contract(*pair, weights, tp.spec, slots),
                reference.contract(*pair, weights, tp.spec, slots), atol=tolerance, rtol=0)
        torch.testing.assert_close(
            triton.contract_weights(*given, tp.spec, coupled),
            reference.contract_weights(*given, tp.spec, coupled), atol=10 * tolerance, rtol=0)
print("equal")
"""

RESOURCES = """
import json, sys
from equitensor.triton.resources import preset
shapes = json.loads(sys.argv[1])
print(json.dumps({f"sm_{a} l_max={l} C={c}": preset(l, c, a) for a, l, c in shapes}))
"""


def run(script, *arguments, **environment):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script, *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_interpreter_gives_the_oracle_s_values():
    assert run(INTERPRETED, TRITON_INTERPRET="1").endswith("equal\n")


@pytest.mark.slow
def test_registers_and_no_spills():
    recorded = json.loads(Path(__file__).with_name("triton_registers.json").read_text())
    assert not any(k["spilled"] for shape in recorded["counters"].values() for k in shape.values())
    shapes = [(80, 1, 64), (90, 1, 64), (80, 2, 64), (90, 2, 64), (90, 2, 128)]
    found = json.loads(run(RESOURCES, json.dumps(shapes)))
    for shape, kernels in found.items():
        for name, counters in kernels.items():
            assert counters["spilled"] == 0, (shape, name, counters)
            if recorded["triton"] == triton.__version__:
                assert counters == recorded["counters"][shape][name], (shape, name, counters)
