"""Every operator × implementation × (l_max, channels, coupled): values, derivatives, equivariance, compilers.

Values are taken over the full cross product. What is expensive (operator checks, compilers, interpreter) is taken over
rows in which every value of every axis occurs (for export and torch.compile, which share lowering and kernels, in those
of both together); with EQUITENSOR_LADDER=full in the environment, over all of them.
"""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from graphs import GRAPHS, graph
from torch.fx.experimental.proxy_tensor import make_fx
from torch.library import opcheck

from equitensor import TensorProduct, reference, tensor_product, to_atoms, to_basis, to_scalars, to_weights
from equitensor.irreps import irreps_string, spherical_irreps
from equitensor.testing import assert_equivariant

FULL = os.environ.get("EQUITENSOR_LADDER") == "full"
L_MAX, CHANNELS, COUPLED = (1, 2, 3, 4), (1, 7, 32, 64, 128), (True, False)
ROWS = list(itertools.product(L_MAX, CHANNELS, COUPLED))
EXPENSIVE = ROWS if FULL else [(1, 1, True), (2, 7, False), (3, 32, True), (4, 64, False), (1, 128, False)]
EXPORTED = list(itertools.product(L_MAX, COUPLED)) if FULL else [(1, False), (4, True)]
COMPILED = list(itertools.product(L_MAX, COUPLED)) if FULL else [(2, True), (3, False)]
SLOTS = ((0, 1, 2), (2, 1, 0), (0, 2, 1))
OPERATORS = torch.ops.equitensor


def scaled(function):
    """The function with its scale as the last tensor before the centers."""
    return lambda a, b, scale, centers, offsets: function(a, b, centers, offsets, scale=scale)


class Row:
    """Random operands of every operator: edges (w, y), atoms (f), and the product's (x, b, g, weights)."""

    def __init__(self, l_max, channels, coupled, name="gaps", dtype=torch.float64):
        self.irreps = spherical_irreps(l_max)
        self.dims = [2 * ell + 1 for ell in range(l_max + 1)]
        self.centers, self.offsets = graph(name)
        self.tp = TensorProduct(self.irreps, self.irreps, self.irreps, coupled=coupled)
        edges, atoms, d = len(self.centers), len(self.offsets) - 1, sum(self.dims)
        generator = torch.Generator().manual_seed(l_max + channels)

        def random(*shape):
            return torch.randn(shape, dtype=dtype, generator=generator)

        self.w, self.y = random(edges, l_max + 1, channels), random(edges, d)
        self.s = random(edges, channels)
        self.f, self.x, self.b, self.g = (random(atoms, d, channels) for _ in range(4))
        self.weights = random(*self.tp.weight_shape(channels))

    @property
    def rest(self):
        return self.centers, self.offsets

    def edge_calls(self):
        return {
            "to_atoms": (to_atoms, (self.w, self.y)),
            "to_weights": (to_weights, (self.y, self.f)),
            "to_basis": (to_basis, (self.w, self.f)),
            "to_scalars": (to_scalars, (self.w, self.y, self.f)),
            "scaled_to_atoms": (scaled(to_atoms), (self.w, self.y, self.s)),
            "scaled_to_weights": (scaled(to_weights), (self.y, self.f, self.s)),
            "scaled_to_basis": (scaled(to_basis), (self.w, self.f, self.s)),
        }


@pytest.mark.parametrize("dtype, atol", [(torch.float64, 1e-11), (torch.float32, 1e-3)])
@pytest.mark.parametrize("l_max, channels", list(itertools.product(L_MAX, CHANNELS)))
def test_values(l_max, channels, dtype, atol):
    for name, coupled in itertools.product(GRAPHS, COUPLED):
        row = Row(l_max, channels, coupled, name, dtype)
        if coupled:  # the edge operators know no weights
            for operator, (ours, given) in row.edge_calls().items():
                got = ours(*given, *row.rest)
                expected = getattr(reference, operator)(*given, *row.rest, row.dims)
                assert got.dtype == dtype and got.is_contiguous()
                torch.testing.assert_close(got, expected, atol=atol, rtol=0)
        if name in ("no atoms", "one edge", "no edges"):  # 0, 1 and 3 rows for the product
            operands, spec = (row.x, row.b, row.g), row.tp.spec
            for slots in SLOTS:
                pair = [operands[s] for s in slots[:2]]
                got = OPERATORS.contract(*pair, row.weights, str(spec), slots)
                expected = reference.contract(*pair, row.weights, spec, slots)
                torch.testing.assert_close(got, expected, atol=atol, rtol=1e-5)
            got = OPERATORS.contract_weights(*operands, str(spec), coupled)
            expected = reference.contract_weights(*operands, spec, coupled)
            torch.testing.assert_close(got, expected, atol=10 * atol, rtol=1e-5)


@pytest.mark.parametrize("l_max, channels, coupled", ROWS if FULL else EXPENSIVE)
def test_first_and_second_derivatives(l_max, channels, coupled):
    """Along random directions (fast mode); test_edges and test_contraction take every entry of small operands."""
    row = Row(l_max, channels, coupled, "gaps")
    cases = [(lambda *t, op=op: op(*t, *row.rest), given) for op, given in row.edge_calls().values()]
    for function, given in [*cases, (row.tp, (row.x[:2], row.b[:2], row.weights))]:
        given = [t.clone().requires_grad_() for t in given]
        assert torch.autograd.gradcheck(function, given, fast_mode=True, atol=1e-4)
        assert torch.autograd.gradgradcheck(function, given, fast_mode=True, atol=1e-4)


@pytest.mark.parametrize("l_max, channels, coupled", ROWS)
def test_equivariance(l_max, channels, coupled):
    row = Row(l_max, channels, coupled, "many")
    irreps = irreps_string(row.irreps)
    both, turn = [irreps, irreps], {"axis": -2, "trials": 1}
    if coupled:
        assert_equivariant(
            lambda y: to_atoms(row.w, y.squeeze(2), *row.rest), [row.y.unsqueeze(2)], [irreps], irreps, **turn
        )
        assert_equivariant(
            lambda y, f: to_weights(y.squeeze(2), f, *row.rest),
            [row.y.unsqueeze(2), row.f],
            both,
            None,
            **turn,
        )
        assert_equivariant(
            lambda f: to_basis(row.w, f, *row.rest).unsqueeze(2), [row.f], [irreps], irreps, **turn
        )
    assert_equivariant(
        lambda x, b: row.tp(x, b, row.weights), [row.x, row.b], both, irreps, rtol=1e-9, atol=1e-9, **turn
    )


@pytest.mark.slow
@pytest.mark.parametrize("l_max, channels, coupled", EXPENSIVE)
def test_opcheck(l_max, channels, coupled):
    row = Row(l_max, channels, coupled)
    for operator, (_, given) in row.edge_calls().items():
        given = [t.clone().requires_grad_() for t in given]
        opcheck(getattr(OPERATORS, operator).default, (*given, *row.rest, row.dims, "0123"))
    x, b, g, weights = (t.clone().requires_grad_() for t in (row.x[:2], row.b[:2], row.g[:2], row.weights))
    opcheck(OPERATORS.contract.default, (x, b, weights, str(row.tp.spec), [0, 1, 2], "0123"))
    opcheck(OPERATORS.contract_weights.default, (x, b, g, str(row.tp.spec), coupled, "0123"))


@pytest.mark.parametrize("l_max, channels, coupled", ROWS)
def test_non_contiguous_operands(l_max, channels, coupled):
    row = Row(l_max, channels, coupled, "many")

    def strided(t):
        order = list(reversed(range(t.dim())))
        return t.permute(order).contiguous().permute(order)

    for ours, given in row.edge_calls().values():
        got = ours(*map(strided, given), *row.rest)
        torch.testing.assert_close(got, ours(*given, *row.rest))
    given = (row.x, row.b, row.weights)
    torch.testing.assert_close(row.tp(*map(strided, given)), row.tp(*given))


def everything(tp):
    """All operators, the gradients of a function of their results and the gradients of those."""

    def step(w, y, f, s, x, b, weights, centers, offsets):
        given = [t.detach().requires_grad_() for t in (w, y, f, s, x, b, weights)]
        w, y, f, s, x, b, weights = given
        results = (
            to_atoms(w, y, centers, offsets),
            to_weights(y, f, centers, offsets),
            to_basis(w, f, centers, offsets),
            to_scalars(w, y, f, centers, offsets),
            to_atoms(w, y, centers, offsets, scale=torch.cat([s, s], 1)[:, : s.shape[1]]),
            to_weights(y, f, centers, offsets, scale=s),
            to_basis(w, f, centers, offsets, scale=s),
            tp(x, b, weights),
        )
        total = sum((0.1 * t).sin().sum() for t in results)
        first = torch.autograd.grad(total, given, create_graph=True)
        second = torch.autograd.grad(sum((0.1 * g).sin().sum() for g in first), given)
        return tuple(t.detach() for t in (*results, *first, *second))

    return step


def given(row):
    return row.w, row.y, row.f, row.s, row.x, row.b, row.weights, *row.rest


def compare(got, expected):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-9, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, on copying a tree
@pytest.mark.parametrize("l_max, coupled", EXPORTED)
def test_export_and_aot_inductor_with_every_size_dynamic(l_max, coupled, tmp_path):
    """One artifact for all numbers of atoms, edges and channels holds every kernel and both derivatives."""
    example = Row(l_max, 47, coupled, "many")  # as no other size: torch takes equal sizes for the same
    step = everything(example.tp)
    joint = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*given(example))
    dynamic = torch.export.Dim.DYNAMIC
    edge, atom, both = {0: dynamic, 2: dynamic}, {0: dynamic, 2: dynamic}, {0: dynamic}
    weights = {1: dynamic} if coupled else {}
    shapes = (edge, both, atom, {0: dynamic, 1: dynamic}, atom, atom, weights, both, both)
    program = torch.export.export(joint, given(example), dynamic_shapes=shapes)
    path = torch._inductor.aoti_compile_and_package(
        program,
        package_path=str(tmp_path / "m.pt2"),
        inductor_configs={"aot_inductor.check_lowerbound": False, "fx_graph_cache": False},
    )
    packaged, exported = torch._inductor.aoti_load_package(path), program.module()
    for channels, name in itertools.product(CHANNELS, GRAPHS):
        row = Row(l_max, channels, coupled, name)
        expected = step(*given(row))
        compare(packaged(*given(row)), expected)
        if channels > 1 and name not in (
            "no atoms",
            "one edge",
        ):  # an exported program guards against 0 and 1
            compare(exported(*given(row)), expected)


@pytest.mark.slow
@pytest.mark.parametrize("l_max, coupled", COMPILED)
def test_compile_without_breaks(l_max, coupled):
    """The values of every operator and, by the functional form, the product."""
    torch.compiler.reset()
    irreps = spherical_irreps(l_max)

    @torch.compile(fullgraph=True, dynamic=True)
    def function(w, y, f, s, x, b, weights, centers, offsets):
        return (
            to_atoms(w, y, centers, offsets),
            to_weights(y, f, centers, offsets),
            to_basis(w, f, centers, offsets),
            to_scalars(w, y, f, centers, offsets),
            to_atoms(w, y, centers, offsets, scale=s),
            to_weights(y, f, centers, offsets, scale=s),
            to_basis(w, f, centers, offsets, scale=s),
            tensor_product(x, b, weights, irreps, irreps, irreps),
        )

    for channels, name in ((7, "many"), (32, "gaps"), (64, "one center"), (128, "many"), (1, "gaps")):
        row = Row(l_max, channels, coupled, name)
        tensors = [t.clone().requires_grad_() for t in given(row)[:7]]
        results = function(*tensors, *row.rest)
        eager = (*(op(*t, *row.rest) for op, t in row.edge_calls().values()), row.tp(*given(row)[4:7]))
        compare(results, eager)
        plain = [t.clone().requires_grad_() for t in tensors]
        expected = everything(row.tp)(*plain, *row.rest)[8:15]
        got = torch.autograd.grad(sum((0.1 * t).sin().sum() for t in results), tensors)
        compare(got, expected)


INTERPRETED = r"""
import sys
sys.path.insert(0, sys.argv[1])
import torch
from test_ladder import Row, SLOTS
from equitensor import reference
from equitensor.backends import triton
for case in sys.argv[2:]:
    l_max, channels, coupled = map(int, case.split(","))
    for name in ("gaps", "no edges", "no atoms", "one edge"):
        row = Row(l_max, channels, bool(coupled), name)
        for operator, (_, given) in row.edge_calls().items():
            arguments = (*given, *row.rest, row.dims)
            got, expected = getattr(triton, operator)(*arguments), getattr(reference, operator)(*arguments)
            torch.testing.assert_close(got, expected, atol=1e-11, rtol=0)
        if name not in ("no atoms", "one edge"):
            continue
        operands, spec = (row.x, row.b, row.g), row.tp.spec
        for slots in SLOTS:
            pair = [operands[s] for s in slots[:2]]
            got = triton.contract(*pair, row.weights, spec, slots)
            torch.testing.assert_close(got, reference.contract(*pair, row.weights, spec, slots), atol=1e-11, rtol=0)
        got = triton.contract_weights(*operands, spec, bool(coupled))
        torch.testing.assert_close(
            got, reference.contract_weights(*operands, spec, bool(coupled)), atol=1e-10, rtol=0)
    print(case, flush=True)
"""


@pytest.mark.slow
def test_triton_interpreter():
    pytest.importorskip("triton")
    cases = [f"{l_max},{channels},{int(coupled)}" for l_max, channels, coupled in EXPENSIVE]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", INTERPRETED, os.path.dirname(__file__), *cases],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == cases
