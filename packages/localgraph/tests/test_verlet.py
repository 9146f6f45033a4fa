"""VerletList: the edges are those of a new search at every step, and searches are rare."""

import numpy as np
import pytest
import torch

from localgraph import VerletList, edge_vectors, neighbors


def _pairs(edges):
    rows = np.concatenate([edges.edge_index.T.numpy(), edges.vectors.numpy().round(9)], axis=1)
    return sorted(map(tuple, rows))


@pytest.mark.parametrize("pbc", [(True, True, True), (True, False, True), (False, False, False)])
def test_edges_equal_those_of_a_new_search(pbc):
    generator = torch.Generator().manual_seed(1)
    cutoffs = torch.tensor([[2.0, 3.0], [2.5, 2.2]], dtype=torch.float64)
    cell = torch.tensor([[6.0, 0, 0], [1.5, 7.0, 0], [-1.0, 0.7, 5.0]], dtype=torch.float64)
    positions = torch.rand(40, 3, generator=generator, dtype=torch.float64) @ cell
    types = torch.randint(0, 2, (40,), generator=generator)
    moving = VerletList(cutoffs, skin=0.4)
    for _ in range(40):
        positions = positions + 0.02 * torch.randn(40, 3, generator=generator, dtype=torch.float64)
        strain = torch.eye(3, dtype=torch.float64)
        strain = strain + 0.002 * torch.randn(3, 3, generator=generator, dtype=torch.float64)
        positions, cell = positions @ strain, cell @ strain
        found = moving.update(positions, cell, pbc, types)
        periodic = cell if any(pbc) else None
        graph = neighbors(positions, cutoffs, cell=periodic, pbc=list(pbc), types=types)
        expected = type(found)(edge_vectors(positions, graph, periodic), graph.edge_index)
        assert _pairs(found) == _pairs(expected)
    assert 1 < moving.searches < 40


def _random(count, seed=0, edge=6.0):
    generator = torch.Generator().manual_seed(seed)
    return edge * torch.rand(count, 3, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("pbc", [True, [True, False, True], False])
def test_a_batch_equals_its_structures(pbc):
    structures = [_random(n, seed) for seed, n in enumerate((5, 9, 1))]
    cell = torch.diag(torch.tensor([6.0, 7.0, 8.0], dtype=torch.float64))
    batch = torch.tensor([0] * 5 + [1] * 9 + [2])
    together = VerletList(3.0, skin=0.5)
    for step in range(3):
        moved = [x + 0.05 * step for x in structures]
        found = together.update(torch.cat(moved), cell.expand(3, 3, 3), pbc, batch=batch)
        one_by_one = [VerletList(3.0, skin=0.5).update(x, cell, pbc) for x in moved]
        first = [0, 5, 14]
        expected = type(found)(
            torch.cat([e.vectors for e in one_by_one]),
            torch.cat([e.edge_index + i for i, e in zip(first, one_by_one, strict=True)], 1),
        )
        assert _pairs(found) == _pairs(expected)
    assert together.searches == 1


@pytest.mark.parametrize("per_structure", [True, False])
def test_one_cell_for_a_batch_that_is_strained(per_structure):
    x = torch.cat([_random(8, 1), _random(8, 2)])
    batch = torch.tensor([0] * 8 + [1] * 8)
    pbc = torch.tensor([[True, True, True], [True, True, False]]) if per_structure else True
    cell = torch.diag(torch.tensor([6.0, 7.0, 8.0], dtype=torch.float64))
    edges = VerletList(3.0, skin=0.6)
    for step in range(12):
        strain = torch.eye(3, dtype=torch.float64) * (1 - 0.02 * step)
        found = edges.update(x @ strain, cell @ strain, pbc, batch=batch)
        graph = neighbors(x @ strain, 3.0, cell @ strain, pbc, batch=batch)
        expected = type(found)(edge_vectors(x @ strain, graph, cell @ strain), graph.edge_index)
        assert _pairs(found) == _pairs(expected)
    assert 1 < edges.searches < 8


def test_other_types_axes_and_batches_are_searched_again():
    x = _random(12)
    cell = 6.0 * torch.eye(3, dtype=torch.float64)
    table = torch.tensor([[2.0, 3.0], [3.0, 4.0]], dtype=torch.float64)
    types = torch.arange(12) % 2
    edges = VerletList(table, skin=0.3)
    geometries = [
        (x, cell, True, types),
        (x, cell, [True, True, False], types),
        (x, cell, [True, True, False], 1 - types),
        (x[:7], cell, [True, True, False], types[:7]),
        (x[:7], None, False, types[:7]),
        (x[:7], cell, True, types[:7], torch.tensor([0] * 3 + [1] * 4)),
    ]
    for count, arguments in enumerate(geometries, 1):
        found = edges.update(*arguments)
        positions, cell_, pbc, types_, *rest = arguments
        index = rest[0] if rest else None
        graph = neighbors(positions, table, cell_, pbc, types=types_, batch=index)
        expected = type(found)(edge_vectors(positions, graph, cell_, index), graph.edge_index)
        assert _pairs(found) == _pairs(expected) and edges.searches == count
    types_[0] = 1 - types_[0]  # the caller's tensor, changed in place, is noticed
    edges.update(*arguments)
    assert edges.searches == len(geometries) + 1


def test_vectors_can_be_differentiated():
    x = _random(6).requires_grad_()
    vectors, _ = VerletList(4.0, skin=0.2).update(x)
    (g,) = torch.autograd.grad((vectors * vectors).sum(), x)
    assert float(g.abs().max()) > 0


@pytest.mark.parametrize("skin", [-0.1, float("nan"), float("inf")])
def test_bad_skins(skin):
    with pytest.raises(ValueError, match="skin must be a finite number ≥ 0, got"):
        VerletList(3.0, skin)


def test_a_refused_geometry_changes_nothing():
    x = _random(6)
    edges = VerletList(4.0, skin=0.2)
    before = edges.update(x)
    for bad in (x * float("nan"), x[:, :2]):
        with pytest.raises(ValueError, match="positions must"):
            edges.update(bad)
    assert _pairs(edges.update(x)) == _pairs(before) and edges.searches == 1
    with pytest.raises(ValueError, match="types must be given with a table"):
        VerletList(torch.ones(2, 2), 0.1).update(x)


def test_a_step_without_a_search_waits_three_times(monkeypatch):
    """Each read of a tensor on a GPU waits for it; axes and cell are on the CPU."""
    positions, cell = _random(30), 6 * torch.eye(3, dtype=torch.float64)
    types = torch.arange(30) % 2
    edges = VerletList(torch.full((2, 2), 3.0, dtype=torch.float64), skin=1.0)
    expected = edges.update(positions, cell, True, types)
    reads = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy", "nonzero"):
        whole = getattr(torch.Tensor, name)

        def counted(self, *given, name=name, whole=whole):
            reads.append(name)
            return whole(self, *given)

        monkeypatch.setattr(torch.Tensor, name, counted)
    found = edges.update(positions, cell.clone(), True, types.clone())
    on_the_cpu = [
        "__bool__"
    ] * 4  # an axis is periodic, the same ones are; the cell is the reference's, and the last
    on_a_gpu = ["__bool__"] * 2 + [
        "nonzero"
    ]  # the types are the same, how far atoms moved, the edges that are near
    assert reads == on_the_cpu + on_a_gpu
    assert edges.searches == 1 and torch.equal(found.edge_index, expected.edge_index)


def test_vectors_are_differentiable_in_the_cell():
    positions = torch.rand(20, 3, dtype=torch.float64) * 5
    cell = 5 * torch.eye(3, dtype=torch.float64)
    moved = positions.requires_grad_()
    vectors, _ = VerletList(2.4, skin=0.5).update(moved, cell.requires_grad_(), True)
    (by_cell,) = torch.autograd.grad(vectors.square().sum(), cell)
    assert by_cell.abs().max() > 0
