"""Products with constant matrices: packing, kernel against float64, rewriting of graphs, and what is measured."""

import itertools
import operator
import subprocess
import sys
import time
from dataclasses import asdict

import pytest
import torch
import torch._inductor.config
from torch.fx.experimental.proxy_tensor import make_fx

import localgraph
import mlip_export
from mlip_export import inductor
from mlip_export._describe import _products
from mlip_export.graphs import example_graphs
from mlip_export.loaded import open_function
from mlip_export.products import candidates, choose, rewrite
from mlip_export.products.join import join
from mlip_export.products.measure import faster
from mlip_export.products.ops import products
from mlip_export.products.pack import LANES, pack, panel_width, unpack
from mlip_export.products.rewrite import Products, use_packed_products

HERE = choose.lanes_of("native") if inductor.isa_of_this_machine() in LANES else None
VECTORS = HERE and min(HERE, LANES["avx512"])
needs_kernel = pytest.mark.skipif(HERE is None, reason="the kernel is for x86 with AVX2 or AVX-512")
SHAPES = [(8, 32), (37, 1 + 16), (5, 7), (64, 192), (33, 100)]
"""Inner size and columns: whole panels, whole vectors, less than a vector, and what is left over."""


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
    torch._dynamo.reset()  # else a number that changes between tests becomes a symbol
    # its key does not know the text of our kernels
    with torch._inductor.config.patch(fx_graph_cache=False):
        yield


@pytest.mark.parametrize("lanes", LANES.values())
@pytest.mark.parametrize("shape", SHAPES)
def test_packing_keeps_the_matrix(shape, lanes):
    matrix = torch.randn(shape)
    packed = pack(matrix, lanes)
    assert packed.dim() == 1 and packed.dtype == torch.float32
    assert torch.equal(unpack(packed, *shape, lanes), matrix)


def test_panels_are_packed_row_by_row():
    width = panel_width(8)
    matrix = torch.arange(3.0 * (width + 8)).view(3, -1)
    assert torch.equal(pack(matrix, 8)[: 3 * width].view(3, width), matrix[:, :width])
    assert torch.equal(pack(matrix, 8)[3 * width :].view(3, 8), matrix[:, width:])


def compiled(steps, lanes):
    """Return the compiled operator for pairs of a matrix and a step, to call with x and operands of any rows."""
    packed, columns = [pack(m, lanes) for m, _ in steps], [m.shape[1] for m, _ in steps]

    def function(x, *given):
        return products(x, packed, list(given), columns, " ".join(step for _, step in steps), lanes)

    found = torch.compile(function, fullgraph=True)

    def call(*given):
        for t in given:
            torch._dynamo.mark_dynamic(t, 0)
        return found(*given)

    return call


def matrix(*shape):
    return torch.randn(shape) / shape[0] ** 0.5


ALL_LANES = [n for n in LANES.values() if HERE and n <= HERE]
ROWS = (7, 2, 100, 599)
"""Whole tiles of rows and others, of one block and of several, one thread and two."""


@needs_kernel
@pytest.mark.parametrize("lanes", ALL_LANES)
@pytest.mark.parametrize("shape", SHAPES[1:3])
def test_kernels_agree_with_float64(shape, lanes):
    w = matrix(*shape)
    calls = {step: compiled([(w, f"{step}+")], lanes) for step in ("plain", "silu", "times", "sum_times")}
    for rows in ROWS:
        # strided operands, as slices of wider matrices are
        x = (3.0 * torch.randn(rows, shape[0] + 3))[:, 1:-2]
        factor, addend = torch.randn(rows, shape[1] + 5)[:, 5:], torch.randn(rows, shape[1])
        exact = x.double() @ w.double()
        s = exact.sigmoid()
        for step, operands, expected in (
            ("plain", [], [exact]),
            ("silu", [], [exact * s, s + exact * s * (1 - s)]),
            ("times", [factor], [exact * factor]),
            ("sum_times", [factor, addend], [(exact + addend) * factor]),
        ):
            for found, right in zip(calls[step](x, *operands), expected, strict=True):
                torch.testing.assert_close(found.double(), right, rtol=2e-6, atol=4e-6)


@needs_kernel
@pytest.mark.parametrize("lanes", ALL_LANES)
@pytest.mark.parametrize("kept", ["", "+"])
def test_products_in_a_row_agree_with_float64(lanes, kept):
    """Each result is the next one's operand, whether it is written or not; sizes are whole registers and others."""
    sizes = (9, 40, 33, 64, 5)
    steps = [f"silu{kept}", f"times{kept}", f"sum_times{kept}", "plain+"]
    call = compiled(
        [(matrix(a, b), step) for a, b, step in zip(sizes, sizes[1:], steps, strict=False)], lanes
    )
    torch.manual_seed(0)
    weights = [matrix(a, b).double() for a, b in itertools.pairwise(sizes)]
    for rows in ROWS:
        x = torch.randn(rows, sizes[0])
        operands = [torch.randn(rows, n) for n in (33, 64, 64)]
        one, two, three = (t.double() for t in operands)
        h = x.double() @ weights[0]
        s = h.sigmoid()
        values = [h * s]
        values.append(values[-1] @ weights[1] * one)
        values.append((values[-1] @ weights[2] + three) * two)
        values.append(values[-1] @ weights[3])
        slope = s + h * s * (1 - s)
        expected = [values[0], slope, *values[1:]] if kept else [slope, values[-1]]
        for found, right in zip(call(x, *operands), expected, strict=True):
            torch.testing.assert_close(found.double(), right, rtol=4e-6, atol=8e-6)


@needs_kernel
@pytest.mark.parametrize("lanes", ALL_LANES)
def test_operands_whose_rows_are_not_side_by_side_are_copied(lanes):
    w = torch.randn(9, 6)
    packed = [pack(w, lanes)]

    def function(x, one):
        (found,) = products(x.t(), packed, [one.expand(-1, 6), x.t()[:, :6]], [6], "sum_times+", lanes)
        (expanded,) = products(one.expand(-1, 9), packed, [], [6], "plain+", lanes)
        return found, expanded

    x, one = torch.randn(9, 40), torch.randn(40, 1)
    found, expanded = torch.compile(function, fullgraph=True)(x, one)
    expected = (x.t().double() @ w.double() + x.t()[:, :6]) * one
    torch.testing.assert_close(found.double(), expected, rtol=4e-6, atol=8e-6)
    torch.testing.assert_close(expanded, one * w.sum(0), rtol=4e-6, atol=8e-6)


@needs_kernel
def test_tiles_are_as_accurate_as_float32():
    """On operands of very different sizes in a row; error of sums relative to the sum of absolute values."""
    if HERE != LANES["amx"]:
        pytest.skip("no AMX")
    w, x = matrix(256, 96), torch.randn(500, 256) * torch.logspace(-6, 6, 256)
    exact = x.double() @ w.double()
    size = x.double().abs() @ w.double().abs()
    (found,) = compiled([(w, "plain+")], HERE)(x)
    error = ((found.double() - exact) / size).abs().max()
    assert error <= 1.5 * (((x @ w).double() - exact) / size).abs().max()


@needs_kernel
@pytest.mark.parametrize("lanes", ALL_LANES)
def test_silu_of_large_and_small_numbers(lanes):
    call = compiled([(torch.eye(2), "silu+")], lanes)
    x = [[-200.0, 200.0], [-87.5, 87.5], [-20.0, 20.0], [1e-20, -1e-20], [0.0, -1e-3], [-1e30, 1e30]]
    x = torch.tensor(x)
    value, slope = (t.double() for t in call(x))
    exact = x.double().requires_grad_(True)
    y = torch.nn.functional.silu(exact)
    (derivative,) = torch.autograd.grad(y.sum(), exact)
    torch.testing.assert_close(value, y.detach(), rtol=1e-6, atol=1e-7)
    torch.testing.assert_close(slope, derivative, rtol=1e-6, atol=1e-6)
    x[1, 0] = torch.nan
    assert all(t[1, 0].isnan() for t in call(x)), "not a number must not become one"


def traced(function, *arguments):
    """Return the graph of a function and its input's gradient."""

    def with_gradient(x):
        x = x.detach().requires_grad_(True)
        y = function(x)
        (gradient,) = torch.autograd.grad(y.sum(), x)
        return y.detach(), gradient

    return make_fx(with_gradient, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*arguments)


silu, aten = torch.nn.functional.silu, torch.ops.aten


def steps(graph):
    """Return what each call of the kernel does, by products."""
    return [node.args[4] for node in graph.graph.nodes if node.target is products._opoverload]


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
@pytest.mark.parametrize(
    ("function", "expected"),
    [
        (lambda x, f: silu(x @ A) @ B, ["silu plain+"]),
        (lambda x, f: silu(silu(x @ A) @ B) @ B.t() @ B, ["silu silu plain plain+"]),
        # read by another: it is written, and the next product still reads it from the cache
        (lambda x, f: (h := silu(x @ A), h @ B, h.sum()), ["silu+ plain+"]),
        # read by two products, of which one can follow
        (lambda x, f: (h := silu(x @ A), h @ B, h @ B), ["silu+ plain+", "plain+"]),
        # the sum is taken before the second product: both stand where the first did
        (lambda x, f: ((h := silu(x @ A)).sum(), h @ B), ["silu+ plain+"]),
        # silu is not all that reads the product
        (lambda x, f: aten.silu_backward((h := x @ A) @ A.t() @ A, silu(h) + h), ["plain+ plain plain+"]),
    ],
)
def test_products_in_a_row_become_one_call(function, expected, monkeypatch):
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, 1.0))
    x, f = torch.randn(9, 6), torch.randn(9, 12)
    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(x, f)
    before = graph(x, f)
    use_packed_products(graph, Products(HERE))
    graph.graph.lint()
    assert steps(graph) == expected
    torch.testing.assert_close(graph(x, f), before, rtol=2e-5, atol=2e-5)


@pytest.mark.parametrize("between", [None, "neg"])
def test_a_product_whose_operand_needs_the_first_one_stays_behind_it(between):
    """Its factor is the first one's derivative, or computed from it."""
    graph = torch.fx.Graph()
    x, packed = graph.placeholder("x"), graph.get_attr("packed")
    first = graph.call_function(products._opoverload, (x, [packed], [], [6], "silu+", 8))
    value, slope = (graph.call_function(operator.getitem, (first, k)) for k in range(2))
    factor = slope if between is None else graph.call_function(torch.neg, (slope,))
    last = (value, [packed], [factor], [6], "times+", 8)
    graph.output(graph.call_function(operator.getitem, (graph.call_function(products._opoverload, last), 0)))
    module = torch.fx.GraphModule({"packed": pack(matrix(6, 6), 8)}, graph)
    given = torch.randn(9, 6)
    expected = module(given)
    join(module.graph)
    module.graph.lint()
    module.recompile()
    assert steps(module) == ["silu+", "times+"]
    assert torch.equal(module(given), expected)


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
    graph, record = traced(lambda x: x @ A, torch.randn(9, 6)), Products(VECTORS)
    use_packed_products(graph, record)
    assert record.kernels == {"plain": 1, "torch": 1}
    assert record.over_torch == {"6x20": 0.8, "20x6": 1.5}
    assert record.speedup == round(2 / (1 / 0.8 + 1 / 1.5), 3)


@needs_kernel
def test_measured_ratios_are_of_the_shapes_asked_for():
    found = faster([(64, 64), (8, 32)], VECTORS)
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
    text = "4 of 6 by mlip-export's kernel (AVX-512; measured when exported: "
    assert _products(found) == text + "1.25 times as fast as torch.mm)"
    found["milliseconds"] = {"torch, 1 thread": 2.0, "packed, 1 thread": 1.0}
    assert _products(found) == text + "torch, 1 thread 2 ms; packed, 1 thread 1 ms)"
    found["chosen"] = "torch"
    assert _products(found) == "torch's (measured when exported: torch, 1 thread 2 ms; packed, 1 thread 1 ms)"


@needs_kernel
@pytest.mark.parametrize(
    ("ratio", "lanes", "built"),
    [
        (1.2, VECTORS, []),
        (1.05, VECTORS, ["torch", "packed"]),
        # tiles are not measured one by one
        (1.0, LANES["amx"], ["torch", "packed"]),
    ],
)
def test_both_programs_are_built_where_the_products_do_not_decide(tmp_path, monkeypatch, ratio, lanes, built):
    monkeypatch.setattr(rewrite, "faster", lambda shapes, lanes: dict.fromkeys(shapes, ratio))
    places = []
    monkeypatch.setattr(inductor, "build", lambda program, path, chosen: places.append(path.parent.name))
    monkeypatch.setattr(candidates, "open_function", lambda path, device: lambda *given: None)
    monkeypatch.setattr(candidates.os, "replace", lambda a, b: None)
    model = Network().requires_grad_(False)
    graphs, record = example_graphs(model.cutoffs, torch.device("cpu")), Products(lanes)
    program, function = choose.fastest(model, graphs, tmp_path / "a.pt2", "native", record)
    assert places == built and (function is None) == (not built)
    assert bool(record.milliseconds) == bool(built) and record.speedup == ratio
    if not built:
        assert record.chosen == "packed" and "mlip_export.products" in str(program.graph)


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
    assert any("mlip_export.products" in t for t in targets) == (chosen == "packed")
    assert [p.name for p in tmp_path.iterdir() if p.is_file()] == ["a.pt2"]
    for compiled in (function, open_function(tmp_path / "a.pt2", torch.device("cpu"))):
        for inputs in graphs.compared.values():
            expected = localgraph.energies_and_edge_forces(model, *inputs)
            for found, right in zip(compiled(*inputs), expected, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)
