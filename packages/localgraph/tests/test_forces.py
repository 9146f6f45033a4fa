"""The maps and their transposes: adjoint identities, finite differences, derivatives, batches."""

import pytest
import torch

from localgraph import (
    atomic_virial,
    batch,
    edge_vectors,
    forces,
    gather,
    neighbors,
    segment_sum,
    stress,
    virial,
    volume,
)


def pair_energy(r):
    """A smooth pair energy that is zero beyond 5 Å."""
    d2 = (r * r).sum(1)
    return (torch.exp(-0.3 * d2) * (1 - d2 / 25).clamp_min(0) ** 3).sum()


def edge_gradient(r):
    r = r.detach().requires_grad_()
    return torch.autograd.grad(pair_energy(r), r)[0]


@pytest.mark.parametrize("atoms", [0, 1, 2, 40])
@pytest.mark.parametrize("seed", range(3))
def test_forces_are_the_transpose_of_edge_vectors(random_system, atoms, seed):
    x, cell, pbc = random_system(seed, atoms)
    graph = neighbors(x, 5.0, cell, pbc)
    v = torch.randn_like(x)
    g = torch.randn(graph.num_edges, 3, dtype=torch.float64)
    left = (edge_vectors(v, graph) * g).sum()
    right = -(v * forces(g, graph.edge_index, graph.num_atoms)).sum()
    assert abs(left - right) <= 1e-12 * max(1.0, float(g.abs().sum()))
    assert torch.allclose(
        forces(g, graph.edge_index, graph.num_atoms).sum(0), torch.zeros(3, dtype=torch.float64), atol=1e-10
    )


@pytest.mark.parametrize("seed", range(3))
def test_virial_is_the_transpose_of_strain(random_system, seed):
    x, cell, pbc = random_system(seed, 20)
    graph = neighbors(x, 5.0, cell, pbc)
    r = edge_vectors(x, graph, cell)
    g = torch.randn_like(r)
    strain = torch.randn(3, 3, dtype=torch.float64)
    moved = edge_vectors(x @ strain, graph, cell @ strain)
    left, right = (moved * g).sum(), (strain * virial(g, r)).sum()
    assert abs(left - right) <= 1e-12 * float((moved * g).abs().sum())


def test_forces_against_autograd_and_finite_differences(random_system):
    x, cell, pbc = random_system(1, 12)
    graph = neighbors(x, 5.0, cell, pbc)
    x.requires_grad_()
    r = edge_vectors(x, graph, cell)
    (grad,) = torch.autograd.grad(pair_energy(r), x)
    f = forces(edge_gradient(r), graph.edge_index, graph.num_atoms)
    assert torch.allclose(f, -grad, rtol=0, atol=1e-12)
    h = 1e-4
    for i, a in [(0, 0), (5, 1), (11, 2)]:
        e = []
        for step in (h, -h):
            y = x.detach().clone()
            y[i, a] += step
            e.append(pair_energy(edge_vectors(y, neighbors(y, 5.0, cell, pbc), cell)))
        assert abs(f[i, a] + (e[0] - e[1]) / (2 * h)) < 1e-7


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_virial_against_finite_strain(random_system, pbc):
    x, cell, _ = random_system(2, 15)
    graph = neighbors(x, 5.0, cell, pbc)
    r = edge_vectors(x, graph, cell)
    w = virial(edge_gradient(r), r)
    assert float(w.abs().max()) > 0.1
    h = 1e-3
    for a in range(3):
        for b in range(3):
            e = []
            for step in (-2 * h, -h, h, 2 * h):
                m = torch.eye(3, dtype=torch.float64)
                m[a, b] += step
                y, strained = x @ m, cell @ m
                e.append(float(pair_energy(edge_vectors(y, neighbors(y, 5.0, strained, pbc), strained))))
            slope = (e[0] - 8 * e[1] + 8 * e[2] - e[3]) / (12 * h)
            assert abs(slope - float(w[a, b])) < 1e-8, (a, b)


def test_stress_is_the_symmetric_virial_over_the_volume():
    w = torch.arange(9.0, dtype=torch.float64).reshape(3, 3)
    cell = torch.diag(torch.tensor([2.0, 3.0, -4.0], dtype=torch.float64))
    assert torch.allclose(stress(w, volume(cell)), (w + w.T) / 48)
    both = stress(torch.stack([w, 2 * w]), volume(torch.stack([cell, cell])))
    assert torch.allclose(both[1], 2 * both[0])
    assert torch.allclose(both[0], stress(w, volume(cell)))


def test_atomic_virials_sum_to_the_virial(random_system):
    x, cell, pbc = random_system(3, 9)
    graph = neighbors(x, 4.0, cell, pbc)
    r = edge_vectors(x, graph, cell)
    g = torch.randn_like(r)
    per_atom = atomic_virial(g, r, graph.edge_index, graph.num_atoms)
    assert per_atom.shape == (9, 3, 3)
    assert torch.allclose(per_atom.sum(0), virial(g, r), rtol=0, atol=1e-11)
    for i in range(9):
        rows = slice(int(graph.offsets[i]), int(graph.offsets[i + 1]))
        assert torch.allclose(per_atom[i], r[rows].T @ g[rows], rtol=0, atol=1e-12)


@pytest.mark.parametrize("share", ["center", "neighbor", "half"])
def test_shares_of_edges_are_sums_over_atoms(random_system, share):
    x, cell, pbc = random_system(3, 9)
    graph = neighbors(x, 4.0, cell, pbc)
    r, index = edge_vectors(x, graph, cell), graph.edge_index
    g = torch.randn_like(r)
    expected = torch.zeros(9, 3, 3, dtype=x.dtype)
    for e in range(graph.num_edges):
        for end, part in ((0, {"center": 1, "half": 0.5}), (1, {"neighbor": 1, "half": 0.5})):
            expected[index[end, e]] += part.get(share, 0) * torch.outer(r[e], g[e])
    found = atomic_virial(g, r, index, 9, share)
    assert torch.allclose(found, expected, rtol=0, atol=1e-12)
    assert torch.allclose(found.sum(0), virial(g, r), rtol=0, atol=1e-11)


def test_a_batch_equals_its_structures(random_system):
    systems = [
        random_system(s, n, p)
        for s, n, p in [(0, 7, (1, 1, 1)), (1, 0, (1, 0, 0)), (2, 1, (0, 0, 0)), (3, 9, (1, 1, 0))]
    ]
    graphs = [neighbors(x, 4.5, cell, pbc) for x, cell, pbc in systems]
    joined, index = batch(graphs)
    x = torch.cat([s[0] for s in systems])
    cells = torch.stack([s[1] for s in systems])
    pbc = torch.stack([s[2].bool() for s in systems])
    for a, b in zip(joined, neighbors(x, 4.5, cells, pbc, batch=index), strict=True):
        assert torch.equal(a, b)
    r = edge_vectors(x, joined, cells, index)
    g = torch.randn_like(r)
    w = virial(g, r, joined.edge_index, index, len(systems))
    f = forces(g, joined.edge_index, joined.num_atoms)
    start = edge = 0
    for k, (graph, (xk, cell, _)) in enumerate(zip(graphs, systems, strict=True)):
        rows, atoms = slice(edge, edge + graph.num_edges), slice(start, start + len(xk))
        assert torch.allclose(r[rows], edge_vectors(xk, graph, cell), rtol=0, atol=1e-13)
        assert torch.allclose(w[k], virial(g[rows], r[rows]), rtol=0, atol=1e-12)
        assert torch.equal(f[atoms], forces(g[rows], graph.edge_index, graph.num_atoms))
        start, edge = atoms.stop, rows.stop


@pytest.mark.parametrize("batched", [False, True])
def test_derivatives_to_second_order(random_system, batched):
    x, cell, pbc = random_system(4, 3)
    graph = neighbors(x, 4.0, cell, pbc)
    index = torch.zeros(3, dtype=torch.int64) if batched else None
    cell = cell[None] if batched else cell

    def energy(x, cell):
        r = edge_vectors(x, graph, cell, index)
        return (r.sin() * torch.linspace(0.5, 1, r.shape[0], dtype=r.dtype)[:, None]).sum()

    def reduced(g, r):
        whole = virial(g, r, graph.edge_index, index, 1) if batched else virial(g, r)
        return (
            forces(g, graph.edge_index, graph.num_atoms).sin().sum()
            + whole.cos().sum()
            + atomic_virial(g, r, graph.edge_index, graph.num_atoms).pow(2).sum()
        )

    inputs = (x.requires_grad_(), cell.requires_grad_())
    assert torch.autograd.gradcheck(energy, inputs)
    assert torch.autograd.gradgradcheck(energy, inputs)
    r = edge_vectors(x, graph, cell, index).detach()[:12].requires_grad_()
    graph = graph._replace(edge_index=graph.edge_index[:, :12], shifts=graph.shifts[:12])
    g = torch.randn_like(r, requires_grad=True)
    assert torch.autograd.gradcheck(reduced, (g, r))
    assert torch.autograd.gradgradcheck(reduced, (g, r))


def test_gather_and_segment_sum_are_transposes():
    index = torch.tensor([2, 0, 2, 4])
    values = torch.randn(5, 2, 3, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(4, 2, 3, dtype=torch.float64, requires_grad=True)
    assert torch.equal(gather(values, index), values[index])
    expected = torch.zeros(5, 2, 3, dtype=torch.float64).index_add(0, index, rows)
    assert torch.equal(segment_sum(rows, index, 5), expected)
    assert torch.autograd.gradgradcheck(lambda v: gather(v, index).sin(), (values,))
    assert torch.autograd.gradgradcheck(lambda v: segment_sum(v, index, 5).sin(), (rows,))
    assert segment_sum(rows[:0], index[:0], 0).shape == (0, 2, 3)
    for op, arguments in [
        (torch.ops.localgraph.gather_rows.default, (values, index)),
        (torch.ops.localgraph.segment_sum.default, (rows, index, 5)),
    ]:
        torch.library.opcheck(op, arguments)


@pytest.mark.parametrize("shape", [(200_000,), (200_000, 3), (50_000, 8, 8)])
def test_sums_are_the_same_with_any_number_of_threads(shape):
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(*shape, generator=generator)
    index = torch.randint(500, shape[:1], generator=generator)
    threads = torch.get_num_threads()
    results = []
    try:
        for number in (1, 2, 4):
            torch.set_num_threads(number)
            results.append(segment_sum(rows, index, 500))
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


def test_hessian_products(random_system):
    x, cell, pbc = random_system(8, 10)
    graph = neighbors(x, 4.0, cell, pbc)
    v = torch.randn_like(x)
    _, product = torch.autograd.functional.hvp(lambda x: pair_energy(edge_vectors(x, graph, cell)), x, v)
    step = 1e-5
    up, down = (
        forces(edge_gradient(edge_vectors(x + s * v, graph, cell)), graph.edge_index, graph.num_atoms)
        for s in (step, -step)
    )
    assert torch.allclose(product, (down - up) / (2 * step), rtol=0, atol=1e-6)


def test_float32_stays_float32(random_system):
    x, cell, pbc = random_system(5, 6)
    graph = neighbors(x.float(), 4.0, cell.float(), pbc)
    r = edge_vectors(x.float(), graph, cell)
    g = torch.randn_like(r)
    assert {
        t.dtype
        for t in (
            r,
            forces(g, graph.edge_index, graph.num_atoms),
            virial(g, r),
            stress(virial(g, r), volume(cell)),
        )
    } == {torch.float32}


def test_errors(random_system):
    x, cell, pbc = random_system(0, 4)
    graph = neighbors(x, 4.0, cell, pbc)
    with pytest.raises(ValueError, match=r"cell must have shape"):
        edge_vectors(x, graph, cell[0])
    with pytest.raises(ValueError, match=r"batch must be given with a cell of shape"):
        edge_vectors(x, graph, cell[None])
    r = edge_vectors(x, graph, cell)
    with pytest.raises(ValueError, match=r"must be given together .* \['num_structures'\]"):
        virial(r, r, num_structures=1)
    with pytest.raises(ValueError, match=r"volume must have shape \(\), one number per virial, got \(3, 3\)"):
        stress(virial(r, r), cell)
    with pytest.raises(ValueError, match='share must be "center", "neighbor" or "half", got \'both\''):
        atomic_virial(r, r, graph.edge_index, 4, share="both")
    with pytest.raises(ValueError, match="at least one graph"):
        batch([])
