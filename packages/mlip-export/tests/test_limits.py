"""Limits of one call: indices, memory, and what hosts do at them."""

import dataclasses
import json

import numpy as np
import pytest
import torch

import mlip_export
from mlip_export import chunks
from mlip_export._limits import INDEX_LIMIT, Widths, largest, memory, peak_bytes, widths
from mlip_export._trace import trace
from mlip_export.ase import Calculator
from mlip_export.chunks import Limits, edges_per_call, evaluate
from mlip_export.graphs import cluster, measured_graphs, traced_graph

CUDA = torch.device("cuda", 0)

INPUT = """
units metal
read_data data
pair_style allegro {settings}
pair_coeff * * {model} H O
thermo_style custom step pe
thermo_modify format float %20.14g
run 0
write_dump all custom dump id fx fy fz modify format float %22.16g
"""


@pytest.fixture
def edges():
    return cluster(torch.tensor([[2.5, 3.5], [3.5, 3.5]]), 60, isolated=2, seed=8)


@pytest.fixture
def potential(water_pt2):
    return mlip_export.load(water_pt2)


@pytest.fixture
def limited(water_pt2, changed):
    """A function that copies the exported model with other limits."""
    return lambda **limits: changed(water_pt2, **{k: json.dumps(v) for k, v in limits.items()})


@pytest.mark.parametrize("width", [16, 40])
def test_widths_of_a_program(toy, width):
    model = toy(("H", "O"), 3.5, width=width)
    for p in model.parameters():
        p.requires_grad_(False)
    example = traced_graph(model.cutoffs, torch.device("cpu"))
    assert widths(trace(model, example), example) == (3 * width, 3 * width)
    bounded = trace(model, example, index_limit=3 * width * 100_000)
    assert {r.upper for r in bounded.range_constraints.values()} == {100_000}


def test_a_size_that_is_not_linear_is_refused():
    def pairs(edge_vectors, edge_index, types):
        square = (types[:, None] * types[None, :]).double().sum(1)
        return square.index_add(0, edge_index[0], edge_vectors.square().sum(1))

    example = traced_graph(torch.full((1, 1), 3.0), torch.device("cpu"))
    with pytest.raises(ValueError, match="tensors linear in edges and atoms"):
        widths(trace(pairs, example), example)


def test_kernels_of_gpus_have_32_bit_indices():
    assert largest(Widths(384, 2304), "cuda") == (INDEX_LIMIT // 384, INDEX_LIMIT // 2304)
    assert largest(Widths(384, 2304), "cpu") == ((2**63 - 1) // 384, (2**63 - 1) // 2304)
    assert INDEX_LIMIT + 2**14 < 2**31  # the last block of a kernel goes past the end


def test_peak_memory():
    def call():
        first = torch.zeros(1000)
        second = first + 1  # 8,000 bytes at once
        del first
        return second * 2

    assert 8000 <= peak_bytes(call, torch.device("cpu")) < 8100


def test_memory_per_edge_and_atom_bounds_that_of_graphs(potential, water_model):
    recorded = potential.metadata.bytes_per_edge, potential.metadata.bytes_per_atom
    function = potential._function
    per_edge, per_atom = memory(function, measured_graphs(water_model.cutoffs, torch.device("cpu")))
    assert per_edge == pytest.approx(recorded[0], rel=0.2) and per_atom == pytest.approx(recorded[1], rel=0.2)
    for atoms, neighbors in ((2000, 8.0), (1000, 40.0)):
        inputs = cluster(water_model.cutoffs, atoms, neighbors=neighbors, seed=3)
        count = inputs.edge_vectors.shape[0]
        peak = peak_bytes(lambda inputs=inputs: function(*inputs), torch.device("cpu"))
        assert 0.5 < peak / (per_edge * count + per_atom * atoms) < 1.02


def test_a_call_beyond_the_indices_is_refused(limited, edges):
    potential = mlip_export.load(limited(max_edges=100, max_atoms=1000))
    with pytest.raises(
        ValueError, match=f"at most 100 edges and 1000 atoms in one call, got {len(edges[0])}"
    ):
        potential(*edges)
    potential = mlip_export.load(limited(max_edges=10**6, max_atoms=61))
    with pytest.raises(ValueError, match=r"61 atoms in one call, got .* and 62"):
        potential(*edges)


@pytest.mark.parametrize("limits", [{"max_edges": 150}, {"max_atoms": 9}, {"max_edges": 150, "max_atoms": 9}])
def test_ase_keeps_within_the_indices(water_pt2, limited, make_water, limits):
    atoms = make_water(3)
    here = {"max_edges": 10**6, "max_atoms": 10**6, "edges_per_call": 10**6} | limits
    whole, parts = Calculator(water_pt2), Calculator(limited(**here))
    torch.testing.assert_close(whole.get_forces(atoms), parts.get_forces(atoms), rtol=0, atol=1e-11)
    assert whole.get_potential_energy(atoms) == pytest.approx(parts.get_potential_energy(atoms), abs=1e-9)


def test_one_center_beyond_the_indices_is_an_error(limited, make_water):
    with pytest.raises(ValueError, match="at most 5 edges"):
        Calculator(limited(max_edges=5, edges_per_call=5)).get_forces(make_water(3))


def test_edges_per_call(potential):
    metadata = dataclasses.replace(potential.metadata, max_edges=1000, edges_per_call=900)
    assert edges_per_call(None, metadata) == 900 and edges_per_call(1000, metadata) == 1000
    for wrong in (0, 1001):
        with pytest.raises(ValueError, match=f"max_edges must be at least 1 and at most 1000, got {wrong}"):
            edges_per_call(wrong, metadata)


def test_free_memory_of_a_gpu_limits_a_call(potential, monkeypatch):
    metadata = dataclasses.replace(
        potential.metadata, max_edges=10**6, max_atoms=10**6, bytes_per_edge=20_000, bytes_per_atom=1_000
    )
    asked = []
    monkeypatch.setattr(chunks, "free_bytes", lambda device: asked.append(device) or 10**9)
    monkeypatch.setattr(chunks, "failed_allocations", lambda device: 0)
    limits = Limits(metadata, CUDA)
    assert (limits.edges, limits.atoms) == (10**6, 10**6)
    limits.fit_memory()
    limits.fit_memory()
    assert (limits.edges, limits.atoms, asked) == (30_000, 200_000, [CUDA])
    cpu = Limits(metadata, torch.device("cpu"))
    cpu.fit_memory()
    assert (cpu.edges, cpu.atoms) == (10**6, 10**6)


class Small:
    """A device on which a call of more than so many edges or atoms runs out of memory."""

    def __init__(self, potential, edges, atoms, error):
        self.potential, self.edges, self.atoms, self.error = potential, edges, atoms, error
        self.calls, self.failures = [], 0

    def __call__(self, edge_vectors, edge_index, types):
        self.calls.append((len(edge_vectors), len(types)))
        if len(edge_vectors) > self.edges or len(types) > self.atoms:
            self.failures += 1
            raise self.error
        return self.potential(edge_vectors, edge_index, types)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("most", [(300, 10**6), (10**6, 12), (90, 12)])
def test_out_of_memory_halves_the_chunk(potential, edges, monkeypatch, most, device):
    whole = potential(*edges)
    # compiled code hides that memory was short: its error is any RuntimeError, but the allocator counts
    error = torch.OutOfMemoryError("short") if device == "cpu" else RuntimeError("API call failed")
    small = Small(potential, *most, error)
    monkeypatch.setattr(chunks, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(chunks, "failed_allocations", lambda device: small.failures)
    limits = Limits(potential.metadata, torch.device(device))
    energies, forces = evaluate(small, *edges, 2, None, limits)
    torch.testing.assert_close(energies, whole[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(forces, whole[1], rtol=0, atol=1e-12)
    assert 1 <= small.failures < 12
    calls, failures = len(small.calls), small.failures
    evaluate(small, *edges, 2, None, limits)
    assert small.failures == failures and len(small.calls) > calls  # it remembers


def test_other_errors_are_raised(potential, edges, monkeypatch):
    monkeypatch.setattr(chunks, "free_bytes", lambda device: 10**12)
    monkeypatch.setattr(chunks, "failed_allocations", lambda device: 3)
    small = Small(potential, 10, 10, RuntimeError("no kernel image"))
    with pytest.raises(RuntimeError, match="no kernel image"):
        evaluate(small, *edges, 2, None, Limits(potential.metadata, CUDA))
    assert small.failures == 1


def test_memory_for_less_than_one_center_is_an_error(potential, edges):
    small = Small(potential, 3, 10**6, torch.OutOfMemoryError("short"))
    with pytest.raises(torch.OutOfMemoryError):
        evaluate(small, *edges, 2, None, Limits(potential.metadata, torch.device("cpu")))


def test_chunks_are_aligned_to_16_bytes(potential, edges):
    """A compiled GPU program copies inputs that are not, with a warning for each."""
    starts = []

    def function(edge_vectors, edge_index, types):
        starts.append((edge_vectors.data_ptr() % 16, edge_index.data_ptr() % 16, types.data_ptr() % 16))
        return potential(edge_vectors, edge_index, types)

    evaluate(function, *edges, 2, 31)
    assert len(starts) > 10 and set(starts) == {(0, 0, 0)}


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize(
    "limits", [{"max_edges": 60}, {"max_atoms": 7}, {"max_edges": 60, "max_atoms": 7}], ids=str
)
def test_lammps_keeps_within_the_indices(lammps, water_pt2, limited, make_water, limits, ranks):
    atoms = make_water(3)
    here = {"max_edges": 10**6, "max_atoms": 10**6, "edges_per_call": 10**6} | limits
    expected = Calculator(water_pt2)
    out = lammps(INPUT.format(settings="", model=limited(**here)), atoms, ranks)
    assert out.thermo["PotEng"][0] == pytest.approx(expected.get_potential_energy(atoms), abs=1e-8)
    found = torch.tensor(np.stack([out.dump[name] for name in ("fx", "fy", "fz")], 1))
    torch.testing.assert_close(found, torch.from_numpy(expected.get_forces(atoms)), rtol=0, atol=1e-6)


def test_lammps_refuses_what_the_indices_cannot_hold(lammps, limited, make_water):
    atoms, model = make_water(3), limited(max_edges=5, edges_per_call=5)
    with pytest.raises(RuntimeError, match="edges must be at most 5, which the model's code indexes, got 6"):
        lammps(INPUT.format(settings="edges 6", model=model), atoms)
    with pytest.raises(RuntimeError, match="neighbors of one atom must be at most 5, got"):
        lammps(INPUT.format(settings="", model=model), atoms)
