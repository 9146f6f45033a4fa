"""The maps under make_fx, torch.compile, torch.export and AOT Inductor: equal to eager at every size."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from localgraph import Graph, edge_vectors, forces, gather, neighbors, segment_sum, virial

CUTOFF = 4.0


def message_passing(x, cell, edge_index, shifts, offsets, weight):
    """Energies, forces, virial and a loss gradient of a toy in which every sum over edges is read again.

    scatter → pointwise → gather, twice: the chain that the CPU Inductor of torch 2.13 gets wrong with
    index_add.
    """
    graph = Graph(edge_index, shifts, offsets)
    n = x.shape[0]
    r = edge_vectors(x, graph, cell).detach().requires_grad_()
    weight = weight.detach().requires_grad_()
    d2 = (r * r).sum(1, keepdim=True)
    u = torch.exp(-d2 / 4) * (1 - d2 / CUTOFF**2).clamp_min(0) ** 3
    features = torch.ones((n, weight.shape[0]), dtype=x.dtype, device=x.device)
    for _ in range(2):
        density = segment_sum(gather(features, edge_index[1]) * u, edge_index[0], n)
        features = torch.tanh(density @ weight) + features
    energies = features.pow(2).sum(1)
    (g,) = torch.autograd.grad(energies.sum(), r, create_graph=True)
    f = forces(g, edge_index, n)
    w = virial(g, r)
    loss = (f * f).sum() + (w * w).sum()
    (grad,) = torch.autograd.grad(loss, weight)
    return energies.detach(), f.detach(), w.detach(), grad


def arguments(atoms, seed=0, box=None):
    """Inputs of message_passing for a random periodic system at a sane density."""
    generator = torch.Generator().manual_seed(seed)
    box = box or max(6.0, 2.2 * atoms ** (1 / 3))
    cell = box * torch.eye(3, dtype=torch.float64)
    x = box * torch.rand(atoms, 3, dtype=torch.float64, generator=generator)
    graph = neighbors(x, CUTOFF, cell, True)
    weight = 0.1 * torch.randn(8, 8, dtype=torch.float64, generator=generator)
    return (x, cell, *graph, weight)


def maps_arguments(*args, **kwargs):
    """Inputs of Maps."""
    return arguments(*args, **kwargs)[:-1]


SIZES = [(0, None), (1, None), (1, 3.0), (2, None), (37, None), (150, None)]


def assert_equal(got, expected):
    """Equality in absolute units: eV per atom, eV/Å, eV."""
    for a, b in zip(got, expected, strict=True):
        assert a.shape == b.shape
        assert a.numel() == 0 or float((a - b).abs().max()) < 1e-10 * max(1.0, float(b.abs().max()))


@pytest.fixture(scope="module")
def traced():
    """message_passing as one symbolic graph."""
    return make_fx(message_passing, tracing_mode="symbolic")(*arguments(113))


def test_make_fx_keeps_sizes_free(traced):
    for atoms, box in SIZES:
        inputs = arguments(atoms, seed=atoms, box=box)
        assert_equal(traced(*inputs), message_passing(*inputs))


def test_every_sum_over_edges_is_an_opaque_call(traced):
    names = [str(node.target) for node in traced.graph.nodes if node.op == "call_function"]
    assert sum("localgraph.segment_sum" in name for name in names) >= 8
    assert sum("localgraph.gather_rows" in name for name in names) >= 8
    scattering = ("index_add", "scatter", "index_put", "segment_reduce")
    assert not [name for name in names if any(word in name for word in scattering)]


def test_compiled_chain_reads_what_was_summed(traced):
    compiled = torch.compile(traced, fullgraph=True, dynamic=True)
    for atoms, box in SIZES:
        inputs = arguments(atoms, seed=atoms, box=box)
        with torch.no_grad():
            got = compiled(*inputs)
        assert_equal(got, message_passing(*inputs))


def test_compiled_maps_and_their_backward():
    def loss(x, cell, graph):
        r = edge_vectors(x, graph, cell)
        f = forces(r * (r * r).sum(1, keepdim=True).neg().exp(), graph.edge_index, graph.num_atoms)
        return gather(f.tanh(), graph.edge_index[1]).pow(2).sum()

    compiled = torch.compile(loss, fullgraph=True, dynamic=True)
    for atoms in (0, 1, 40, 90):
        x, cell, *graph, _ = arguments(atoms)
        results = []
        for function in (loss, compiled):
            y, c = x.clone().requires_grad_(), cell.clone().requires_grad_()
            value = function(y, c, Graph(*graph))
            results.append((value.detach(), *torch.autograd.grad(value, (y, c))))
        assert_equal(results[1], results[0])


class Maps(torch.nn.Module):
    """Edge vectors of positions and forces of a fixed function of them, as an exportable module."""

    def forward(self, x, cell, edge_index, shifts, offsets):
        graph = Graph(edge_index, shifts, offsets)
        r = edge_vectors(x, graph, cell)
        g = r * (r * r).sum(1, keepdim=True).neg().exp()
        f = forces(g, edge_index, x.shape[0])
        return r, f, virial(g, r), gather(f.tanh(), edge_index[1])


@pytest.fixture(scope="module")
def exported():
    n, e, m = (torch.export.Dim(name, min=0) for name in "nem")
    return torch.export.export(
        Maps(), maps_arguments(113), dynamic_shapes=({0: n}, None, {1: e}, {0: e}, {0: m}), strict=False
    )


def test_export_keeps_sizes_free(exported):
    module = exported.module()
    for atoms, box in SIZES:
        inputs = maps_arguments(atoms, seed=atoms, box=box)
        assert_equal(module(*inputs), Maps()(*inputs))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec:FutureWarning")  # raised inside torch.export's deepcopy
def test_aot_inductor(exported, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    path = torch._inductor.aoti_compile_and_package(exported, package_path=str(tmp_path / "maps.pt2"))
    module = torch._inductor.aoti_load_package(path)
    for atoms, box in SIZES:
        inputs = maps_arguments(atoms, seed=atoms, box=box)
        assert_equal(module(*inputs), Maps()(*inputs))
