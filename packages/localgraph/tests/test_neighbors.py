"""Neighbor lists: exact sets (i, j, S) against ASE and matscipy over systems × cutoffs × transforms."""

import itertools

import ase.build
import ase.neighborlist
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.geometry import cellpar_to_cell
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from matscipy.neighbours import neighbour_list as matscipy_list

from localgraph import neighbors
from localgraph.search import cell_list, vesin, vesin_cuda
from localgraph.search.arguments import check_cells, measure

ALGORITHMS = ["vesin", "cells"]


def edges(graph):
    """The edges as a sorted list of (i, j, a, b, c)."""
    return sorted(map(tuple, torch.cat([graph.edge_index.T, graph.shifts], 1).tolist()))


def check_order(graph, atoms):
    """Sorted by center, with the row pointer that says so, in the dtypes promised."""
    assert [t.dtype for t in graph] == [torch.int64, torch.int32, torch.int64]
    assert graph.num_atoms == atoms
    assert bool((graph.edge_index[0].diff() >= 0).all())
    assert torch.equal(torch.bincount(graph.edge_index[0], minlength=atoms), graph.offsets.diff())


def by_ase(atoms, cutoff):
    i, j, shifts = ase.neighborlist.primitive_neighbor_list(
        "ijS", atoms.pbc, atoms.cell.complete().array, atoms.positions, cutoff, self_interaction=False
    )
    return sorted(map(tuple, np.column_stack([i, j, shifts]).tolist()))


def by_matscipy(atoms, cutoff):
    i, j, shifts = matscipy_list(
        "ijS", positions=atoms.positions, cell=atoms.cell.complete().array, pbc=atoms.pbc, cutoff=cutoff
    )
    return sorted(map(tuple, np.column_stack([i, j, shifts]).tolist()))


def ours(atoms, cutoff, **keywords):
    graph = neighbors(
        torch.tensor(atoms.positions),
        cutoff,
        torch.tensor(atoms.cell.array),
        torch.tensor(atoms.pbc),
        **keywords,
    )
    check_order(graph, len(atoms))
    return edges(graph)


def random_atoms(seed, count, cellpar, pbc):
    rng = np.random.default_rng(seed)
    return Atoms(np.full(count, "Ar"), scaled_positions=rng.random((count, 3)), cell=cellpar, pbc=pbc)


def slab():
    atoms = ase.build.fcc111("Al", (2, 3, 3), vacuum=4.0)
    atoms.pbc = (True, True, False)
    return atoms


SYSTEMS = {
    "molecule": lambda: ase.build.molecule("C6H6"),
    "one atom, open": lambda: Atoms("H"),
    "one atom, periodic": lambda: Atoms("Cu", cell=[2.1, 2.3, 2.5], pbc=True),
    "primitive fcc": lambda: ase.build.bulk("Cu"),
    "diamond": lambda: ase.build.bulk("Si", cubic=True),
    "hcp": lambda: ase.build.bulk("Mg"),
    "rocksalt": lambda: ase.build.bulk("NaCl", "rocksalt", a=5.64),
    "slab without a third vector": slab,
    "thin slab": lambda: random_atoms(1, 20, [20.0, 20.0, 1.5, 90, 90, 90], True),
    "sheet": lambda: random_atoms(2, 20, [8.0, 7.0, 0.8, 80, 85, 110], (True, True, False)),
    "wire": lambda: random_atoms(3, 12, [3.0, 30.0, 30.0, 90, 90, 90], (True, False, False)),
    "wire along c": lambda: random_atoms(4, 12, [11.0, 9.0, 2.0, 70, 100, 60], (False, False, True)),
    "skewed to 30°": lambda: random_atoms(5, 16, [6.0, 7.0, 8.0, 90, 90, 30], True),
    "skewed three times": lambda: random_atoms(6, 16, [9.0, 8.0, 7.0, 40, 50, 60], True),
    "obtuse": lambda: random_atoms(7, 16, [6.0, 7.0, 8.0, 100, 110, 145], True),
    "left-handed": lambda: Atoms(
        "Ar3", [[0, 0, 0], [1, 2, 3], [2, 2, 1]], cell=[[0, 5, 0], [5, 0, 1], [0, 1, 5]], pbc=True
    ),
    "coincident atoms": lambda: Atoms("H3", [[1, 1, 1], [1, 1, 1], [0, 0, 0]], cell=[4, 4, 4], pbc=True),
    "dense": lambda: random_atoms(8, 120, [7.0, 7.5, 8.0, 85, 95, 100], True),
}


def outside(atoms):
    """Each atom moved by its own number of cells along periodic axes."""
    whole = np.random.default_rng(9).integers(-7, 8, (len(atoms), 3)) * atoms.pbc
    atoms.positions += whole @ atoms.cell.array
    return atoms


def rotated(atoms):
    atoms.rotate(37, (1, 2, 3), rotate_cell=True)
    return atoms


def shuffled(atoms):
    return atoms[np.random.default_rng(3).permutation(len(atoms))]


def displaced(atoms):
    atoms.positions += [100.25, -3.5, 0.125]
    return atoms


def as_is(atoms):
    return atoms


TRANSFORMS = {f.__name__: f for f in (as_is, outside, rotated, shuffled, displaced)}
CUTOFFS = [0.9, 3.1, 6.7]


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("cutoff", CUTOFFS)
@pytest.mark.parametrize("name", SYSTEMS)
def test_table(name, cutoff, transform):
    atoms = TRANSFORMS[transform](SYSTEMS[name]())
    expected = by_ase(atoms, cutoff)
    assert len(set(expected)) == len(expected)
    for algorithm in ALGORITHMS:
        assert ours(atoms, cutoff, algorithm=algorithm) == expected, algorithm
    if name != "coincident atoms":  # matscipy takes atoms at distance zero for one atom
        assert by_matscipy(atoms, cutoff) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize(
    "name, cutoff", [("one atom, periodic", 25.0), ("primitive fcc", 21.0), ("skewed to 30°", 19.0)]
)
def test_cutoff_many_times_the_cell(name, cutoff, algorithm):
    atoms = SYSTEMS[name]()
    expected = by_matscipy(atoms, cutoff)
    assert len(expected) > 3000
    assert ours(atoms, cutoff, algorithm=algorithm) == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("farthest", [1, 8, 100, 1000, 250_000])
def test_atoms_many_cells_away(farthest, algorithm):
    atoms = random_atoms(18, 12, [4.0, 5.0, 6.0, 70, 80, 75], True)
    whole = np.random.default_rng(0).integers(-farthest, farthest + 1, (12, 3))
    whole[0], whole[1] = farthest, -farthest
    expected = []
    for i, j, *shift in by_ase(atoms, 4.1):
        expected.append((i, j, *(shift + whole[i] - whole[j]).tolist()))
    atoms.positions += whole @ atoms.cell.array
    assert ours(atoms, 4.1, algorithm=algorithm) == sorted(expected)


cell_parameters = st.tuples(*[st.floats(0.7, 12.0)] * 3, *[st.floats(30.0, 150.0)] * 3)


@settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.filter_too_much]
)
@given(
    cellpar=cell_parameters,
    pbc=st.tuples(*[st.booleans()] * 3),
    cutoff=st.floats(0.3, 6.0),
    count=st.integers(1, 25),
    seed=st.integers(0, 2**20),
    spread=st.sampled_from([0.0, 1.0, 30.0]),
)
def test_any_cell(cellpar, pbc, cutoff, count, seed, spread):
    cosines = np.cos(np.radians(cellpar[3:]))
    assume(1 - (cosines**2).sum() + 2 * cosines.prod() > 0.02)  # the three angles close to a cell
    cell = cellpar_to_cell(cellpar)
    rng = np.random.default_rng(seed)
    atoms = Atoms(
        np.full(count, "Ar"),
        rng.random((count, 3)) @ cell + spread * rng.normal(size=(count, 3)),
        cell=cell,
        pbc=pbc,
    )
    expected = by_matscipy(atoms, cutoff)
    for algorithm in ALGORITHMS:
        assert ours(atoms, cutoff, algorithm=algorithm) == expected, algorithm


@pytest.mark.parametrize("pbc", list(itertools.product([False, True], repeat=3)))
def test_vesin_never_sees_mixed_axes(pbc, monkeypatch):
    """With them it takes long, and without bound where atoms are few and far between."""
    seen = []

    class Spy(vesin.NeighborList):
        def compute(self, points, box, periodic, *args, **keywords):
            seen.append(sorted(set(np.asarray(periodic).tolist())))
            return super().compute(points, box, periodic, *args, **keywords)

    monkeypatch.setattr(vesin, "NeighborList", Spy)
    atoms = random_atoms(3, 40, [1.0, 1.3, 12.0, 80, 95, 60], list(pbc))
    atoms.positions += 30 * np.random.default_rng(0).normal(size=(40, 3))
    assert ours(atoms, 2.1, algorithm="vesin") == by_matscipy(atoms, 2.1)
    assert seen == [[any(pbc)]]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**20), number=st.integers(1, 5), cutoff=st.floats(0.5, 6.0))
def test_a_batch_is_the_search_in_each_structure(seed, number, cutoff):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 9, number)
    x = torch.tensor(rng.normal(size=(counts.sum(), 3)) * 4)
    cells = torch.tensor(rng.normal(size=(number, 3, 3)) + 4 * np.eye(3))
    pbc = torch.tensor(rng.random((number, 3)) < 0.5)
    index = torch.repeat_interleave(torch.arange(number), torch.tensor(counts))
    expected, start = [], 0
    for k, count in enumerate(counts):
        graph = neighbors(x[start : start + count], cutoff, cells[k], pbc[k])
        expected += [(i + start, j + start, *s) for i, j, *s in edges(graph)]
        start += int(count)
    for algorithm in ALGORITHMS:
        graph = neighbors(x, cutoff, cells, pbc, batch=index, algorithm=algorithm)
        check_order(graph, len(x))
        assert edges(graph) == expected, algorithm


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_no_atoms_and_no_edges(algorithm):
    empty = torch.zeros(0, 3, dtype=torch.float64)
    for keywords in ({}, {"cell": torch.eye(3), "pbc": True}, {"batch": torch.zeros(0, dtype=torch.int64)}):
        graph = neighbors(empty, 5.0, algorithm=algorithm, **keywords)
        check_order(graph, 0)
        assert (tuple(graph.edge_index.shape), tuple(graph.shifts.shape)) == ((2, 0), (0, 3))
        assert graph.offsets.tolist() == [0]
    far = torch.arange(3.0)[:, None] * torch.tensor([[1e3, 2e3, -3e3]])
    graph = neighbors(far, 5.0, algorithm=algorithm)
    check_order(graph, 3)
    assert (graph.num_edges, graph.offsets.tolist()) == (0, [0, 0, 0, 0])


@pytest.mark.parametrize("stray", [1e3, 1e5])
def test_an_atom_far_away_costs_nothing(stray, monkeypatch):
    """It neither makes cells larger, which would make every pair a candidate, nor is it looked for by vesin."""
    x = torch.rand(500, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 18.0
    candidates = []

    def counted(counts):
        candidates.append(int(counts.sum()))
        return within(counts)

    within = cell_list._within
    monkeypatch.setattr(cell_list, "_within", counted)
    without = neighbors(x, 3.0, algorithm="cells")
    expected = sum(candidates)
    candidates.clear()
    y = torch.cat([x, torch.full((1, 3), stray, dtype=torch.float64)])
    graph = neighbors(y, 3.0)
    assert sum(candidates) <= expected + 100  # so that it was the cell list too
    assert edges(graph) == edges(without)


def test_the_search_is_chosen_by_how_full_the_cells_are():
    def chosen(count, extent, structures=1):
        x = torch.rand(count * structures, 3, dtype=torch.float64) * extent
        index = torch.arange(structures).repeat_interleave(count)
        cells, pbc = (
            torch.eye(3, dtype=torch.float64).expand(structures, 3, 3),
            torch.zeros(structures, 3).bool(),
        )
        return vesin.suits(measure(x, cells, pbc, index), 5.0)

    assert chosen(2, 3.0) and chosen(1000, 25.0) and chosen(1000, 25.0, structures=20)
    assert not chosen(20, 300.0) and not chosen(20, 80.0, structures=100) and not chosen(20_000, 1e4)


def test_vesin_where_it_cannot_search():
    with pytest.raises(ValueError, match=r'algorithm must be .* got "vesin" for cpu and an extent of'):
        neighbors(torch.rand(4, 3) * torch.tensor([10, 1e6, 1e6]), 5.0, algorithm="vesin")


@pytest.mark.parametrize(
    "size", [[1e3, 1e7, 1e8], [1.1, 1.1, 1e6], [10, 1e5, 1e5], [1e9, 1e9, 1e9], [5, 5, 5e4]]
)
@pytest.mark.parametrize("pbc", [True, False])
def test_atoms_spread_far_over_any_shape(size, pbc):
    x = torch.rand(1000, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * torch.tensor(
        size
    )
    x[::2] = x[1::2] + torch.tensor([0.5, 0.25, 1.0])
    graph = neighbors(x, 2.0, torch.diag(torch.tensor(size)), pbc)
    check_order(graph, 1000)
    found = set(edges(graph))
    assert len(found) == graph.num_edges >= 990
    assert found == {(j, i, -a, -b, -c) for i, j, a, b, c in found}
    pairs = {(i, j) for i, j, *_ in found}
    assert all((i, i + 1) in pairs for i in range(0, 1000, 2))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_same_input_gives_the_same_order(algorithm):
    atoms = random_atoms(11, 400, [14.0, 15.0, 16.0, 80, 85, 100], True)
    arguments = torch.tensor(atoms.positions), 5.0, torch.tensor(atoms.cell.array), True
    first = neighbors(*arguments, algorithm=algorithm)
    threads = torch.get_num_threads()
    try:
        for number in (1, 2, 3):
            torch.set_num_threads(number)
            for a, b in zip(first, neighbors(*arguments, algorithm=algorithm), strict=True):
                assert torch.equal(a, b)
    finally:
        torch.set_num_threads(threads)


@pytest.mark.parametrize("at_once", [1, 7, 1000])
def test_cells_in_chunks_of_any_size(at_once, monkeypatch):
    atoms = random_atoms(12, 30, [5.0, 6.0, 7.0, 80, 85, 100], (True, True, False))
    expected = by_ase(atoms, 4.0)
    monkeypatch.setattr("localgraph.search.cell_list.CANDIDATES_AT_ONCE", {"cpu": at_once})
    assert ours(atoms, 4.0, algorithm="cells") == expected


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("pbc", [True, False])
def test_half_lists_hold_each_pair_once(algorithm, pbc):
    atoms = random_atoms(13, 25, [4.0, 5.0, 6.0, 70, 80, 75], pbc)
    full = ours(atoms, 4.6, algorithm=algorithm)
    half = ours(atoms, 4.6, algorithm=algorithm, half=True)
    assert all(i < j or (i == j and s > [0, 0, 0]) for i, j, *s in half)
    assert sorted(half + [(j, i, -a, -b, -c) for i, j, a, b, c in half]) == full


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_cutoffs_per_ordered_pair(algorithm):
    atoms = random_atoms(14, 40, [6.0, 7.0, 8.0, 70, 80, 75], (True, True, False))
    types = torch.arange(40) % 3
    table = torch.tensor([[3.0, 5.0, 1.0], [4.0, 2.0, 6.0], [0.5, 3.5, 4.5]])
    expected = []
    for a in range(3):
        for b in range(3):
            expected += [e for e in by_ase(atoms, float(table[a, b])) if (e[0] % 3, e[1] % 3) == (a, b)]
    assert ours(atoms, table, types=types, algorithm=algorithm) == sorted(expected)
    assert ours(atoms, torch.full((3, 3), 4.0), types=types) == by_ase(atoms, 4.0)
    symmetric = torch.minimum(table, table.T)
    half = ours(atoms, symmetric, types=types, half=True)
    assert 2 * len(half) == len(ours(atoms, symmetric, types=types))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_float32_is_searched_as_the_float64_it_stands_for(algorithm):
    atoms = random_atoms(15, 60, [7.0, 8.0, 9.0, 70, 80, 75], True)
    x = torch.tensor(atoms.positions, dtype=torch.float32)
    cell = torch.tensor(atoms.cell.array, dtype=torch.float32)
    atoms = Atoms(atoms.symbols, x.double().numpy(), cell=cell.double().numpy(), pbc=True)
    graph = neighbors(x, 4.0, cell, True, algorithm=algorithm)
    assert edges(graph) == by_ase(atoms, 4.0)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_distances_equal_to_the_cutoff_are_left_out_in_both_directions(algorithm):
    x = torch.tensor([[0.1, 0.7, 0.3]], dtype=torch.float64)
    cell = torch.eye(3, dtype=torch.float64)
    assert neighbors(x, 2.0, cell, (True, False, False), algorithm=algorithm).shifts[:, 0].tolist() in (
        [1, -1],
        [-1, 1],
    )


def test_open_axes_do_not_read_their_vectors():
    atoms = random_atoms(16, 20, [7.0, 8.0, 9.0, 70, 80, 75], (True, False, False))
    x, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    expected = edges(neighbors(x, 4.0, cell, atoms.pbc))
    cell[1:] = 0
    assert edges(neighbors(x, 4.0, cell, atoms.pbc)) == expected
    cell[2] = cell[0]
    assert edges(neighbors(x, 4.0, cell, atoms.pbc)) == expected


def test_positions_that_require_grad_are_searched_and_left_alone():
    x = torch.randn(5, 3, requires_grad=True)
    graph = neighbors(x, 3.0)
    assert x.grad is None and not any(t.requires_grad for t in graph)


@pytest.mark.slow
def test_a_hundred_thousand_atoms():
    atoms = random_atoms(17, 100_000, [100.0, 100.0, 105.0, 90, 85, 100], (True, False, True))
    cutoff = 2.6
    i, j, shifts = matscipy_list("ijS", atoms=atoms, cutoff=cutoff)
    expected = np.column_stack([i, j, shifts])
    expected = expected[np.lexsort(expected.T[::-1])]
    for algorithm in ALGORITHMS:
        graph = neighbors(
            torch.tensor(atoms.positions),
            cutoff,
            torch.tensor(atoms.cell.array),
            torch.tensor(atoms.pbc),
            algorithm=algorithm,
        )
        check_order(graph, 100_000)
        got = torch.cat([graph.edge_index.T, graph.shifts], 1).numpy()
        assert len(got) > 500_000
        assert np.array_equal(got[np.lexsort(got.T[::-1])], expected)


X, EYE = torch.zeros(2, 3), 5 * torch.eye(3)
BAD = [
    (
        "positions must be a floating-point tensor, got torch.int64",
        (torch.zeros(2, 3, dtype=torch.int64), 2.0),
        {},
    ),
    ("positions must be a floating-point tensor, got list", ([[0.0, 0, 0]], 2.0), {}),
    (r"positions must have shape \(N, 3\), got \(3,\)", (X[0].new_zeros(3), 2.0), {}),
    (
        "positions must be finite, got .*nan.* for atom 1",
        (torch.tensor([[0, 0, 0], [0, torch.nan, 0]]), 2.0),
        {},
    ),
    ("positions must be finite, got .*inf.* for atom 0", (torch.full((1, 3), torch.inf), 2.0), {}),
    ("cutoff must be a finite number > 0, got 0.0", (X, 0.0), {}),
    ("cutoff must be a finite number > 0, got -1.0", (X, -1), {}),
    ("cutoff must be a finite number > 0, got nan", (X, float("nan")), {}),
    ("cutoff must be a finite number > 0, got inf", (X, torch.tensor(torch.inf)), {}),
    (r"cutoff must be a number or a \(T, T\) table", (X, torch.ones(2)), {}),
    ("cutoff must be finite numbers > 0", (X, torch.tensor([[1.0, 0], [1, 1]])), {"types": torch.zeros(2)}),
    ("types must be given with a table", (X, torch.ones(2, 2)), {}),
    (
        r"types must have one type per atom, shape \(2,\), got \(3,\)",
        (X, torch.ones(2, 2)),
        {"types": torch.zeros(3).long()},
    ),
    (
        r"types must be indices in \[0, 2\).*\[0, 2\]",
        (X, torch.ones(2, 2)),
        {"types": torch.tensor([0, 2])},
    ),
    (
        "types must be an integer tensor, got torch.float32",
        (X, torch.ones(2, 2)),
        {"types": torch.zeros(2)},
    ),
    ("cell must be given where pbc is", (X, 2.0), {"pbc": True}),
    (r"cell must have shape \(3, 3\) or \(B, 3, 3\), got \(3,\)", (X, 2.0, torch.ones(3)), {}),
    ("cell must be finite", (X, 2.0, torch.full((3, 3), torch.nan), True), {}),
    (
        "cell must be linearly independent vectors along the periodic axes",
        (X, 2.0, torch.zeros(3, 3), True),
        {},
    ),
    (
        "cell must be linearly independent .*True, False, True",
        (X, 2.0, torch.ones(3, 3), (True, False, True)),
        {},
    ),
    (
        "cell must be linearly independent .*True, False, False",
        (X, 2.0, torch.zeros(3, 3), (True, False, False)),
        {},
    ),
    ("for structure 1", (X, 2.0, torch.stack([EYE, 0 * EYE]), True), {"batch": torch.tensor([0, 1])}),
    ("cell must have one per structure", (X, 2.0, EYE[None], True), {"batch": torch.tensor([0, 1])}),
    (r"pbc must have shape \(\), \(3,\) or \(1, 3\), got \(2,\)", (X, 2.0, EYE, (True, False)), {}),
    ("batch must be an int64 tensor", (X, 2.0), {"batch": torch.zeros(2)}),
    (
        r"batch must have one index per atom, shape \(2,\), got \(1,\)",
        (X, 2.0),
        {"batch": torch.zeros(1).long()},
    ),
    ("batch must be indices ≥ 0 that never decrease", (X, 2.0), {"batch": torch.tensor([1, 0])}),
    (
        "half must be a symmetric table",
        (X, torch.tensor([[1.0, 2], [3, 4]])),
        {"types": torch.tensor([0, 1]), "half": True},
    ),
    (
        'algorithm must be "auto", "vesin" or "cells", got "brute"'.replace('"brute"', "'brute'"),
        (X, 2.0),
        {"algorithm": "brute"},
    ),
    ("positions must lie within 262144 cells", (X + 1e7, 2.0, EYE, True), {}),
]


@pytest.mark.parametrize("message, arguments, keywords", BAD, ids=range(len(BAD)))
def test_errors(message, arguments, keywords):
    with pytest.raises(ValueError, match=message):
        neighbors(*arguments, **keywords)


@pytest.mark.parametrize("pbc", [True, [True, False, True], False])
def test_the_search_for_gpus_finds_what_the_one_for_cpus_finds(pbc):
    """On a CPU, where vesin takes tensors too."""
    generator = torch.Generator().manual_seed(3)
    cell = torch.tensor([[4.0, 0, 0], [1.0, 5.0, 0], [-1.0, 0.5, 6.0]], dtype=torch.float64)
    batch = torch.tensor([0] * 12 + [1] + [2] * 9)
    positions = (2 * torch.rand(22, 3, generator=generator, dtype=torch.float64) - 0.5) @ cell
    expected = neighbors(positions, 4.5, cell.expand(3, 3, 3), pbc, batch=batch, algorithm="vesin")
    cells, periodic = check_cells(cell.expand(3, 3, 3), pbc, batch)
    graph = vesin_cuda.search(measure(positions, cells, periodic, batch), 4.5)
    check_order(graph, 22)
    assert edges(graph) == edges(expected) and len(edges(graph)) > 40
    rows = torch.cat([graph.edge_index.T, graph.shifts], 1).tolist()
    assert rows == sorted(rows)  # whatever order vesin's threads find them in


def test_the_search_for_gpus_without_edges_and_without_atoms():
    for count in (0, 2):
        positions = 50.0 * torch.arange(3 * count, dtype=torch.float64).reshape(count, 3)
        batch = torch.zeros(count, dtype=torch.int64)
        graph = vesin_cuda.search(measure(positions, *check_cells(None, False, batch), batch), 2.0)
        check_order(graph, count)
        assert graph.num_edges == 0
