"""Products with constant matrices: packing, kernel against float64, rewriting of graphs, and what is measured."""

import itertools
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import localgraph
import mlip_export
from mlip_export import inductor
from mlip_export._describe import _products
from mlip_export.graphs import example_graphs
from mlip_export.loaded import open_function
from mlip_export.products import candidates, choose, ops, rewrite
from mlip_export.products.measure import faster
from mlip_export.products.pack import LANES, pack, panel_width, unpack
from mlip_export.products.rewrite import Products, use_packed_products

HERE = LANES.get(inductor.isa_of_this_machine())
needs_kernel = pytest.mark.skipif(HERE is None, reason="the kernel is for x86 with AVX2 or AVX-512")
SHAPES = [(8, 32), (37, 1 + 16), (5, 7), (64, 192), (33, 100)]
"""Inner size and columns: whole panels, whole vectors, less than a vector, and what is left over."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("lanes", LANES.values())
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_keeps_the_matrix(shape, lanes):
    matrix = torch.randn(shape)
    packed = pack(matrix, lanes)
    assert packed.dim() == 1 and packed.numel() % (lanes * shape[0]) == 0
    assert torch.equal(unpack(packed, *shape, lanes), matrix)


def test_panels_are_packed_row_by_row():
    width = panel_width(8)
    matrix = torch.arange(3.0 * (width + 8)).view(3, -1)
    assert torch.equal(pack(matrix, 8)[: 3 * width].view(3, width), matrix[:, :width])
    assert torch.equal(pack(matrix, 8)[3 * width :].view(3, 8), matrix[:, width:])


def kernels(shape, lanes):
    """Return a compiled function of the three kernels of one matrix, for any number of rows, and the matrix."""
    matrix = torch.randn(shape) / shape[0] ** 0.5
    packed, n = pack(matrix, lanes), shape[1]

    def all_of_them(x, factor, addend):
        return (
            ops.product(x, packed, n, lanes),
            ops.product_silu(x, packed, n, lanes),
            ops.product_times(x, packed, factor, None, n, lanes),
            ops.product_times(x, packed, factor, addend, n, lanes),
        )

    torch._dynamo.reset()
    return torch.compile(all_of_them, fullgraph=True), matrix


@needs_kernel
@pytest.mark.parametrize("lanes", [n for n in LANES.values() if HERE and n <= HERE])
@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_kernels_agree_with_float64(shape, lanes):
    compiled, matrix = kernels(shape, lanes)
    # rows of whole tiles and others, of one block and of several, one thread and two
    for rows in (7, 2, 100, 599):
        # strided operands, as slices of wider matrices are
        x = (3.0 * torch.randn(rows, shape[0] + 3))[:, 1:-2]
        factor, addend = torch.randn(rows, shape[1] + 5)[:, 5:], torch.randn(rows, shape[1])
        for operand in (x, factor, addend):
            torch._dynamo.mark_dynamic(operand, 0)
        plain, both, times, sum_times = (t.double() for t in compiled(x, factor, addend))
        exact = x.double() @ matrix.double()
        s = exact.sigmoid()
        for found, expected in (
            (plain, exact),
            (both[0], exact * s),
            (both[1], s + exact * s * (1 - s)),
            (times, exact * factor),
            (sum_times, (exact + addend) * factor),
        ):
            torch.testing.assert_close(found, expected, rtol=2e-6, atol=4e-6)


@needs_kernel
def test_silu_of_large_and_small_numbers():
    lanes = HERE
    packed = pack(torch.eye(2), lanes)
    compiled = torch.compile(lambda x: ops.product_silu(x, packed, 2, lanes), fullgraph=True)
    x = torch.tensor([[-200.0, 200.0], [-87.5, 87.5], [-20.0, 20.0], [1e-20, -1e-20], [0.0, -1e-3]])
    value, slope = compiled(x).double()
    exact = x.double().requires_grad_(True)
    y = torch.nn.functional.silu(exact)
    (derivative,) = torch.autograd.grad(y.sum(), exact)
    torch.testing.assert_close(value, y.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(slope, derivative, rtol=1e-6, atol=1e-6)
    x[1, 0] = torch.nan
    assert compiled(x)[:, 1].isnan().all(), "not a number must not become one"


def traced(function, *arguments):
    """Return the graph of a function and its input's gradient."""

    def with_gradient(x):
        x = x.detach().requires_grad_(True)
        y = function(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient

    return make_fx(with_gradient, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)


A, B, ONE = torch.randn(6, 20), torch.randn(20, 12), torch.randn(32, 1)


@needs_kernel
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x: x @ A, {"plain": 2}),
        (lambda x: torch.nn.functional.silu(x @ A) @ B, {"silu": 1, "times": 1, "plain": 2}),
        # the product is read beside silu
        (lambda x: (torch.nn.functional.silu(h := x @ A) + h) @ B, {"plain": 4}),
        (lambda x: torch.cat([torch.nn.functional.silu(x @ A), x @ A @ B], 1) @ ONE, None),
        # not a constant
        (lambda x: x.t() @ x, {}),
        (lambda x: x.double() @ A.double(), {}),
    ],
)
def test_rewritten_graphs_compute_the_same(function, expected, monkeypatch):
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, 1.0))
    x = torch.randn(9, 6)
    graph = traced(function, x)
    before = graph(x)
    record = Products(HERE)
    use_packed_products(graph, record)
    counts = record.kernels
    for found, right in zip(graph(x), before, strict=True):
        torch.testing.assert_close(found, right, rtol=2e-5, atol=2e-5)
    left = sum(node.target is torch.ops.aten.mm.default for node in graph.graph.nodes)
    if expected is None:
        assert counts["sum"] == counts["outer"] == 1 and left == 0
    else:
        assert counts == expected
        assert left == 0 if expected else left > 0


@needs_kernel
def test_terms_that_broadcast_stay_outside(monkeypatch):
    """The kernel reads addend and factor element by element."""
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, 1.0))

    def function(x):
        h = x @ A
        y = torch.nn.functional.silu(h)
        return y, torch.ops.aten.silu_backward(y @ B @ B.t() + x[:, :1], h)

    x = torch.randn(9, 6)
    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x)
    before, record = graph(x), Products(HERE)
    use_packed_products(graph, record)
    assert record.kernels == {"plain": 2, "silu": 1}
    for found, right in zip(graph(x), before, strict=True):
        torch.testing.assert_close(found, right, rtol=2e-5, atol=2e-5)


@needs_kernel
def test_a_product_that_torch_does_faster_is_left_to_torch(monkeypatch):
    monkeypatch.setattr(
        rewrite, "faster", lambda shapes, lanes: {s: 0.8 if s == (6, 20) else 1.5 for s in shapes}
    )
    graph, record = traced(lambda x: x @ A, torch.randn(9, 6)), Products(HERE)
    use_packed_products(graph, record)
    assert record.kernels == {"plain": 1, "torch": 1}
    assert record.over_torch == {"6x20": 0.8, "20x6": 1.5}
    assert record.speedup == round(2 / (1 / 0.8 + 1 / 1.5), 3)


@needs_kernel
def test_measured_ratios_are_of_the_shapes_asked_for():
    found = faster([(64, 64), (8, 32)], HERE)
    assert sorted(found) == [(8, 32), (64, 64)]
    assert all(0.02 < ratio < 50 for ratio in found.values())


@needs_kernel
@pytest.mark.parametrize(
    ("torch_seconds", "packed_seconds", "chosen"),
    [
        ((0.03, 0.03), (0.0, 0.0), "packed"),
        ((0.0, 0.0), (0.03, 0.03), "torch"),
        ((0.0, 0.03), (0.03, 0.0), "torch"),
    ],
)
def test_the_program_that_is_faster_with_every_number_of_threads_is_chosen(
    monkeypatch, torch_seconds, packed_seconds, chosen
):
    monkeypatch.setattr(candidates, "SECONDS", 0.0)

    def busy(seconds):
        def function():
            end = time.perf_counter() + seconds[torch.get_num_threads() - 1]
            while time.perf_counter() < end:
                pass

        return function

    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        record = Products(HERE)
        choose.choose({"torch": busy(torch_seconds), "packed": busy(packed_seconds)}, (), record)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
    assert record.chosen == chosen
    names = [f"{a}, {b}" for a, b in itertools.product(("torch", "packed"), ("1 thread", "2 threads"))]
    assert sorted(record.milliseconds) == sorted(names)


class Network(torch.nn.Module):
    """A potential of pairs of one type with float32 matrices."""

    type_names, elements, cutoff, cutoffs = ("X",), ("H",), 3.0, torch.full((1, 1), 3.0, dtype=torch.float64)

    def __init__(self):
        super().__init__()
        self.weights = torch.nn.ParameterList(
            torch.randn(n, m) / n**0.5 for n, m in ((8, 64), (64, 64), (64, 1))
        )

    def forward(self, edge_vectors, edge_index, types):
        r = edge_vectors.square().sum(1, keepdim=True).sqrt()
        x = ((3.0 - r) * torch.arange(1, 9)).sin().float()
        for w in self.weights[:2]:
            x = torch.nn.functional.silu(x @ w)
        pairs = (x @ self.weights[2]).flatten().double()
        return pairs.new_zeros(types.shape[0]).index_add(0, edge_index[0], pairs)


def test_without_the_templates_of_inductor_products_are_left_to_torch(toy, tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "mlip_export.products.choose", None)
    found = mlip_export.compile(toy(("H", "O"), 3.5, dtype="float32"), tmp_path / "a.pt2")
    assert found.products == {}
    assert ("matrix products are left to torch" in caplog.text) == (HERE is not None)


def test_compile_is_imported_without_the_templates_of_inductor():
    code = "import sys, mlip_export._compile; assert 'mlip_export.products.ops' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_info_says_of_products():
    assert _products({}) == "torch's"
    found = asdict(Products(16, speedup=1.25, kernels={"plain": 3, "silu": 1, "torch": 2}, chosen="packed"))
    text = "4 of 6 by mlip-export's kernel (16 lanes; measured when exported: "
    assert _products(found) == text + "1.25 times as fast as torch.mm)"
    found["milliseconds"] = {"torch, 1 thread": 2.0, "packed, 1 thread": 1.0}
    assert _products(found) == text + "torch, 1 thread 2 ms; packed, 1 thread 1 ms)"
    found["chosen"] = "torch"
    assert _products(found) == "torch's (measured when exported: torch, 1 thread 2 ms; packed, 1 thread 1 ms)"


@needs_kernel
@pytest.mark.parametrize(("ratio", "built"), [(1.2, []), (1.05, ["torch", "packed"])])
def test_both_programs_are_built_where_the_products_do_not_decide(tmp_path, monkeypatch, ratio, built):
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, ratio))
    places = []
    monkeypatch.setattr(inductor, "build", lambda program, path, chosen: places.append(path.parent.name))
    monkeypatch.setattr(candidates, "open_function", lambda path, device: lambda *given: None)
    monkeypatch.setattr(candidates.os, "replace", lambda a, b: None)
    model = Network().requires_grad_(False)
    graphs, record = example_graphs(model.cutoffs, torch.device("cpu")), Products(HERE)
    program, function = choose.fastest(model, graphs, tmp_path / "a.pt2", "native", record)
    assert places == built and (function is None) == (not built)
    assert bool(record.milliseconds) == bool(built) and record.speedup == ratio
    if not built:
        assert record.chosen == "packed" and "mlip_export.product" in str(program.graph)


@needs_kernel
@pytest.mark.parametrize("chosen", ["torch", "packed"])
def test_either_choice_is_built_and_computes_the_same(tmp_path, monkeypatch, chosen):
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, 1.0))
    monkeypatch.setattr(choose, "CLEAR", float("inf"))
    times = iter([[2.0, 1.0], [1.0, 2.0]][chosen == "torch"] * 2)
    monkeypatch.setattr(
        choose, "least_seconds", lambda f, i, clock: dict(zip(f, (next(times), next(times)), strict=True))
    )
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    model = Network()
    for p in model.parameters():
        p.requires_grad_(False)
    graphs, record = example_graphs(model.cutoffs, torch.device("cpu")), Products(HERE)
    program, function = choose.fastest(model, graphs, tmp_path / "a.pt2", "native", record)
    assert record.chosen == chosen and record.ours == 4
    targets = {str(node.target) for node in program.graph.nodes}
    assert any("mlip_export.product" in t for t in targets) == (chosen == "packed")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.pt2"]
    for compiled in (function, open_function(tmp_path / "a.pt2", torch.device("cpu"))):
        for inputs in graphs.compared.values():
            expected = localgraph.energies_and_edge_forces(model, *inputs)
            for found, right in zip(compiled(*inputs), expected, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
