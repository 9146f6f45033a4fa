"""EdgePotential's guards, chunks of centers, and moving edges."""

import pytest
import torch

import mlip_export
from mlip_export.chunks import chunk_bounds, evaluate
from mlip_export.committee import Members
from mlip_export.graphs import cluster


@pytest.fixture
def potential(water_pt2):
    return mlip_export.load(water_pt2)


@pytest.fixture
def edges(potential):
    return cluster(potential.cutoffs, 60, isolated=2, seed=8)


@pytest.mark.parametrize(
    "change, kind, message",
    [
        (
            lambda r, i, t: (r.float(), i, t),
            TypeError,
            "edge_vectors must have dtype torch.float64, got torch.float32",
        ),
        (
            lambda r, i, t: (r, i.int(), t),
            TypeError,
            "edge_index must have dtype torch.int64, got torch.int32",
        ),
        (lambda r, i, t: (r, i, t.int()), TypeError, "types must have dtype"),
        (
            lambda r, i, t: (r.T.contiguous().T, i, t),
            ValueError,
            "edge_vectors must be contiguous",
        ),
        (lambda r, i, t: (r, i.T.contiguous().T, t), ValueError, "edge_index must be contiguous"),
        (lambda r, i, t: (r[:-1], i, t), ValueError, r"edge_index must have shape \(2, "),
        (lambda r, i, t: (r.flatten(), i, t), ValueError, r"edge_vectors must have shape \(E, 3\)"),
        (lambda r, i, t: (r, i, t[:, None]), ValueError, r"types must have shape \(N,\)"),
        (lambda r, i, t: (r, i.flip(1).contiguous(), t), ValueError, "edge_index must be sorted by center"),
        (lambda r, i, t: (r, i + 1000, t), ValueError, "edge_index must be from 0 to 61"),
        (lambda r, i, t: (r, i, t + 1), ValueError, "types must be from 0 to 1, got 1 to 2"),
        (lambda r, i, t: (r * 1e-3, i, t), ValueError, "longer than 0.1 Å"),
        (lambda r, i, t: (r * float("nan"), i, t), ValueError, "must be finite"),
    ],
)
def test_guards(potential, edges, change, kind, message):
    with pytest.raises(kind, match=message):
        potential(*change(*edges))


@pytest.mark.parametrize("values", [(float("nan"),), (float("inf"), -float("inf"))])
def test_results_that_are_not_finite_are_refused(potential, edges, monkeypatch, values):
    def function(r, index, types):
        energies, g = torch.ones(len(types), dtype=torch.float64), torch.ones_like(r)
        g.view(-1)[: len(values)] = torch.tensor(values, dtype=torch.float64)
        return energies, g

    monkeypatch.setattr(potential, "_function", function)
    with pytest.raises(mlip_export.GeometryError, match="got NaN or infinity"):
        potential(*edges)


def test_a_call_reads_from_its_device_twice(potential, edges, monkeypatch):
    """Each read waits for a GPU: one before the compiled code, which checks no index, and one of its results."""
    reads = []
    for name in ("item", "tolist", "__bool__", "__int__", "__float__", "cpu", "numpy"):
        whole = getattr(torch.Tensor, name)

        def counted(self, *given, name=name, whole=whole):
            reads.append(name)
            return whole(self, *given)

        monkeypatch.setattr(torch.Tensor, name, counted)
    potential(*edges)
    assert reads == ["tolist", "__float__"]


def test_no_atoms_no_edges_and_unknown_elements(potential):
    none = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    energies, forces = potential(*none, torch.zeros(0, dtype=torch.int64))
    assert energies.shape == (0,) and forces.shape == (0, 3)
    energies, _ = potential(*none, torch.tensor([1, 0, 1]))
    assert energies.tolist() == [-0.5, -1.5, -0.5]
    assert potential.types_of(["O", "H"]).tolist() == [1, 0]
    with pytest.raises(ValueError, match=r"atoms must be among the types \['H', 'O'\], got also \['Xe'\]"):
        potential.types_of(["H", "Xe"])


@pytest.mark.parametrize("max_edges", [1, 7, 100, 10**6, None])
def test_chunks_change_nothing(potential, edges, max_edges):
    whole = potential(*edges)
    parts = evaluate(potential, *edges, 2, max_edges)
    torch.testing.assert_close(parts[0], whole[0], rtol=0, atol=1e-12)
    torch.testing.assert_close(parts[1], whole[1], rtol=0, atol=1e-12)


def test_chunk_bounds():
    offsets = torch.tensor([0, 3, 3, 7, 16, 17, 18, 18])
    assert chunk_bounds(offsets, 7) == [0, 3, 4, 7]
    assert chunk_bounds(offsets, 1) == [0, 1, 2, 3, 4, 5, 7]
    assert chunk_bounds(offsets, 100) == [0, 7]
    assert chunk_bounds(offsets[:1], 5) == [0]


def test_a_committee_needs_equal_members(potential, toy, tmp_path):
    with pytest.raises(ValueError, match="path must name at least one exported model"):
        Members([])
    other = mlip_export.EdgePotential(lambda *a: a, potential.metadata, torch.device("cpu"))
    other.type_names = ("O", "H")
    with pytest.raises(ValueError, match="for member 1"):
        Members([potential, other])
