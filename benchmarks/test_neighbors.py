"""How long does a neighbor list of water at 6 Å take beside vesin, matscipy and ASE?"""

from __future__ import annotations

import pytest
from benchmarks.bench_neighbors import SEARCHES
from benchmarks.systems import CUTOFF, box

PROVIDERS = {"localgraph": "localgraph", "vesin": "vesin, sorted", "matscipy": "matscipy", "ase": "ASE"}


@pytest.mark.parametrize("molecules_per_edge", [2, 4, 7], ids=["24", "192", "1029"])
@pytest.mark.parametrize("provider", PROVIDERS)
def test_search(timed, provider, molecules_per_edge):
    pytest.importorskip(provider, reason=f"{provider} is not installed")
    system = box(molecules_per_edge)
    call = SEARCHES[PROVIDERS[provider]](system.positions.numpy(), system.cell.numpy(), [True] * 3)
    if provider != "localgraph":
        assert len(call()[0]) == system.edges
    timed(
        call,
        reference="matscipy" if provider == "localgraph" else None,
        atoms=system.atoms,
        edges=system.edges,
        dtype="float64",
        parameters={"cutoff": CUTOFF},
    )
