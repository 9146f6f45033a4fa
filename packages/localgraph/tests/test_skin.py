"""Verlet lists: they hold every edge at every step, and are searched again only when they must be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from localgraph import allocate, edge_vectors, forces, grow, neighbors, padded, update

CUTOFF, SKIN = 4.0, 1.0


def within(graph, x, cell, cutoff):
    """The edges below the cutoff now, as a set."""
    r = edge_vectors(x, graph, cell)
    rows = torch.cat([graph.edge_index.T, graph.shifts], 1)[(r * r).sum(1) < cutoff**2]
    return set(map(tuple, rows.tolist()))


def every(graph):
    return set(map(tuple, torch.cat([graph.edge_index.T, graph.shifts], 1).tolist()))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, False), (False, False, False)])
def test_a_trajectory(random_system, pbc):
    x, cell, pbc = random_system(0, 60, pbc, 9.0)
    generator = torch.Generator().manual_seed(1)
    v = 0.05 * torch.randn(60, 3, dtype=x.dtype, generator=generator)
    kept = allocate(x, CUTOFF, cell, pbc, skin=SKIN)
    assert kept.rebuilds == 0
    for step in range(80):
        x = x + v
        before = kept
        kept = update(kept, x)
        largest = float((x - before.positions).norm(dim=1).max())
        assert (kept is before) == (largest <= SKIN / 2), step
        assert within(kept.graph, x, cell, CUTOFF) == every(neighbors(x, CUTOFF, cell, pbc))
    assert 5 <= kept.rebuilds <= 40


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**16),
    strain=st.floats(0.0, 0.2),
    step=st.floats(0.0, 0.4),
    pbc=st.tuples(*[st.booleans()] * 3),
    table=st.booleans(),
)
def test_moving_cells(seed, strain, step, pbc, table):
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    cells = 4 * torch.eye(3, dtype=torch.float64) + 0.5 * normal(2, 3, 3)
    x = 4 * normal(24, 3)
    index = torch.arange(24) // 12
    types = torch.arange(24) % 2
    cutoff = torch.tensor([[1.0, 4.0], [2.0, 3.0]], dtype=torch.float64) if table else CUTOFF
    kept = allocate(x, cutoff, cells, pbc, skin=SKIN, batch=index, types=types)
    for _ in range(3):
        f = torch.eye(3, dtype=torch.float64) + strain * normal(2, 3, 3) / 3
        cells = cells @ f
        x = (x[:, None] @ f[index])[:, 0] + step * normal(24, 3) / 3
        kept = update(kept, x, cells)
        expected = every(neighbors(x, cutoff, cells, pbc, batch=index, types=types))
        assert expected <= every(kept.graph)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-9])  # the second moves the cell, and takes the way of strains
def test_two_atoms_that_approach_from_just_outside(factor):
    cell = torch.eye(3, dtype=torch.float64) * 30
    x = torch.tensor([[1.0, 2, 3], [1 + CUTOFF + SKIN + 1e-3, 2, 3]], dtype=torch.float64)
    kept = allocate(x, CUTOFF, cell, True, skin=SKIN)
    assert kept.graph.num_edges == 0
    for move, edges in [(0.499, 0), (0.502, 2)]:
        y = x + move * torch.tensor([[1.0, 0, 0], [-1, 0, 0]])
        moved = update(kept, y * factor, cell * factor)
        assert (moved.graph is kept.graph) == (edges == 0) and moved.graph.num_edges == edges


@pytest.mark.parametrize("cutoff", [CUTOFF, torch.tensor([[CUTOFF, 1.0], [1.0, 1.0]])])
def test_two_atoms_that_a_squeeze_brings_together(cutoff):
    cell = torch.eye(3, dtype=torch.float64) * 30
    x = torch.tensor([[1.0, 2, 3], [1 + CUTOFF + SKIN + 1e-3, 2, 3]], dtype=torch.float64)
    kept = allocate(x, cutoff, cell, True, skin=SKIN, types=torch.zeros(2, dtype=torch.int64))
    for squeeze, edges in [(0.81, 0), (0.79, 2)]:
        strain = torch.diag(torch.tensor([squeeze, 1.2, 1.0], dtype=torch.float64))
        moved = update(kept, x @ strain, cell @ strain)
        assert (moved.graph is kept.graph) == (edges == 0) and moved.graph.num_edges == edges


def test_small_cutoffs_of_a_table_are_watched_when_the_cell_grows():
    cell = torch.eye(3, dtype=torch.float64) * 30
    table = torch.tensor([[2.0, 8.0], [8.0, 8.0]], dtype=torch.float64)
    x = torch.tensor([[1.0, 2, 3], [1 + 2.0 + SKIN + 1e-3, 2, 3]], dtype=torch.float64)
    kept = allocate(x, table, cell, True, skin=SKIN, types=torch.zeros(2, dtype=torch.int64))
    grown = x * 1.05
    grown[1, 0] -= 0.59  # by the largest cutoff alone, 1.05 · 9 Å − 2 · 0.59 Å ≥ 8 Å, nothing could be missed
    grown[0, 0] += 0.59
    moved = update(kept, grown, cell * 1.05)
    assert moved.rebuilds == 1 and moved.graph.num_edges == 2


def test_a_small_strain_is_served_by_the_same_list(random_system):
    x, cell, pbc = random_system(3, 30)
    kept = allocate(x, CUTOFF, cell, pbc, skin=SKIN)
    assert update(kept, x * 1.01, cell * 1.01).graph is kept.graph
    assert update(kept, x * 0.9, cell * 0.9).graph is kept.graph  # 0.9 · 5 Å is still beyond 4 Å
    assert update(kept, x * 0.79, cell * 0.79).rebuilds == 1
    assert update(kept, x, cell.clone()) is kept
    assert update(kept, x + 0.6, cell).rebuilds == 1


def test_the_cell_left_out_is_the_last_one(random_system):
    x, cell, pbc = random_system(5, 60, scale=9.0)
    kept = update(allocate(x, CUTOFF, cell, pbc, skin=SKIN), x * 0.95, cell * 0.95)
    assert kept.rebuilds == 0
    later = update(kept, x * 0.95 + 0.6)
    assert later.rebuilds == 1 and torch.equal(later.cell, cell * 0.95)
    assert every(neighbors(x * 0.95 + 0.6, CUTOFF, cell * 0.95, pbc)) <= every(later.graph)


def test_overflow_is_data_and_capacity_grows(random_system):
    x, cell, pbc = random_system(4, 40, scale=8.0)
    kept = allocate(x, CUTOFF, cell, pbc, skin=SKIN, growth=1.0)
    edges = kept.graph.num_edges
    assert (kept.capacity, bool(kept.overflow)) == (edges, False)
    squeezed = update(kept, x * 0.7, cell * 0.7)
    assert squeezed.capacity == edges and bool(squeezed.overflow) and squeezed.graph.num_edges > edges
    assert padded(squeezed).graph.num_edges == edges
    larger = grow(squeezed)
    assert not bool(larger.overflow) and larger.capacity >= larger.graph.num_edges
    assert larger.capacity < 1.6 * larger.graph.num_edges
    assert grow(kept) == kept
    assert bool(allocate(x, CUTOFF, cell, pbc, skin=SKIN, capacity=1).overflow)
    assert grow(allocate(x, CUTOFF, cell, pbc, skin=SKIN, capacity=0)).capacity >= edges


def test_padding_contributes_nothing(random_system):
    x, cell, pbc = random_system(5, 25)
    kept = allocate(x, CUTOFF, cell, pbc, skin=0.5)

    def edge_gradient(r):
        r = r.detach().requires_grad_()
        d = (r * r).sum(1).sqrt()
        return torch.autograd.grad(((1 - d / CUTOFF).clamp_min(0) ** 3).sum(), r)[0]

    expected = forces(edge_gradient(edge_vectors(x, kept.graph, cell)), kept.graph.edge_index, len(x))
    graph, mask = padded(kept)
    assert graph.num_edges == kept.capacity > kept.graph.num_edges
    assert bool((graph.edge_index[0].diff() >= 0).all())
    assert int(mask.sum()) == kept.graph.num_edges == int(graph.offsets[-1])
    far = torch.tensor([2 * CUTOFF, 0.0, 0.0], dtype=x.dtype)
    r = torch.where(mask[:, None], edge_vectors(x, graph, cell), far)
    assert torch.allclose(
        forces(edge_gradient(r), graph.edge_index, graph.num_atoms), expected, rtol=0, atol=1e-13
    )


def test_no_atoms():
    x = torch.zeros(0, 3)
    kept = allocate(x, CUTOFF, skin=SKIN)
    assert update(kept, x) is kept
    assert padded(kept).graph.edge_index.shape == (2, 0)
    with pytest.raises(ValueError, match="must hold an atom to pad 3 edges with"):
        padded(allocate(x, CUTOFF, skin=SKIN, capacity=3))


def test_the_reference_is_a_copy(random_system):
    x, cell, pbc = random_system(6, 10)
    kept = allocate(x, CUTOFF, cell, pbc, skin=SKIN)
    x[0] += 0.6
    assert update(kept, x).rebuilds == 1


def test_errors(random_system):
    x, cell, pbc = random_system(7, 5)
    for message, keywords in [
        (r"skin must be a finite number ≥ 0, got -0\.1", {"skin": -0.1}),
        ("skin must be a finite number ≥ 0, got nan", {"skin": float("nan")}),
        (r"growth must be a finite number ≥ 1, got 0\.9", {"skin": 1.0, "growth": 0.9}),
        ("capacity must be a number of edges ≥ 0, got -1", {"skin": 1.0, "capacity": -1}),
    ]:
        with pytest.raises(ValueError, match=message):
            allocate(x, CUTOFF, cell, pbc, **keywords)
    with pytest.raises(ValueError, match=r"cutoff must be a finite number > 0, got -1\.0"):
        allocate(x, -1.0, cell, pbc, skin=3.0)
    kept = allocate(x, CUTOFF, cell, pbc, skin=SKIN)
    with pytest.raises(ValueError, match=r"positions must have shape \(5, 3\), got \(4, 3\)"):
        update(kept, x[:4])
    with pytest.raises(ValueError, match=r"positions must be finite"):
        update(kept, x * torch.nan)
    with pytest.raises(ValueError, match=r"cell must have one per structure \(1\), got 2"):
        update(kept, x, torch.stack([cell, cell]))
    with pytest.raises(ValueError, match=r"growth must be a finite number > 1, got 1\.0"):
        grow(kept, 1.0)
