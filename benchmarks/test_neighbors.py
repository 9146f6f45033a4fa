"""How long does a neighbor list of water at 6 Å take beside vesin, matscipy and ASE?"""

from __future__ import annotations

import pytest
import torch
from benchmarks.systems import CUTOFF, box

from localgraph import neighbors


def _vesin(x, cell):
    vesin = pytest.importorskip("vesin")
    threads = torch.get_num_threads()
    search = vesin.NeighborList(cutoff=CUTOFF, full_list=True, sorted=True, n_threads=threads)
    return lambda: search.compute(x, cell, True, "ijS")


def _matscipy(x, cell):
    module = pytest.importorskip("matscipy.neighbours")
    return lambda: module.neighbour_list("ijS", positions=x, cell=cell, pbc=[True] * 3, cutoff=CUTOFF)


def _ase(x, cell):
    module = pytest.importorskip("ase.neighborlist")
    return lambda: module.primitive_neighbor_list("ijS", [True] * 3, cell, x, CUTOFF)


OTHERS = {"vesin": _vesin, "matscipy": _matscipy, "ase": _ase}


@pytest.mark.parametrize("molecules_per_edge", [2, 4, 7], ids=["24", "192", "1029"])
@pytest.mark.parametrize("provider", ["localgraph", *OTHERS])
def test_search(timed, provider, molecules_per_edge):
    system = box(molecules_per_edge)
    if provider == "localgraph":
        call = lambda: neighbors(system.positions, CUTOFF, system.cell, True)  # noqa: E731
    else:
        call = OTHERS[provider](system.positions.numpy(), system.cell.numpy())
        assert len(call()[0]) == system.edges
    timed(
        call,
        reference="matscipy" if provider == "localgraph" else None,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float64",
        parameters={"cutoff": CUTOFF},
    )
