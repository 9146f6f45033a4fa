"""Triton kernels: values in the interpreter, and registers without spills for two architectures, with no GPU."""

import pytest
from gpuless import NAMED_GPU, run

triton = pytest.importorskip("triton")

INTERPRETED = r"""
import torch
import equitensor as eq
from equitensor import reference
from equitensor.backends import triton
torch.manual_seed(0)
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
    centers = torch.tensor([0, 0, 0, 0, 0, 2, 2])
    offsets = eq.row_offsets(centers, 4)
    for dims, channels in (((1, 3, 5), 5), ((1, 3), 16), ((1, 3), 1), ((4,), 150)):
        w, y, f, s = (torch.randn(s, dtype=dtype) for s in (
            (7, len(dims), channels), (7, sum(dims)), (4, sum(dims), channels), (7, channels + 3)))
        s = s[:, 3:]  # rows of another stride
        for name, given in (
            ("to_atoms", (w, y)), ("to_weights", (y, f)), ("to_basis", (w, f)), ("to_scalars", (w, y, f)),
            ("scaled_to_atoms", (w, y, s)), ("scaled_to_weights", (y, f, s)), ("scaled_to_basis", (w, f, s)),
            ("scaled_to_atoms", (w, y, s.t().contiguous().t())),
        ):
            got = getattr(triton, name)(*given, centers, offsets, list(dims))
            expected = getattr(reference, name)(*given, centers, offsets, list(dims))
            torch.testing.assert_close(got, expected, atol=10 * tolerance, rtol=0)
            column = torch.stack([offsets, offsets + 7], 1)[:, 0]
            strided = getattr(triton, name)(*given, centers, column, list(dims))
            assert torch.equal(strided, got)
        got = triton.to_scalars_backward(w, y, f, s, centers, offsets, list(dims))
        expected = reference.to_scalars_backward(w, y, f, s, centers, offsets, list(dims))
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, atol=10 * tolerance, rtol=0)
        got = triton.to_scalars_backward(w, y, f, s, centers, offsets, list(dims), w.flip(0))
        for a, b in zip(got, (expected[0] + w.flip(0), *expected[1:]), strict=True):
            torch.testing.assert_close(a, b, atol=10 * tolerance, rtol=0)
        given = (w, y, f, s, w.flip(0), y.flip(0), f.flip(0), centers, offsets, list(dims))
        expected = reference.to_scalars_second(*given)
        for config in triton.second.configs_of(dims, channels, dtype):
            got = triton.to_scalars_second(*given, config)
            for a, b in zip(got, expected, strict=True):
                torch.testing.assert_close(a, b, atol=20 * tolerance, rtol=0)
        slabs = f.transpose(0, 1).contiguous().transpose(0, 1)
        assert triton.edge_atom._in_slabs(slabs)
        for scale in (None, s):
            a, b = (triton.to_basis(w, x, centers, offsets, list(dims), scale=scale) for x in (f, slabs))
            assert torch.equal(a, b)
        # what a compiler is given instead of a kernel
        pointwise = triton.edge_atom._one_block(y, f, centers)
        expected = reference.to_weights(y, f, centers, offsets, [sum(dims)])
        torch.testing.assert_close(pointwise, expected, atol=10 * tolerance, rtol=0)
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

LOW = r"""
import torch
import equitensor as eq
from equitensor.backends import triton
torch.manual_seed(0)
centers = torch.tensor([0] * 30 + [2] * 5)
rest = (centers, eq.row_offsets(centers, 4), [1, 3, 5])
tp = eq.TensorProduct("0e+1o+2e", "0e+1o+2e", "0e+1o+2e")
shapes = (35, 3, 20), (35, 9), (4, 9, 20), (2, 9, 20), (2, 9, 20), (2, 9, 20), tp.weight_shape(20), (35, 20)
low = [torch.randn(s).bfloat16() for s in shapes]
for name, arguments in (("to_atoms", (0, 1)), ("to_weights", (1, 2)), ("to_basis", (0, 2)),
                        ("to_scalars", (0, 1, 2)), ("scaled_to_atoms", (0, 1, 7)), ("scaled_to_weights", (1, 2, 7)),
                        ("scaled_to_basis", (0, 2, 7)), ("contract", (3, 4, 6)), ("contract_weights", (3, 4, 5))):
    more = rest if "to_" in name else (tp.spec, (0, 1, 2) if name == "contract" else True)
    got = getattr(triton, name)(*(low[i] for i in arguments), *more)
    assert got.dtype == torch.bfloat16
    expected = getattr(eq.reference, name)(*(low[i].double() for i in arguments), *more)
    error = (got.double() - expected).abs() / expected.abs().max()
    rounded = getattr(triton, name)(*(low[i].float() for i in arguments), *more).bfloat16()
    simulated = (rounded.double() - expected).abs() / expected.abs().max()
    print(name, f"{error.max():.1e} {simulated.max():.1e}")
    assert error.max() < 2**-6 and simulated.max() < 2**-8
print("near")
"""

# Operators on fake tensors of a GPU, made functional as torch.compile and AOT Inductor do.
TRACED = (
    NAMED_GPU
    + r"""
import torch, triton
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
import equitensor as eq
irreps = "0e+1o+2e"
tp = eq.TensorProduct(irreps, irreps, irreps)

def operators(w, y, f, s, x, b, weights, slabs, centers):
    offsets = eq.row_offsets(centers, f.shape[0])
    return (
        eq.to_atoms(w, y, centers, offsets), eq.to_weights(y, f, centers, offsets),
        eq.to_basis(w, f, centers, offsets), eq.to_scalars(w, y, f, centers, offsets),
        eq.to_atoms(w, y, centers, offsets, scale=s), eq.to_weights(y, f, centers, offsets, scale=s),
        eq.to_basis(w, f, centers, offsets, scale=s), tp(x, b, weights), tp.pull_back(x, b, weights),
        *torch.ops.equitensor.to_scalars_backward(w, y, f, s, centers, offsets, [1, 3, 5]),
        *torch.ops.equitensor.to_scalars_backward(w, y, f, s, centers, offsets, [1, 3, 5], w),
        *torch.ops.equitensor.to_scalars_second(w, y, f, s, w, y, f, centers, offsets, [1, 3, 5]),
        eq.to_basis(w, slabs, centers, offsets),
        torch.ops.equitensor.contract_weights(x, b, f, str(tp.spec), True),
    )

for dtype in (torch.float32, torch.float64, torch.bfloat16):
    with FakeTensorMode(allow_non_fake_inputs=True):
        shapes = (40, 3, 64), (40, 9), (6, 9, 64), (40, 64), (6, 9, 64), (6, 9, 64), tp.weight_shape(64)
        arguments = [torch.empty(s, dtype=dtype, device="cuda") for s in shapes]
        arguments[3] = torch.empty_strided((40, 64), (128, 1), dtype=dtype, device="cuda")  # a slice
        arguments.append(torch.empty(9, 6, 64, dtype=dtype, device="cuda").transpose(0, 1))
        arguments.append(torch.empty(40, dtype=torch.int64, device="cuda"))
        plain = make_fx(operators, tracing_mode="fake")(*arguments)
        lowered = make_fx(dispatch_functionalize(plain), tracing_mode="fake")(*arguments)
    nodes = lowered.graph.nodes
    assert not any("equitensor" in str(n.target) for n in nodes)
    kernels = [n for n in nodes if "triton_kernel_wrapper_functional" in str(n.target)]
    assert len(kernels) == 14
    assert not any("clone" in str(n.target) for n in nodes)  # of slices
    for n in kernels:
        outs = {name for name in n.kwargs["kwargs"] if name.startswith("out")}
        assert set(n.kwargs["tensors_to_clone"]) == outs
print("traced")
"""
)


def test_the_shape_class_decides_the_tile_config():
    """Fewer channels for more components and for float64, never less than a warp's."""
    import torch

    from equitensor.backends.triton.source import default_config

    assert [default_config(9, c, torch.float32, 4).block for c in (1, 5, 20, 64, 128, 256)] == [
        1,
        16,
        32,
        64,
        128,
        128,
    ]
    assert [default_config(d, 128, torch.float64, 4).block for d in (4, 25, 49, 100)] == [128, 64, 32, 32]
    assert (
        default_config(27, 128, torch.bfloat16, 0)
        == default_config(27, 128, torch.float32, 0)
        == (64, 0, 2, 1)
    )


def test_interpreter_gives_the_reference_values():
    assert run(INTERPRETED, TRITON_INTERPRET="1").endswith("equal\n")


def test_a_launch_is_on_the_device_of_its_tensors(monkeypatch):
    import contextlib

    import torch

    from equitensor.backends.triton.source import launch

    current = []

    @contextlib.contextmanager
    def device_of(tensor):
        current.append(tensor)
        yield
        current.pop()

    monkeypatch.setattr(torch.cuda, "device_of", device_of)
    tensor, launched = torch.zeros(1), []
    launch({(1,): lambda *tensors: launched.append(list(current))}, (1,), (tensor,))
    assert len(launched) == 1 and launched[0][0] is tensor and not current


def test_bfloat16_is_summed_in_float32():
    """The interpreter's own conversions are coarser than a GPU's; rounding float32 results gives the error there."""
    assert run(LOW, TRITON_INTERPRET="1").endswith("near\n")


def test_compilers_see_the_kernels_on_a_gpu():
    """Each operator becomes one kernel that writes its output and nothing else, with no GPU present."""
    assert run(TRACED).endswith("traced\n")
