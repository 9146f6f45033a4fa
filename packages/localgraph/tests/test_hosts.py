"""Atoms and torch-sim states: the same edges as from their numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.build import bulk, molecule
from ase.neighborlist import neighbor_list

from localgraph import batch, edge_vectors, from_pairs, neighbors, row_offsets
from localgraph.hosts.ase import atoms_neighbors, from_atoms
from localgraph.hosts.torchsim import from_state, state_neighbors

STRUCTURES = [
    bulk("Si", cubic=True),
    Atoms("H", cell=[3, 3, 3]),
    bulk("NaCl", "rocksalt", a=5.64),
    Atoms(
        "OHH",
        np.array([[0.0, 0, 0], [0.9, 0.1, 0], [-0.4, 7.7, 0.2]]),
        cell=[[8, 0, 0], [1, 8, 0], [2, 3, 8]],
    ),
]
for structure in STRUCTURES:
    structure.pbc = True


def state_of(structures):
    """What torch-sim holds: concatenated positions, cells in columns, one pbc for all, an index per atom."""
    return SimpleNamespace(
        positions=torch.tensor(np.concatenate([s.positions for s in structures])),
        cell=torch.tensor(np.stack([s.cell.array.T for s in structures])),
        pbc=True,
        system_idx=torch.repeat_interleave(torch.tensor([len(s) for s in structures])),
    )


def test_atoms():
    for atoms in [*STRUCTURES, molecule("C6H6"), Atoms()]:
        x, cell, pbc = from_atoms(atoms)
        assert (x.dtype, cell.dtype, pbc.dtype) == (torch.float64, torch.float64, torch.bool)
        for a, b in zip(atoms_neighbors(atoms, 4.0), neighbors(x, 4.0, cell, pbc), strict=True):
            assert torch.equal(a, b)
        x += 1
        assert np.array_equal(atoms.positions + 1, x)  # the tensor is a copy, and only the copy moved
    assert from_atoms(STRUCTURES[0], torch.float32).positions.dtype == torch.float32
    assert (
        atoms_neighbors(STRUCTURES[0], 4.0, half=True).num_edges * 2
        == atoms_neighbors(STRUCTURES[0], 4.0).num_edges
    )


def test_pairs_from_elsewhere():
    i, j, shifts = (torch.from_numpy(a) for a in neighbor_list("ijS", STRUCTURES[2], 4.0))
    order = torch.randperm(len(i), generator=torch.Generator().manual_seed(0))
    graph = from_pairs(i[order], j[order], shifts[order], len(STRUCTURES[2]))
    expected = atoms_neighbors(STRUCTURES[2], 4.0)
    assert [t.dtype for t in graph] == [t.dtype for t in expected]
    assert torch.equal(graph.edge_index[0], expected.edge_index[0])
    assert torch.equal(graph.offsets, expected.offsets)
    assert torch.equal(graph.offsets, row_offsets(i[order], len(STRUCTURES[2])))
    rows = [sorted(torch.cat([g.edge_index.T, g.shifts], 1).tolist()) for g in (graph, expected)]
    assert rows[0] == rows[1]
    empty = from_pairs(i[:0], j[:0], shifts[:0], 3)
    assert (empty.edge_index.shape, empty.offsets.tolist()) == ((2, 0), [0, 0, 0, 0])


def test_distances_are_those_of_atoms():
    atoms = STRUCTURES[3]
    x, cell, pbc = from_atoms(atoms)
    graph = neighbors(x, 3.0, cell, pbc)
    d = edge_vectors(x, graph, cell).norm(dim=1)
    i, j = graph.edge_index.numpy()
    assert len(i) == 6
    assert np.allclose(
        d, [atoms.get_distance(a, b, mic=True) for a, b in zip(i, j, strict=True)], rtol=0, atol=1e-12
    )


@pytest.mark.parametrize("algorithm", ["vesin", "cells"])
def test_states_are_batches(algorithm):
    state = state_of(STRUCTURES)
    joined, index = batch([atoms_neighbors(s, 3.5, algorithm=algorithm) for s in STRUCTURES])
    assert torch.equal(index, state.system_idx)
    graph = state_neighbors(state, 3.5, algorithm=algorithm)
    assert graph.num_edges > 50
    for a, b in zip(graph, joined, strict=True):
        assert torch.equal(a, b)
    x, cells, pbc, index = from_state(state)
    r = edge_vectors(x, graph, cells, index)
    assert float(r.norm(dim=1).max()) < 3.5
    assert bool(pbc)


def test_torch_sim_itself():
    torch_sim = pytest.importorskip("torch_sim")
    state = torch_sim.io.atoms_to_state(STRUCTURES, torch.device("cpu"), torch.float64)
    for a, b in zip(state_neighbors(state, 3.5), state_neighbors(state_of(STRUCTURES), 3.5), strict=True):
        assert torch.equal(a, b)
