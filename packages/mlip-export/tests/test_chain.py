"""Pairs of products for GPUs: kernels in the interpreter, rewriting of graphs, traces and choice, with no GPU."""

import os
import subprocess
import sys

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx
from torch.nn.functional import silu

import localgraph
import mlip_export
from mlip_export import inductor
from mlip_export._describe import _products
from mlip_export._trace import trace
from mlip_export.graphs import cluster, example_graphs, traced_graph
from mlip_export.loaded import open_function
from mlip_export.products import candidates, chain_choose
from mlip_export.products.chain import has_kernel, hidden_layers, hidden_layers_backward
from mlip_export.products.chain_rewrite import use_chained_products


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def operands(rows, parts, inner, columns, dtype=torch.float64):
    """Matrices side by side, and the two that they are multiplied by."""
    x = [torch.randn(rows, part, dtype=dtype) for part in parts]
    first, second = torch.randn(sum(parts), inner, dtype=dtype), torch.randn(inner, columns, dtype=dtype)
    return x, first / first.shape[0] ** 0.5, second / inner**0.5


def differentiated(x, first, second):
    """What the operators return, by autograd: derivatives of both silu, z, silu(z), and the gradient by x of Σ g z."""
    y = (torch.cat(x, 1) @ first).requires_grad_()
    z = (silu(y) @ second).detach().requires_grad_()
    slope, next_slope = (torch.autograd.grad(silu(t).sum(), t)[0] for t in (y, z))
    given = torch.cat(x, 1).requires_grad_()
    g = torch.randn_like(z)
    (gradient,) = torch.autograd.grad(silu(given @ first) @ second, given, g)
    return slope, next_slope, z.detach(), silu(z).detach(), g, gradient


CASES = [
    # rows, parts, inner, columns: less than a tile, a tile and more, one to three parts, blocks of 16 and of 32
    (5, (16,), 16, 16),
    (32, (32, 32), 64, 32),
    (75, (64, 32, 16), 32, 64),
    (33, (48, 16), 16, 128),
    (1, (192,), 32, 16),
    (0, (16, 16), 32, 16),
]


@pytest.mark.parametrize("case", CASES)
def test_the_operators_are_products_and_their_gradients(case):
    x, first, second = operands(*case)
    slope, next_slope, z, hidden, g, gradient = differentiated(x, first, second)
    found = hidden_layers(x, first, second, False, "float32")
    torch.testing.assert_close(found, (slope, z, z[:0]), rtol=0, atol=1e-12)
    found = hidden_layers(x, first, second, True, "float32")
    torch.testing.assert_close(found, (slope, next_slope, hidden), rtol=0, atol=1e-12)
    back = hidden_layers_backward(g, slope, first, second, "float32")
    torch.testing.assert_close(back, gradient, rtol=0, atol=1e-12)


INTERPRETED = r"""
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_chain import CASES, differentiated, operands
from mlip_export.products.chain import launch_hidden_layers, launch_hidden_layers_backward
for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-5)):
    for case in CASES:
        x, first, second = operands(*case)
        slope, next_slope, z, hidden, g, gradient = differentiated(x, first, second)
        expected = {False: (slope, z, z[:0]), True: (slope, next_slope, hidden)}
        low = [t.to(dtype) for t in x], first.to(dtype), second.to(dtype)
        precision = str(dtype).removeprefix("torch.")
        for activated, values in expected.items():
            found = launch_hidden_layers(*low, activated, precision)
            torch.testing.assert_close([t.double() for t in found], list(values), atol=tolerance, rtol=tolerance)
        back = launch_hidden_layers_backward(g.to(dtype), slope.to(dtype), *low[1:], precision)
        torch.testing.assert_close(back.double(), gradient, atol=tolerance, rtol=tolerance)
x, first, second = operands(3, (16,), 16, 16)
x[0][0, 0], x[0][1] = torch.nan, 300.0
_, z, hidden = launch_hidden_layers(x, first, second, True, "float64")
assert hidden[0].isnan().all() and not hidden[1:].isnan().any()
print("equal")
"""


def run(script, *arguments, **environment):
    """Return what a script prints in a process of its own."""
    command = [sys.executable, "-W", "ignore", "-c", script, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    assert run(INTERPRETED, os.path.dirname(__file__), TRITON_INTERPRET="1").endswith("equal\n")


TRACED = r"""
import torch, triton
from triton.backends.compiler import GPUTarget
from torch._subclasses import FakeTensorMode
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from mlip_export.products.chain import hidden_layers, hidden_layers_backward

class Driver:
    def get_current_target(self):
        return GPUTarget("cuda", 90, 32)

triton.runtime.driver.set_active(Driver())

def both(x0, x1, first, second):
    slope, out, hidden = hidden_layers([x0, x1], first, second, True, "tf32")
    return slope, out, hidden, hidden_layers_backward(out, slope, first, second, "tf32")

with FakeTensorMode(allow_non_fake_inputs=True):
    shapes = (40, 64), (40, 64), (128, 256), (256, 256)
    tensors = [torch.empty(s, device="cuda") for s in shapes]
    plain = make_fx(both, tracing_mode="fake")(*tensors)
    lowered = make_fx(dispatch_functionalize(plain), tracing_mode="fake")(*tensors)
names = [str(n.target) for n in lowered.graph.nodes]
found = [n for n in lowered.graph.nodes if "triton_kernel_wrapper_functional" in str(n.target)]
assert not any("mlip_export" in name or "aten.mm" in name for name in names), names
assert [set(n.kwargs["tensors_to_clone"]) for n in found] == [{"slope", "out", "hidden"}, {"out"}]
assert all(n.kwargs["grid"] == [(2, 1, 1)] for n in found)
print("traced")
"""


def test_compilers_see_two_kernels_on_a_gpu_and_no_product():
    pytest.importorskip("triton")
    assert run(TRACED).endswith("traced\n")


def test_sizes_that_have_kernels():
    assert has_kernel((64, 64, 64), 256, 256) and has_kernel((32,), 64, 64) and has_kernel((192,), 16, 16)
    for parts in ((), (64,) * 4, (8,), (20, 12), (128, 144), (16, 0)):
        assert not has_kernel(parts, 64, 64)
    for sizes in ((96, 64), (64, 96), (512, 64), (64, 512), (8, 64), (64, 1)):
        assert not has_kernel((64,), *sizes)


A, B, C = torch.randn(16, 32) / 4, torch.randn(32, 64) / 6, torch.randn(64, 16) / 8
WIDE, ROW = torch.randn(32, 32) / 6, torch.randn(64)


def pair(x):
    return silu(silu(x @ A) @ B)


REWRITTEN = {
    "a pair": (lambda x: silu(x @ A) @ B, {"forward": 1, "backward": 1}),
    "a pair that is stored": (lambda x: pair(x) @ C, {"forward": 1, "backward": 1, "torch": 2}),
    "a pair that is summed": (lambda x: (pair(x) * ROW).sum(1), {"forward": 1, "backward": 1}),
    "two pairs": (lambda x: silu(silu(pair(x) @ C) @ A) @ B, {"forward": 2, "backward": 2, "torch": 2}),
    "parts": (lambda x: silu(torch.cat([x, x.sin()], 1) @ WIDE) @ B, {"forward": 1, "backward": 1}),
    "parts that are no blocks": (
        lambda x: silu(torch.cat([x[:, :8], x, x[:, 8:]], 1) @ WIDE) @ B,
        {"forward": 1, "backward": 1},
    ),
    "read between": (lambda x: (silu(h := x @ A) + h) @ B, {"torch": 4}),
    "activation read twice": (lambda x: (a := silu(x @ A)) @ B + a @ B.sin(), {"torch": 6}),
    "gradient read twice": (
        lambda x: silu(x @ A + 0.0 * x.sum()) @ B,
        {"torch": 4},
    ),
    "no kernel": (lambda x: silu(x @ A[:, :24]) @ B[:24], {"torch": 4}),
    "not a matrix of known sizes": (lambda x: silu(x.t() @ x) @ x.t(), {"torch": 6}),
    "double": (lambda x: silu(x.double() @ A.double()) @ B.double(), {}),
}


@pytest.mark.parametrize("name", REWRITTEN)
def test_rewritten_graphs_compute_the_same(name):
    function, expected = REWRITTEN[name]

    def with_gradient(x):
        x = x.detach().requires_grad_(True)
        y = function(x)
        (gradient,) = torch.autograd.grad(y.sin().sum(), x)
        return y.detach(), gradient

    graph = make_fx(with_gradient, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.randn(9, 16))
    assert use_chained_products(graph, "float32") == expected
    for rows in (9, 2, 40):
        x = torch.randn(rows, 16)
        for found, right in zip(graph(x), with_gradient(x), strict=True):
            torch.testing.assert_close(found, right, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("columns, split", [(16, 1), (32, 0)])
def test_sums_wider_than_their_product_are_not_written(columns, split):
    def function(x):
        _, slope, hidden = hidden_layers([x], A, WIDE, True, "float32")
        more = hidden_layers([x.sin()], A, WIDE, True, "float32")[2]
        rows = (slope.view(-1, 2, 16) + hidden.view(-1, 2, 16)).view(-1, 32) @ WIDE  # views: not split
        return silu(silu(rows) @ WIDE) @ WIDE, (slope + hidden + more).view(-1, 32) @ WIDE[:, :columns]

    graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(torch.randn(9, 16))
    found = use_chained_products(graph, "float32")
    assert found.get("split", 0) == split and found["forward"] == 1
    assert found["torch"] == 2 + 2 * split
    for rows in (9, 2):
        x = torch.randn(rows, 16)
        torch.testing.assert_close(graph(x), function(x), rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def model():
    """An Allegro whose layers have kernels."""
    allegro = pytest.importorskip("allegro_model")
    options = dict(num_scalar_features=16, num_tensor_features=16, latent_width=32, avg_num_neighbors=20.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        built = allegro.Allegro(allegro.AllegroConfig(type_names=["H", "O"], cutoff=4.0, **options))
    return built.requires_grad_(False)


def chained_program(model):
    counts = []
    program = trace(
        model.for_inference(),
        traced_graph(model.cutoffs, torch.device("cpu")),
        rewrite=lambda graph: counts.append(use_chained_products(graph, "float32")),
    )
    return program, counts[0]


def assert_same(function, model, tolerance=1e-5):
    for atoms, isolated in ((40, 2), (2, 0), (1, 0)):
        inputs = cluster(model.cutoffs, atoms, isolated=isolated, seed=3)
        expected = localgraph.energies_and_edge_forces(model, *inputs)
        for found, value in zip(function(*inputs), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=tolerance, atol=tolerance)


def test_a_program_holds_an_operator_per_network_and_direction(model):
    program, counts = chained_program(model)
    names = [str(node.target) for node in program.graph.nodes]
    assert counts["forward"] == counts["backward"] == 3, "two latents and the embedding"
    for name in ("mlip_export.hidden_layers.default", "mlip_export.hidden_layers_backward.default"):
        assert names.count(name) == 3
    assert_same(program.module(), model)


@pytest.mark.slow
def test_a_compiled_program(model, tmp_path):
    """On a CPU the operators are composed, in the program too."""
    path = tmp_path / "a.pt2"
    inductor.build(chained_program(model)[0], path, inductor.options("native"))
    assert_same(open_function(path, torch.device("cpu")), model)


class Network(torch.nn.Module):
    """A potential of pairs of one type with two hidden layers."""

    cutoffs = torch.full((1, 1), 3.0, dtype=torch.float64)

    def __init__(self):
        super().__init__()
        self.last = torch.randn(32)

    def forward(self, edge_vectors, edge_index, types):
        r = edge_vectors.square().sum(1, keepdim=True).sqrt()
        x = ((3.0 - r) * torch.arange(1, 17)).sin().float()
        pairs = (silu(silu(x @ A) @ WIDE) * self.last).sum(1).double()
        return pairs.new_zeros(types.shape[0]).index_add(0, edge_index[0], pairs)


@pytest.fixture(scope="module")
def small():
    """The module and the graphs of a network that is traced in a moment."""
    module = Network()
    return module, example_graphs(module.cutoffs, torch.device("cpu"))


@pytest.mark.parametrize("option, timed", [("yes", None), ("measured", "chained"), ("measured", "torch")])
def test_the_choice(small, tmp_path, monkeypatch, option, timed):
    """Which programs are built, and which is kept; building is left out."""
    built = []

    def build(program, path, chosen):
        built.append(path.parent.name)
        path.write_text(path.parent.name)

    milliseconds = {"torch": 2.0, "chained": 1.0 if timed == "chained" else 3.0}
    monkeypatch.setattr(inductor, "build", build)
    monkeypatch.setattr(candidates, "open_function", lambda path, device: path.read_text())
    monkeypatch.setattr(chain_choose, "_milliseconds", lambda *given: milliseconds)
    path = tmp_path / "a.pt2"
    program, function, record = chain_choose.chosen(*small, path, "float32", option, None)
    holds = "mlip_export.hidden_layers" in str(program.graph)
    if option == "yes":
        assert (built, function, record["milliseconds"], holds) == ([], None, {}, True)
        assert record["chosen"] == "chained"
    else:
        assert built == ["torch", "chained"] and record["milliseconds"] == milliseconds
        assert function == path.read_text() == record["chosen"] == timed and holds == (timed == "chained")
    assert record["kernels"] == {"backward": 1, "forward": 1}
    assert_same(program.module(), small[0])


def test_a_model_without_pairs(toy, tmp_path):
    model = toy(("H", "O"), 3.5, dtype="float32")
    graphs, module = example_graphs(model.cutoffs, torch.device("cpu")), model.for_inference()
    with pytest.raises(
        ValueError, match=r"chained must be 'no' or 'measured' for a model without .* got 'yes'"
    ):
        chain_choose.chosen(module, graphs, tmp_path / "a.pt2", "float32", "yes", None)
    program, function, record = chain_choose.chosen(
        module, graphs, tmp_path / "a.pt2", "float32", "measured", None
    )
    assert (function, record["chosen"]) == (None, "torch") and "mlip_export" not in str(program.graph)


def test_calls_are_timed_in_turn(small):
    called = []
    functions = {name: lambda *given, name=name: called.append(name) for name in ("torch", "chained")}
    found = chain_choose._milliseconds(functions, small[1], "float32")
    assert set(found) == {"torch", "chained"} and min(found.values()) >= 0.0
    assert called[:4] == ["torch", "chained"] * 2 and called.count("torch") == called.count("chained")


@pytest.mark.parametrize("chained, required", [("yes", "'no' on cpu"), ("always", "one of")])
def test_bad_options_are_named(toy, tmp_path, chained, required):
    with pytest.raises(ValueError, match=f"chained must be {required}"):
        mlip_export.compile(toy(("H", "O"), 3.5), tmp_path / "a.pt2", chained=chained)
    assert list(tmp_path.iterdir()) == []


def test_what_info_says():
    record = {
        "chosen": "chained",
        "kernels": {"backward": 3, "forward": 3, "torch": 10},
        "milliseconds": {},
    }
    assert _products(record) == "12 of 22 in pairs by mlip-export's kernels (chosen by the option)"
    record["milliseconds"] = {"torch": 2.0, "chained": 1.0}
    assert _products(record) == (
        "12 of 22 in pairs by mlip-export's kernels (measured when exported: torch 2 ms; chained 1 ms)"
    )
    record["chosen"] = "torch"
    assert _products(record) == "torch's (measured when exported: torch 2 ms; chained 1 ms)"
    assert _products({"chosen": "torch", "kernels": {}, "milliseconds": {}}) == "torch's"


@pytest.mark.parametrize("version, right", [("3.4.0", False), ("3.5.1", True), ("3.10.0+git1", True)])
def test_an_old_triton_is_named(monkeypatch, version, right):
    monkeypatch.setattr(pytest.importorskip("triton"), "__version__", version)
    if right:
        chain_choose.check_triton("yes")
    else:
        with pytest.raises(ValueError, match=r"with Triton 3\.4\.0, older than 3\.5"):
            chain_choose.check_triton("yes")
