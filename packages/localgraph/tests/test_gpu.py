"""Neighbor lists and sums on a GPU against the CPU.

``LOCALGRAPH_GPU_TESTS_ON=cpu`` runs them on the CPU, to check the tests themselves.
"""

import os

import pytest
import torch

import localgraph
from localgraph import VerletList, neighbors

DEVICE = os.environ.get("LOCALGRAPH_GPU_TESTS_ON", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device")]


def system(seed, atoms=40):
    """Random positions in a random cell, periodic along some axes."""
    generator = torch.Generator().manual_seed(seed)
    cell = torch.diag(4 + 4 * torch.rand(3, dtype=torch.float64, generator=generator))
    cell = cell + 0.8 * torch.rand(3, 3, dtype=torch.float64, generator=generator)
    positions = torch.rand(atoms, 3, dtype=torch.float64, generator=generator) @ cell
    return positions, cell, [bool(seed >> k & 1) for k in range(3)]


def rows(vectors, index):
    """Edges as sorted rows of center, neighbor and rounded vector."""
    table = torch.cat([index.T.double(), (vectors * 1e6).round()], 1).cpu()
    return sorted(map(tuple, table.tolist()))


@pytest.mark.parametrize("seed", range(16))
def test_edges(seed):
    positions, cell, pbc = system(seed)
    here = neighbors(positions, 3.0, cell=cell, pbc=pbc)
    there = neighbors(positions.to(DEVICE), 3.0, cell=cell.to(DEVICE), pbc=pbc)
    assert there.edge_index.device.type == DEVICE
    a = rows(localgraph.edge_vectors(positions, here, cell), here.edge_index)
    b = rows(localgraph.edge_vectors(positions.to(DEVICE), there, cell.to(DEVICE)), there.edge_index)
    assert a == b and len(a) > 10


@pytest.mark.parametrize("seed", range(8))
def test_edges_by_vesin(seed):
    positions, cell, pbc = system(seed)
    given = positions.to(DEVICE), 3.0, cell.to(DEVICE), pbc
    by_cells, by_vesin = (neighbors(*given, algorithm=name) for name in ("cells", "vesin"))
    assert by_vesin.edge_index.device.type == by_vesin.shifts.device.type == DEVICE
    a, b = (rows(localgraph.edge_vectors(given[0], g, given[2]), g.edge_index) for g in (by_cells, by_vesin))
    assert a == b and len(a) > 10


def test_a_moving_list():
    positions, cell, _ = system(7)
    lists = {
        d: VerletList(torch.tensor([[3.0]], dtype=torch.float64, device=d), 0.4) for d in ("cpu", DEVICE)
    }
    generator = torch.Generator().manual_seed(1)
    for _ in range(6):
        found = []
        for device, edges in lists.items():
            types = torch.zeros(len(positions), dtype=torch.int64, device=device)
            found.append(rows(*edges.update(positions.to(device), cell.to(device), True, types)))
        assert found[0] == found[-1]
        positions = positions + 0.1 * torch.randn(positions.shape, dtype=torch.float64, generator=generator)
        cell = cell * 1.002


def test_forces_and_virials():
    positions, cell, _ = system(7)
    graph = neighbors(positions, 3.0, cell=cell, pbc=True)
    r = localgraph.edge_vectors(positions, graph, cell)
    g = torch.sin(r)
    for function, given in (
        (localgraph.forces, (g, graph.edge_index, len(positions))),
        (localgraph.virial, (g, r, graph.edge_index, torch.zeros(len(positions), dtype=torch.int64), 1)),
    ):
        placed = [t.to(DEVICE) if isinstance(t, torch.Tensor) else t for t in given]
        torch.testing.assert_close(function(*placed).cpu(), function(*given), rtol=1e-12, atol=1e-12)
