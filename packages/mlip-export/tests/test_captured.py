"""Recordings at a fixed capacity, without a GPU: what is replayed there is called again here.

That these give what CUDA graphs give is shown in test_gpu.py, on a GPU.
"""

import dataclasses
import threading

import pytest
import torch

import mlip_export.captured
from mlip_export.ase import Calculator
from mlip_export.captured import ATOM_STEP, EDGE_STEP, FEW, Captured, PaddedInputs, capacity_for
from mlip_export.chunks import evaluate
from mlip_export.graphs import Inputs, cluster
from mlip_export.loaded import shared_function
from mlip_export.recording import CaptureError, Repeated
from mlip_export.runtime import EdgePotential

CPU = torch.device("cpu")
SIZES = {"few": 20, "many": 130, "more": 300, "one": 1, "pair": 2}


@pytest.fixture(scope="module")
def plain(water_pt2):
    return mlip_export.load(water_pt2)


@pytest.fixture
def captured(water_pt2, plain):
    function = shared_function(water_pt2, CPU, single_threaded=True)
    return Captured(function, plain.metadata, CPU, Repeated)


@pytest.fixture
def padded(captured, plain):
    return EdgePotential(captured, plain.metadata, CPU)


@pytest.fixture
def graph(plain):
    def made(atoms, seed=0, **options):
        return cluster(plain.cutoffs, atoms, seed=seed, **options)

    return made


def assert_equal(found, expected):
    """Products of more rows may be summed in another order: rounding of float64, and no more."""
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape and a.dtype == b.dtype
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "edges, atoms", [(0, 1), (1, 2), (254, 16), (17_280, 192), (468_000, 5184), (5, 10**6)]
)
def test_capacity(edges, atoms):
    found = capacity_for(edges, atoms)
    assert edges < found.edges <= 1.03 * edges + EDGE_STEP + 1 and found.edges % EDGE_STEP == 0
    assert atoms <= found.atoms <= 1.03 * atoms + ATOM_STEP and found.atoms % ATOM_STEP == 0
    assert found.padding * found.per_row >= 2 * (found.edges - edges)
    assert found.per_row <= max(FEW, edges / atoms + 1)


def test_padding_is_a_sorted_graph_of_its_own():
    inputs, capacity = PaddedInputs(capacity_for(300, 20), 3.5, CPU), capacity_for(300, 20)
    vectors, index, types = inputs.tensors
    assert torch.equal(index[0], index[1]) and bool((index[0].diff() >= 0).all())
    assert capacity.atoms <= int(index.min()) and int(index.max()) == capacity.rows - 1 == len(types) - 1
    assert bool((vectors.norm(dim=1) == 7.0).all())
    counts = index[0].bincount(minlength=capacity.rows)[capacity.atoms :]
    assert bool((counts[1:] <= capacity.per_row).all()) and int(counts.sum()) == capacity.edges


@pytest.mark.parametrize("atoms", SIZES.values(), ids=SIZES)
def test_results_are_those_without_padding(padded, plain, graph, atoms):
    inputs = graph(atoms, isolated=3)
    assert_equal(padded(*inputs), plain(*inputs))


def test_no_edges_and_no_atoms(padded, captured, plain, graph):
    inputs = graph(1, isolated=5)
    assert inputs.edge_vectors.shape[0] == 0
    assert_equal(padded(*inputs), plain(*inputs))
    nothing = Inputs(torch.zeros(0, 3).double(), torch.zeros(2, 0).long(), torch.zeros(0).long())
    assert [t.shape[0] for t in padded(*nothing)] == [0, 0] and captured.recordings == 1


def test_nothing_stale(padded, captured, plain, graph):
    """Graphs of any size, in any order, by one recording: edges, atoms and types of the last one are gone."""
    graphs = [graph(atoms, seed) for seed, atoms in enumerate((130, 20, 128, 1, 2, 129, 60, 130))]
    for inputs in graphs:
        types = (inputs.types + 1) % 2
        for given in (inputs, Inputs(inputs.edge_vectors * 1.01, inputs.edge_index, types)):
            assert_equal(padded(*given), plain(*given))
    assert captured.recordings == 1
    blank = PaddedInputs(captured.capacity, plain.cutoff, CPU).tensors
    padded(*graph(1))
    for place, empty in zip(captured._inputs.tensors, blank, strict=True):
        assert torch.equal(
            place[..., 1:] if place.ndim == 1 else place, empty[..., 1:] if empty.ndim == 1 else empty
        )


def test_grows(padded, captured, plain, graph):
    seen = []
    for atoms in (20, 21, 60, 61, 200):
        inputs = graph(atoms)
        assert_equal(padded(*inputs), plain(*inputs))
        seen.append(captured.recordings)
    assert seen == [1, 1, 2, 2, 3]
    assert captured.capacity == capacity_for(inputs.edge_vectors.shape[0], 200)


def test_more_atoms_than_capacity_with_the_edges_of_before(padded, captured, plain, graph):
    inputs = graph(20)
    padded(*inputs)
    more = Inputs(inputs.edge_vectors, inputs.edge_index, torch.cat([inputs.types, torch.ones(40).long()]))
    assert_equal(padded(*more), plain(*more))
    assert captured.recordings == 2 and captured.capacity.atoms >= 60


def test_fills_its_capacity(padded, captured, plain, graph):
    """With one slot free, with none, and one edge too many."""
    inputs = graph(130)
    padded(*inputs)
    edges, slots = inputs.edge_vectors.shape[0], captured.capacity.edges
    for extra in (slots - edges - 1, slots - edges, slots - edges + 1):
        last = inputs.edge_index[:, -1:].expand(2, extra)
        vectors = torch.cat(
            [inputs.edge_vectors, inputs.edge_vectors[-1:] * torch.linspace(0.9, 1.1, extra)[:, None]]
        )
        fuller = Inputs(vectors, torch.cat([inputs.edge_index, last], 1).contiguous(), inputs.types)
        assert_equal(padded(*fuller), plain(*fuller))
    assert captured.recordings == 2


def test_shrinks_where_graphs_stay_small(padded, captured, plain, graph, monkeypatch):
    monkeypatch.setattr(mlip_export.captured, "PATIENCE", 5)
    large, small = graph(300), graph(20)
    padded(*large)
    for _ in range(4):
        padded(*small)
    padded(*large)  # the count begins again
    assert captured.recordings == 1
    for _ in range(5):
        found = padded(*small)
    assert captured.recordings == 2 and captured.capacity == capacity_for(small.edge_vectors.shape[0], 20)
    assert_equal(found, plain(*small))


def test_results_are_the_callers(padded, graph):
    first = padded(*graph(60))
    kept = [t.clone() for t in first]
    padded(*graph(60, seed=1))
    for a, b in zip(first, kept, strict=True):
        assert torch.equal(a, b)
        a.zero_()
    again = padded(*graph(60))
    assert all(torch.equal(a, b) for a, b in zip(again, kept, strict=True))


def test_called_where_padding_exceeds_the_limits_of_the_code(captured, plain, graph):
    inputs = graph(60)
    limit = inputs.edge_vectors.shape[0] + 2
    captured._metadata = dataclasses.replace(plain.metadata, max_edges=limit)
    assert_equal(EdgePotential(captured, captured._metadata, CPU)(*inputs), plain(*inputs))
    assert captured.recordings == 0


def test_chunks(padded, captured, plain, graph):
    inputs = graph(130, isolated=4)
    found = evaluate(padded, *inputs, 2, 700, padded.limits)
    assert captured.recordings >= 1
    assert_equal(found, plain(*inputs))


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad, torch.enable_grad])
def test_the_caller_may_change_its_mode(padded, plain, graph, mode):
    with mode():
        first = graph(60)
        padded(*first)
    second = graph(61, seed=1)
    assert_equal(padded(*second), plain(*second))
    with mode():
        assert_equal(padded(*second), plain(*second))


def test_threads_take_turns(padded, plain, graph):
    graphs = [graph(40 + k, seed=k) for k in range(4)]
    expected, wrong = [plain(*inputs) for inputs in graphs], []

    def run(k):
        for _ in range(20):
            try:
                assert_equal(padded(*graphs[k]), expected[k])
            except AssertionError as error:
                wrong.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda e, g, edges: (e * 1.001, g), "energies that differ by"),
        (
            lambda e, g, edges: (e, torch.cat([g[:1] + 0.01, g[1:]])),
            "edge forces that differ by 0.01 in a padded",
        ),
        (lambda e, g, edges: (e, torch.cat([g[:-1], g[-1:] + 1e-9])), "forces on edges beyond its cutoff"),
        (
            lambda e, g, edges: (e, torch.cat([g[:-1], g[-1:] * torch.nan])),
            "forces on edges beyond its cutoff",
        ),
    ],
    ids=["energies", "forces", "padding", "NaN of padding"],
)
def test_padding_must_change_nothing(water_pt2, plain, graph, change, message):
    """As for a model that does not vanish at its cutoff, or a capture that misses a kernel."""
    function, inputs = shared_function(water_pt2, CPU), graph(60)
    edges = inputs.edge_vectors.shape[0]

    def wrong(*given):
        results = function(*given)
        return results if given[0].shape[0] == edges else change(*results, edges)

    potential = EdgePotential(Captured(wrong, plain.metadata, CPU, Repeated), plain.metadata, CPU)
    for _ in range(2):  # nothing is kept of it
        with pytest.raises(CaptureError, match=message):
            potential(*inputs)


def test_results_that_are_not_finite_are_named_so(water_pt2, plain, graph):
    function = shared_function(water_pt2, CPU)

    def wild(*given):
        energies, edge_forces = function(*given)
        edge_forces[0] = torch.nan
        return energies, edge_forces

    potential = EdgePotential(Captured(wild, plain.metadata, CPU, Repeated), plain.metadata, CPU)
    with pytest.raises(mlip_export.GeometryError, match="finite"):
        potential(*graph(60))


def test_a_failed_recording_is_made_again(water_pt2, plain, graph):
    class Fails(Repeated):
        failures = 1

        def __init__(self, *given):
            if Fails.failures:
                Fails.failures -= 1
                raise CaptureError("cuda_graph must be False here, got an error")
            super().__init__(*given)

    captured = Captured(shared_function(water_pt2, CPU), plain.metadata, CPU, Fails)
    potential, inputs = EdgePotential(captured, plain.metadata, CPU), graph(60)
    with pytest.raises(CaptureError):
        potential(*inputs)
    assert_equal(potential(*inputs), plain(*inputs))


def test_single_threaded_functions_are_others(water_pt2):
    shared = [shared_function(water_pt2, CPU, single) for single in (False, True, False, True)]
    assert shared[0] is shared[2] and shared[1] is shared[3] and shared[0] is not shared[1]


def test_molecular_dynamics_in_ase(water_pt2, padded, captured, make_water):
    """The same forces and stresses along a path with a moving cell, by one recording."""
    plain, recorded = Calculator(water_pt2), Calculator(water_pt2)
    recorded.members.potentials = (padded,)
    generator = torch.Generator().manual_seed(0)
    atoms = make_water(2)
    for step in range(12):
        atoms.positions += 0.05 * torch.randn(len(atoms), 3, generator=generator).double().numpy()
        atoms.set_cell(atoms.cell.array * (1.0 + 0.002 * (-1) ** step), scale_atoms=True)
        for calculator in (plain, recorded):
            calculator.calculate(atoms, ["energy", "forces", "stress"])
        for name in ("energy", "forces", "stress"):
            torch.testing.assert_close(
                *(torch.as_tensor(c.results[name]) for c in (plain, recorded)), rtol=1e-12, atol=1e-12
            )
    assert captured.recordings <= 2


@pytest.mark.parametrize("load", [mlip_export.load, Calculator], ids=["load", "ase"])
def test_a_model_for_a_cpu_is_refused(water_pt2, load):
    with pytest.raises(ValueError, match="cuda_graph must be False for a model for cpu, got True"):
        load(water_pt2, cuda_graph=True)
