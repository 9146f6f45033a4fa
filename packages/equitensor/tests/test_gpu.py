"""Every operator on a GPU against the reference implementation in float64 on the CPU.

``EQUITENSOR_GPU_TESTS_ON=cpu`` runs what needs no GPU on the CPU, to check the tests themselves.
"""

import itertools
import os
from functools import partial

import pytest
import torch
from graphs import GRAPHS, graph
from test_edge_layer import operands as operands_of_layer

from equitensor import (
    ScalarReader,
    TensorProduct,
    edge_layer,
    reference,
    row_offsets,
    to_atoms,
    to_basis,
    to_scalars,
    to_weights,
)
from equitensor.irreps import spherical_irreps

DEVICE = os.environ.get("EQUITENSOR_GPU_TESTS_ON", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device")]
on_cuda = pytest.mark.skipif(DEVICE == "cpu", reason="of CUDA alone")

ERROR = {torch.float64: 1e-12, torch.float32: 1e-5, torch.bfloat16: 2e-2}
"""Largest difference, relative to the largest number."""


def random(*shape, seed=0):
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def assert_near(got, expected, dtype):
    scale = float(expected.abs().max()) if expected.numel() else 0.0
    torch.testing.assert_close(got.double().cpu(), expected, rtol=0, atol=ERROR[dtype] * (1 + scale))


def operands(l_max, channels, centers, atoms):
    edges, d = len(centers), (l_max + 1) ** 2
    return (
        random(edges, l_max + 1, channels),
        random(edges, d, seed=1),
        random(atoms, d, channels, seed=2),
        random(edges, channels, seed=3),
    )


def scaled(function):
    """The function with its scale as the last tensor before the centers."""
    return lambda a, b, scale, *rest: function(a, b, *rest, scale=scale)


def calls(w, y, f, s):
    return (
        ("to_scalars", to_scalars, (w, y, f)),
        ("scaled_to_atoms", scaled(to_atoms), (w, y, s)),
        ("scaled_to_weights", scaled(to_weights), (y, f, s)),
        ("scaled_to_basis", scaled(to_basis), (w, f, s)),
        ("to_atoms", to_atoms, (w, y)),
        ("to_weights", to_weights, (y, f)),
        ("to_basis", to_basis, (w, f)),
    )


def check(l_max, channels, centers, offsets, dtype, derivatives=False):
    """Compare values, and first and second derivatives, of the operators of edges and atoms."""
    dims = [2 * ell + 1 for ell in range(l_max + 1)]
    rounded = [t.to(dtype) for t in operands(l_max, channels, centers, len(offsets) - 1)]
    exact = calls(*(t.double() for t in rounded))
    here = calls(*(t.to(DEVICE) for t in rounded))
    rest = centers.to(DEVICE), offsets.to(DEVICE)
    for (name, _, given), (_, ours, placed) in zip(exact, here, strict=True):

        def formula(*tensors, name=name):
            return getattr(reference, name)(*tensors, centers, offsets, dims)

        if not derivatives:
            assert_near(ours(*placed, *rest), formula(*given), dtype)
            continue
        results = []
        for function, tensors in ((lambda *t, ours=ours: ours(*t, *rest), placed), (formula, given)):
            leaves = [t.clone().requires_grad_() for t in tensors]
            first = torch.autograd.grad(function(*leaves).square().sum(), leaves, create_graph=True)
            total = sum(g.square().sum() for g in first)
            results.append([*(g.detach() for g in first), *torch.autograd.grad(total, leaves)])
        for got, expected in zip(*results, strict=True):
            assert_near(got, expected, dtype)


FEW = ((1, 7), (2, 64), (3, 128), (4, 1))
"""l_max and channels that are tried first; on all, kernels take many minutes to compile."""


SIZES = [
    pytest.param(*size, marks=[] if size in FEW else pytest.mark.slow)
    for size in itertools.product((1, 2, 3, 4), (1, 7, 64, 128))
]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("l_max, channels", SIZES)
def test_values(l_max, channels, dtype):
    for name in GRAPHS:
        check(l_max, channels, *graph(name), dtype)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("l_max, channels", [(1, 7), (2, 64), (3, 128)])
def test_derivatives(l_max, channels, dtype):
    check(l_max, channels, *graph("gaps"), dtype, derivatives=True)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("l_max, channels", [(1, 7), (2, 64), (3, 128)])
def test_derivatives_of_a_reader_whose_calls_depend_on_each_other(l_max, channels, dtype):
    centers, offsets = graph("gaps")
    dims = [2 * ell + 1 for ell in range(l_max + 1)]
    exact = [t.to(dtype) for t in operands(l_max, channels, centers, len(offsets) - 1)[:3]]
    results = []
    for device, kind in ((DEVICE, dtype), ("cpu", torch.float64)):
        leaves = [t.to(device, kind).requires_grad_() for t in exact]
        w, y, f = leaves
        rest = centers.to(device), offsets.to(device), dims
        read = ScalarReader(w) if not results else lambda *t, w=w: reference.to_scalars(w, *t)
        first = read(y, f, *rest)
        total = (read(y, f * (1 + first.mean()), *rest) * first).mean()
        forces = torch.autograd.grad(total, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in forces), leaves)
        results.append([*(g.detach() for g in forces), *second])
    for got, expected in zip(*results, strict=True):
        assert_near(got, expected, dtype)


@pytest.mark.parametrize("out, density", [(128, True), (1, False)])
@pytest.mark.parametrize("name", ["many", "gaps"])
def test_the_fused_edge_layer(name, out, density):
    """Values, gradients by its own kernel, and the composed second derivatives; products round to TF32."""
    given, edges, matrices = operands_of_layer(name, 3, 64, 64, 256, out)
    matrices = [m / m.shape[0] ** 0.5 for m in matrices]
    found = []
    ours = partial(edge_layer, density=density)
    for function, place, dtype in (
        (ours, DEVICE, torch.float32),
        (reference.edge_layer, "cpu", torch.float64),
    ):
        leaves = [t.to(place, dtype).requires_grad_() for t in given]
        rest = (*(t.to(place) for t in edges), *(m.to(place, dtype) for m in matrices))
        values = function(*leaves, *rest)[: 1 + density]
        loss = sum(v.square().sum() for v in values)
        first = torch.autograd.grad(loss, leaves, retain_graph=True)
        again = torch.autograd.grad(loss, leaves, create_graph=True)
        second = torch.autograd.grad(sum(g.square().sum() for g in again), leaves)
        found.append([t.detach().double().cpu() for t in (*values, *first, *again, *second)])
    for got, expected in zip(*found, strict=True):
        assert float((got - expected).norm()) < 5e-3 * float(expected.norm())


def test_a_center_of_many_edges_and_more_atoms_than_run_at_once():
    for counts in (torch.tensor([5000, 0, 1]), torch.full((20_000 if DEVICE == "cuda" else 200,), 5)):
        centers = torch.repeat_interleave(torch.arange(len(counts)), counts)
        check(2, 64, centers, row_offsets(centers, len(counts)), torch.float32)


@pytest.mark.parametrize("coupled", [True, False])
@pytest.mark.parametrize("l_max, channels", [(1, 7), (2, 64), (3, 128)])
def test_products(l_max, channels, coupled):
    irreps = spherical_irreps(l_max)
    tp = TensorProduct(irreps, irreps, irreps, coupled=coupled)
    x, y = (random(300, (l_max + 1) ** 2, channels, seed=k).float() for k in (0, 1))
    weights = random(*tp.weight_shape(channels), seed=2).float()
    expected = reference.contract(x.double(), y.double(), weights.double(), tp.spec, (0, 1, 2))
    assert_near(tp(x.to(DEVICE), y.to(DEVICE), weights.to(DEVICE)), expected, torch.float32)


def test_the_same_bits_again():
    centers, offsets = graph("many")
    w, y, f, s = (t.float().to(DEVICE) for t in operands(2, 64, centers, len(offsets) - 1))
    rest = centers.to(DEVICE), offsets.to(DEVICE)
    for _, ours, given in calls(w, y, f, s):
        assert torch.equal(ours(*given, *rest), ours(*given, *rest))


def test_parameters_give_the_same_numbers():
    centers, offsets = graph("many")
    w, y, *_ = (t.float().to(DEVICE) for t in operands(2, 64, centers, len(offsets) - 1))
    rest = centers.to(DEVICE), offsets.to(DEVICE)
    assert torch.equal(to_atoms(torch.nn.Parameter(w), y, *rest).detach(), to_atoms(w, y, *rest))


@on_cuda
@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="one GPU")
def test_the_second_gpu():
    centers, offsets = graph("many")
    w, y, *_ = (t.float() for t in operands(2, 64, centers, len(offsets) - 1))
    found = to_atoms(*(t.to("cuda:1") for t in (torch.nn.Parameter(w), y, centers, offsets)))
    assert found.device.index == 1
    assert_near(found.detach(), to_atoms(w.double(), y.double(), centers, offsets), torch.float32)


@on_cuda
def test_more_elements_than_32_bits_index():
    """2³¹ elements and some, of which the last atom's are compared."""
    edges, channels = 2**31 // (3 * 64) + 64, 64
    w = torch.zeros(edges, 3, channels, dtype=torch.float32, device="cuda")
    y = torch.ones(edges, 9, dtype=torch.float32, device="cuda")
    w[-64:] = torch.arange(64, dtype=torch.float32, device="cuda")
    centers = torch.arange(edges, device="cuda") // 64
    found = to_atoms(w, y, centers, row_offsets(centers, int(centers[-1]) + 1))
    last = w[centers == centers[-1]].sum(0)[0]
    torch.testing.assert_close(found[-1], last.expand(9, -1), rtol=1e-5, atol=0)


@on_cuda
def test_every_tile_config_is_timed():
    from equitensor.backends.triton import edge_atom, tuning

    given = "to_atoms", (1, 3, 5), 64, torch.float32
    configs = edge_atom.configs_of(*given)
    kernel, sample = edge_atom.kernel_of(*given, configs[0]), edge_atom.sample_of(*given)
    times = tuning._times(kernel, configs, 64, torch.device("cuda"), sample, None)
    assert set(times) == set(configs) and len(configs) > 1
    assert all(0 < time < 100 for time in times.values())  # milliseconds


@on_cuda
def test_cuda_graphs():
    centers, offsets = graph("many")
    w, y, *_ = (t.float().to(DEVICE) for t in operands(2, 64, centers, len(offsets) - 1))
    rest = centers.to(DEVICE), offsets.to(DEVICE)
    expected = to_atoms(w, y, *rest)  # compiles and tunes, which a capture cannot
    captured = torch.cuda.CUDAGraph()
    with torch.cuda.graph(captured):
        found = to_atoms(w, y, *rest)
    found.zero_()
    captured.replay()
    assert torch.equal(found, expected)
