"""Compiled, exported and packaged graphs equal the eager ones, at sizes from zero, in chains of operators."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import equitensor
from equitensor import TensorProduct, row_offsets, spherical_harmonics, to_atoms, to_basis, to_weights
from equitensor.irreps import spherical_irreps

L_MAX, CHANNELS = 2, 5


class Chain(torch.nn.Module):
    """Two densities, a product and scalars, the second density depending on the first: a small model."""

    def __init__(self, dtype):
        super().__init__()
        g = torch.Generator().manual_seed(0)
        r = (L_MAX + 1) * CHANNELS
        self.dtype = dtype
        irreps = spherical_irreps(L_MAX)
        self.tp = TensorProduct(irreps, irreps, irreps)
        for name, shape in (
            ("a", (8, r)),
            ("b", (8, r)),
            ("c", (CHANNELS, r)),
            ("d", self.tp.weight_shape(CHANNELS)),
        ):
            self.register_buffer(name, 0.3 * torch.randn(shape, dtype=dtype, generator=g))

    def forward(self, r, centers, types):
        offsets = row_offsets(centers, types.shape[0])
        rest = (centers, offsets)
        y = spherical_harmonics(L_MAX, r).to(self.dtype)
        radial = torch.exp(-((r.norm(dim=1, keepdim=True) - torch.arange(8)) ** 2)).to(self.dtype)
        w = (radial @ self.a).view(-1, L_MAX + 1, CHANNELS)
        density = to_atoms((radial @ self.b).view(-1, L_MAX + 1, CHANNELS), y, *rest) * 0.3
        scalars = (w * to_weights(y, density, *rest)).sum(1)
        again = torch.nn.functional.silu(scalars @ self.c).view(-1, L_MAX + 1, CHANNELS)
        second = self.tp(to_atoms(again, y, *rest) * 0.3, density, self.d)
        energies = torch.tanh((w * to_weights(y, second, *rest)).sum(1)).sum(1)
        energies = energies + to_basis(again, second, *rest).sum(1).tanh()
        return to_atoms(energies.view(-1, 1, 1), torch.ones_like(energies).unsqueeze(1), *rest)[:, 0, 0]


def energy_and_forces(model):
    def f(r, centers, types):
        r = r.detach().requires_grad_()
        e = model(r, centers, types)
        (g,) = torch.autograd.grad(e.sum(), r)
        return e.detach(), g

    return f


def data(edges, atoms):
    g = torch.Generator().manual_seed(edges + atoms)
    centers = torch.randint(0, max(atoms, 1), (edges,), generator=g).sort()[0]
    r = torch.randn(edges, 3, dtype=torch.float64, generator=g) * 2
    return r, centers, torch.zeros(atoms, dtype=torch.int64)


SIZES = ((0, 0), (0, 3), (1, 1), (1, 4), (2, 9), (31, 5), (251, 13), (3001, 101))


def compare(got, expected, tolerance):
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=tolerance, rtol=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*:FutureWarning")  # torch's own, on copying a tree
@pytest.mark.parametrize("dtype, tolerance", [(torch.float64, 1e-11), (torch.float32, 2e-3)])
def test_whole_graph_in_one_artifact_without_python_operators(dtype, tolerance, tmp_path):
    model = Chain(dtype)
    f = energy_and_forces(model)
    graph = make_fx(f, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*data(1009, 53))
    names = {str(n.target) for n in graph.graph.nodes if "equitensor" in str(n.target)}
    assert {
        "equitensor.to_atoms.default",
        "equitensor.to_weights.default",
        "equitensor.contract.default",
    } <= names
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(
        graph, data(1009, 53), dynamic_shapes=({0: dynamic}, {0: dynamic}, {0: dynamic})
    )
    path = torch._inductor.aoti_compile_and_package(
        exported,
        package_path=str(tmp_path / "m.pt2"),
        inductor_configs={"aot_inductor.check_lowerbound": False, "fx_graph_cache": False},
    )
    packaged = torch._inductor.aoti_load_package(path)
    for size in SIZES:
        given = data(*size)
        expected = f(*given)
        compare(graph(*given), expected, tolerance)
        compare(packaged(*given), expected, tolerance)
    if dtype == torch.float64:  # a process that has never imported equitensor runs the artifact
        given = data(31, 5)
        torch.save([given, f(*given)], tmp_path / "case.pt")
        script = (
            "import sys, torch\n"
            f"given, expected = torch.load({str(tmp_path / 'case.pt')!r})\n"
            f"got = torch._inductor.aoti_load_package({path!r})(*given)\n"
            "assert all(torch.allclose(a, b, atol=1e-11) for a, b in zip(got, expected))\n"
            "assert 'equitensor' not in sys.modules\n"
        )
        subprocess.run([sys.executable, "-c", script], check=True, env=dict(os.environ))


@pytest.mark.slow
def test_training_step_compiles_without_breaks():
    """Double backward: the gradient of a force loss by the path weights and a radial matrix, in one graph."""
    model = Chain(torch.float64)

    def step(r, centers, types, a, d):
        model.a, model.d = a.detach().requires_grad_(), d.detach().requires_grad_()
        r = r.detach().requires_grad_()
        e = model(r, centers, types)
        (g,) = torch.autograd.grad(e.sum(), r, create_graph=True)
        loss = g.square().sum() + e.square().sum()
        return loss.detach(), *torch.autograd.grad(loss, (model.a, model.d))

    extra = (model.a.clone(), model.d.clone())
    graph = make_fx(step, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*data(257, 17), *extra)
    compiled = torch.compile(graph, fullgraph=True, dynamic=True)
    for size in ((257, 17), (40, 3)):
        given = (*data(*size), *extra)
        for a, b in zip(compiled(*given), step(*given), strict=True):
            torch.testing.assert_close(a, b, atol=1e-10, rtol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize(
    "dtype, channels", [(torch.float32, 1), (torch.float32, 7), (torch.float32, 32), (torch.float64, 7)]
)
def test_every_kernel_for_odd_channels_and_large_blocks(dtype, channels):
    """l_max = 4 splits blocks over several tiles; odd channels leave part of a vector (test_ladder has more)."""
    dims = [1, 3, 13, 9]
    g = torch.Generator().manual_seed(0)
    _, centers, _ = data(77, 9)
    offsets = row_offsets(centers, 9)
    w, y, f = (
        torch.randn(s, dtype=dtype, generator=g)
        for s in ((77, len(dims), channels), (77, sum(dims)), (9, sum(dims), channels))
    )

    def all_three(w, y, f):
        rest = (centers, offsets, dims)
        return to_atoms(w, y, *rest), to_weights(y, f, *rest), to_basis(w, f, *rest)

    tolerance = 1e-4 if dtype == torch.float32 else 1e-12
    compare(torch.compile(all_three, fullgraph=True)(w, y, f), all_three(w, y, f), tolerance)


@pytest.mark.slow
def test_other_dtypes_fall_back_to_aten():
    _, centers, _ = data(30, 4)
    offsets = row_offsets(centers, 4)
    g = torch.Generator().manual_seed(0)
    shapes = ((30, 2, 6), (30, 4), (4, 4, 6))
    w, y, x = (torch.randn(s, generator=g).bfloat16() for s in shapes)
    rest = (centers, offsets)
    f = lambda w, y, x: (to_atoms(w, y, *rest), to_weights(y, x, *rest), to_basis(w, x, *rest))  # noqa: E731
    compare(torch.compile(f)(w, y, x), f(w, y, x), 0.1)


COMPILE_TWICE_THE_SUM = """
import sys, torch
import equitensor as eq
centers = torch.tensor([0, 0, 2])
offsets = eq.row_offsets(centers, 3)
w, y = torch.ones(3, 1, 16), torch.ones(3, 1)
compiled = torch.compile(lambda w, y: eq.to_atoms(w, y, centers, offsets), fullgraph=True)
print(eq.__file__, compiled(w, y)[0, 0, 0].item())
"""


@pytest.mark.slow
def test_a_change_of_the_kernels_misses_the_caches_of_compiled_graphs(tmp_path):
    """Three processes share Inductor's caches; one of them has kernels that give twice the sum."""
    copy = tmp_path / "changed" / "equitensor"
    shutil.copytree(Path(equitensor.__file__).parent, copy, ignore=shutil.ignore_patterns("__pycache__"))
    header = copy / "backends" / "inductor" / "edge_atom.h"
    text = header.read_text()
    put = "store<T, Whole>(sum[k * V + v], out"
    assert put in text
    header.write_text(text.replace(put, "store<T, Whole>(sum[k * V + v] + sum[k * V + v], out"))
    found = []
    for path in (copy.parent.parent / "absent", copy.parent, copy.parent.parent / "absent"):
        environment = {
            **os.environ,
            "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache"),
            "PYTHONPATH": str(path),
        }
        command = [sys.executable, "-W", "ignore", "-c", COMPILE_TWICE_THE_SUM]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=True)
        where, value = done.stdout.split()
        assert where.startswith(str(copy)) == (path == copy.parent)
        found.append(float(value))
    assert found == [2.0, 4.0, 2.0]
