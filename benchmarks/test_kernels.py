"""How fast are the tensor product and the edge–atom operators beside eager, einsum, e3nn, and reading memory once?"""

from __future__ import annotations

from functools import partial

import pytest
import torch
from benchmarks.bench_kernels import edge_operands, floor

import equitensor as eq
from equitensor import reference
from equitensor.paths import coupling_table, spherical_irreps

EDGES, ATOMS, CHANNELS = 4096, 100, 64


@pytest.fixture(autouse=True)
def without_gradients():
    torch.compiler.reset()
    with torch.no_grad():
        yield


@pytest.mark.parametrize("l_max", [2, 3])
@pytest.mark.parametrize("operator", ["to_atoms", "to_weights", "to_basis"])
@pytest.mark.parametrize("provider", ["compiled", "eager", "einsum", "memory"])
def test_edges_and_atoms(timed, provider, operator, l_max):
    centers, offsets, dims, operands = edge_operands(EDGES, ATOMS, CHANNELS, l_max)
    given = operands[operator]
    ours = partial(getattr(eq, operator), *given, centers=centers, offsets=offsets)
    plain = partial(getattr(reference, operator), *given, centers=centers, offsets=offsets, dims=dims)
    calls = {
        "compiled": lambda: torch.compile(ours, fullgraph=True),
        "eager": lambda: ours,
        "einsum": lambda: torch.compile(plain, fullgraph=True),
        "memory": lambda: floor(sum(t.numel() for t in given), ours().numel()),
    }
    call = calls[provider]()
    if provider in ("compiled", "einsum"):
        torch.testing.assert_close(call(), plain(), atol=1e-3, rtol=1e-4)
    parameters = {"operator": operator, "l_max": l_max, "channels": CHANNELS}
    timed(
        call,
        reference="memory" if provider in ("compiled", "eager") else None,
        atoms=ATOMS,
        edges=EDGES,
        dtype="float32",
        parameters=parameters,
    )


@pytest.mark.parametrize("l_max", [2, 3])
@pytest.mark.parametrize("provider", ["compiled", "eager", "einsum", "e3nn", "memory"])
def test_tensor_product(timed, provider, l_max):
    g = torch.Generator().manual_seed(0)
    irreps = spherical_irreps(l_max)
    tp = eq.TensorProduct(irreps, irreps, irreps)
    x, y = (torch.randn(ATOMS, (l_max + 1) ** 2, CHANNELS, generator=g) for _ in range(2))
    weights = torch.randn(tp.weight_shape(CHANNELS), generator=g)

    def compiled():
        return partial(torch.compile(tp.__call__, fullgraph=True), x, y, weights)

    def einsum():
        table = coupling_table(*tp.spec)
        dense = torch.zeros(tp.num_paths, *[(l_max + 1) ** 2] * 3)
        dense[table.path, table.a, table.b, table.o] = torch.from_numpy(table.value).float()
        run = torch.compile(
            lambda x, y, w: torch.einsum("pu,pabo,zau,zbu->zou", w, dense, x, y), fullgraph=True
        )
        return partial(run, x, y, weights)

    def e3nn():
        o3 = pytest.importorskip("e3nn.o3")
        full = o3.Irreps([(CHANNELS, ir) for ir in irreps])
        paths = [(p.in1, p.in2, p.out, "uuu", True) for p in tp.paths]
        product = o3.TensorProduct(
            full, full, full, paths, irrep_normalization="component", path_normalization="none"
        )
        flat = partial(_flat, l_max=l_max)
        a, b, w = flat(x), flat(y), weights.flatten()
        torch.testing.assert_close(product(a, b, w), flat(tp(x, y, weights)), atol=1e-3, rtol=1e-4)
        return lambda: product(a, b, w)

    calls = {
        "compiled": compiled,
        "eager": lambda: partial(tp, x, y, weights),
        "einsum": einsum,
        "e3nn": e3nn,
        "memory": lambda: floor(x.numel() + y.numel(), x.numel()),
    }
    timed(
        calls[provider](),
        reference="memory" if provider in ("compiled", "eager") else None,
        atoms=ATOMS,
        edges=0,
        dtype="float32",
        parameters={"l_max": l_max, "channels": CHANNELS, "paths": tp.num_paths},
    )


def _flat(t: torch.Tensor, l_max: int) -> torch.Tensor:
    """Components and channels in e3nn's order: the channels of one irrep together."""
    blocks = t.split([2 * ell + 1 for ell in range(l_max + 1)], 1)
    return torch.cat([b.transpose(1, 2).flatten(1) for b in blocks], 1)
