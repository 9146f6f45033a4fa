"""The fused edge layer: values, derivatives of every order, kernels in the interpreter and in traces, errors."""

import pytest
import torch
from gpuless import NAMED_GPU, run
from graphs import GRAPHS, graph
from torch.library import opcheck

from equitensor import edge_layer, reference


def operands(name, degrees=2, scalars=3, channels=2, hidden=4, out=3, dtype=torch.float64):
    """What belongs to edges and atoms, the edges, and the matrices."""
    centers, offsets = graph(name)
    edges, atoms = len(centers), len(offsets) - 1
    g = torch.Generator().manual_seed(edges + out)
    edge_atom = (
        (edges, scalars),
        (edges, degrees, channels),
        (edges, degrees**2),
        (atoms, degrees**2, channels),
    )
    matrices = (scalars + channels, hidden), (hidden, hidden), (hidden, out)
    given = [torch.randn(s, dtype=dtype, generator=g) for s in (*edge_atom, *matrices)]
    return given[:4], (centers, offsets), given[4:]


def layer(edges, density=True):
    """The operator as a function of its seven tensors."""
    return lambda *t: edge_layer(*t[:4], *edges, *t[4:], density)


@pytest.mark.parametrize("out", [1, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_values(name, out):
    given, edges, matrices = operands(name, out=out)
    got, expected = layer(edges)(*given, *matrices), reference.edge_layer(*given, *edges, *matrices)
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    image, sums = layer(edges, density=False)(*given, *matrices)
    assert torch.equal(image, got[0]) and sums.shape == (0, *got[1].shape[1:])


@pytest.mark.parametrize("out, density", [(1, False), (3, True)])
@pytest.mark.parametrize("name", ["one edge", "gaps"])
def test_first_and_second_derivatives(name, out, density):
    given, edges, matrices = operands(name, out=out)
    tensors = [t.requires_grad_() for t in (*given, *matrices)]
    function = layer(edges, density)
    f = (lambda *t: function(*t)) if density else (lambda *t: function(*t)[0])
    assert torch.autograd.gradcheck(f, tensors)
    assert torch.autograd.gradgradcheck(f, tensors)


@pytest.mark.parametrize("out, density", [(1, False), (3, True)])
def test_gradients_of_evaluation_are_one_operator(out, density):
    """Where no matrix needs a gradient and nothing is differentiated again; with the values of the composed form."""
    given, edges, matrices = operands("gaps", out=out)
    given = [t.requires_grad_() for t in given]
    results = layer(edges, density)(*given, *matrices)
    results = results if density else results[:1]
    cotangents = [torch.randn_like(t) for t in results]
    with torch.profiler.profile() as profile:
        got = torch.autograd.grad(results, given, cotangents, retain_graph=True)
    assert "equitensor::edge_layer_backward" in {event.key for event in profile.key_averages()}
    with torch.profiler.profile() as profile:
        again = torch.autograd.grad(results, given, cotangents, create_graph=True)
    assert "equitensor::edge_layer_backward" not in {event.key for event in profile.key_averages()}
    expected = torch.autograd.grad(
        reference.edge_layer(*given, *edges, *matrices)[: len(results)], given, cotangents
    )
    torch.testing.assert_close(got, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(again, expected, atol=1e-12, rtol=0)


def test_third_derivative():
    given, edges, matrices = operands("gaps")
    tensors = [t.requires_grad_() for t in (*given, *matrices)]

    def thrice(op):
        total = sum(t.sin().sum() for t in op(*tensors))
        first = torch.autograd.grad(total, tensors, create_graph=True)
        second = torch.autograd.grad(sum(t.square().sum() for t in first), tensors, create_graph=True)
        return torch.autograd.grad(sum(t.square().sum() for t in second), tensors)

    expected = thrice(lambda *t: reference.edge_layer(*t[:4], *edges, *t[4:]))
    torch.testing.assert_close(thrice(layer(edges)), expected, rtol=1e-9, atol=1e-9)


def test_the_gradients_refuse_to_be_differentiated():
    """So that no second derivative is silently wrong; autograd never asks, it composes them."""
    given, edges, matrices = operands("gaps")
    image, sums = layer(edges)(*given, *matrices)
    found = torch.ops.equitensor.edge_layer_backward(
        image.requires_grad_(), sums, *given, *edges, *matrices, True
    )
    with pytest.raises(RuntimeError, match="no autograd formula"):
        found[0].sum().backward()


@pytest.mark.parametrize("name", ["no edges", "gaps"])
def test_opcheck(name):
    given, edges, matrices = operands(name)
    for density in (True, False):
        image, sums = layer(edges, density)(*given, *matrices)
        arguments = *given, *edges, *matrices, density
        opcheck(torch.ops.equitensor.edge_layer_backward.default, (image, sums, *arguments))
    tensors = [t.requires_grad_() for t in (*given, *matrices)]
    opcheck(torch.ops.equitensor.edge_layer.default, (*tensors[:4], *edges, *tensors[4:], True))


@pytest.mark.parametrize(
    "place, shape, name",
    [
        (0, (8, 3), "x"),
        (1, (4, 2), "w"),
        (2, (4, 5), "basis"),
        (3, (6, 4, 3), "features"),
        (4, (6, 4), "first"),
    ],
)
def test_shapes_that_do_not_fit_are_named(place, shape, name):
    given, edges, matrices = operands("gaps")
    tensors = [*given, *matrices]
    tensors[place] = torch.zeros(shape, dtype=torch.float64)
    with pytest.raises(ValueError, match=f"edge_layer: {name} must have"):
        layer(edges)(*tensors)


def test_other_dtypes_are_named():
    given, edges, matrices = operands("gaps")
    with pytest.raises(TypeError, match="edge_layer: last must have a floating dtype"):
        layer(edges)(*given, *matrices[:2], matrices[2].float())


INTERPRETED = r"""
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_edge_layer import operands
from equitensor import reference
from equitensor.backends.triton.edge_layer import LayerConfig, edge_layer, edge_layer_backward
forward = LayerConfig(rows=16, block=16, warps=4)
backward = forward._replace(columns=16)
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-4)):
    for name, degrees, scalars, hidden, out, density in (
        ("many", 3, 16, 32, 16, True), ("one center", 2, 32, 16, 1, False), ("gaps", 4, 16, 16, 32, True),
        ("no edges", 3, 16, 16, 1, True), ("no atoms", 3, 16, 16, 1, True),
    ):
        given, edges, matrices = operands(name, degrees, scalars, 16, hidden, out, torch.float64)
        matrices = [m / m.shape[0] ** 0.5 for m in matrices]
        given = [t.requires_grad_() for t in given]
        results = reference.edge_layer(*given, *edges, *matrices)[: 1 + density]
        cotangents = [torch.randn_like(t) for t in results]
        gradients = torch.autograd.grad(results, given, cotangents)
        low = [t.detach().to(dtype) for t in given]
        arguments = *low, *edges, *(m.to(dtype) for m in matrices), density
        got = edge_layer(*arguments, forward)
        g_sums = cotangents[1].to(dtype) if density else got[1]
        found = edge_layer_backward(cotangents[0].to(dtype), g_sums, *arguments, backward)
        for a, b in zip((*got[: 1 + density], *found), (*results, *gradients), strict=True):
            torch.testing.assert_close(a.double(), b, atol=tolerance, rtol=tolerance)
print("equal")
"""


def test_interpreter_gives_the_reference_values_and_gradients():
    pytest.importorskip("triton", minversion="3.5")
    from pathlib import Path

    assert run(INTERPRETED, str(Path(__file__).parent), TRITON_INTERPRET="1").endswith("equal\n")


def test_an_older_triton_is_named(monkeypatch):
    launches = pytest.importorskip("equitensor.backends.triton.edge_layer")
    monkeypatch.setattr(launches.triton, "__version__", "3.4.0")
    with pytest.raises(RuntimeError, match=r"needs Triton 3\.5 or newer, got 3\.4\.0"):
        launches._sizes(torch.zeros(2, 16), torch.zeros(2, 3, 16), torch.zeros(16, 1))


TRACED = (
    NAMED_GPU
    + r"""
import torch
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
import equitensor as eq

def operators(density, x, w, y, f, m1, m2, m3, centers):
    given = x, w, y, f, centers, eq.row_offsets(centers, f.shape[0]), m1, m2, m3, density
    out, sums = torch.ops.equitensor.edge_layer(*given)
    return out, sums, *torch.ops.equitensor.edge_layer_backward(out, sums, *given)

def kernels(density, out, dtype=torch.float32, scalars=64):
    shapes = (40, scalars), (40, 3, 64), (40, 9), (6, 9, 64), (scalars + 64, 256), (256, 256), (256, out)
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors = [torch.empty(s, dtype=dtype, device="cuda") for s in shapes]
        tensors.append(torch.empty(40, dtype=torch.int64, device="cuda"))
        plain = make_fx(lambda *t: operators(density, *t), tracing_mode="fake")(*tensors)
        lowered = make_fx(dispatch_functionalize(plain), tracing_mode="fake")(*tensors)
    assert not any("equitensor" in str(n.target) for n in lowered.graph.nodes)
    found = [n for n in lowered.graph.nodes if "triton_kernel_wrapper_functional" in str(n.target)]
    products = [n for n in lowered.graph.nodes if str(n.target) in ("aten.mm.default", "aten.bmm.default")]
    return [set(n.kwargs["tensors_to_clone"]) for n in found], len(products)

for density, out in ((True, 64), (False, 1)):
    value = {"out", "sums"} if density else {"out"}
    assert kernels(density, out) == ([value, {"out_x", "out_w", "out_basis", "out_features"}], 0)
for scalars in (192, 8):
    try:
        kernels(True, 64, scalars=scalars)
    except ValueError as e:
        assert "edge_layer: S must be a power of two from 16 to 128" in str(e) and str(scalars) in str(e), e
    else:
        raise AssertionError("sizes without a kernel must be refused")
print("traced")
"""
)


def test_compilers_see_two_kernels_on_a_gpu_and_no_product():
    pytest.importorskip("triton", minversion="3.5")
    assert run(TRACED).endswith("traced\n")
