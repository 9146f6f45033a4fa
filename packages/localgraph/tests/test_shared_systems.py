"""The systems people measure with, where they are at hand: DHFR and the 408,609-atom cellulose."""

import os
import subprocess
import sys
from pathlib import Path

import ase.io
import numpy as np
import pytest
import torch
from matscipy.neighbours import neighbour_list as matscipy_list

from localgraph import neighbors
from localgraph.hosts.ase import from_atoms

CUTOFF = 6.0


def system(name):
    """A file of the shared systems, or a skip where there is none."""
    here = Path(__file__).resolve()
    places = [Path(p) for p in [os.environ.get("MLIP_SHARED_DATA", "")] if p]
    places += [parent / "shared" / "data" for parent in here.parents]
    for place in places:
        if (place / "systems" / name).exists():
            return place / "systems" / name
    pytest.skip(f"no shared data with systems/{name}")


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["vesin", "cells"])
def test_dhfr(algorithm):
    atoms = ase.io.read(system("dhfr_23558.xyz"))
    assert len(atoms) == 23558
    cutoff = CUTOFF if algorithm == "vesin" else 4.0
    expected = np.column_stack(matscipy_list("ijS", atoms=atoms, cutoff=cutoff)).astype(np.int32)
    expected = expected[np.lexsort(expected.T[::-1])]
    x, cell, pbc = from_atoms(atoms)
    graph = neighbors(x, cutoff, cell, pbc, algorithm=algorithm)
    got = torch.cat([graph.edge_index.T.to(torch.int32), graph.shifts], 1).numpy()
    assert np.array_equal(got[np.lexsort(got.T[::-1])], expected)


SEARCH = """
import resource, sys
import ase.io, numpy as np
from localgraph import neighbors
from localgraph.hosts.ase import from_atoms
arguments = from_atoms(ase.io.read(sys.argv[1]))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
graph = neighbors(arguments.positions, float(sys.argv[2]), arguments.cell, arguments.pbc)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
np.save(sys.argv[3], graph.offsets.numpy())
print(graph.num_edges, sum(t.nbytes for t in graph), (after - before) * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="peak memory is read in Linux's units")
def test_cellulose_within_memory(tmp_path):
    path = system("cellulose_408609.xyz.gz")
    offsets = tmp_path / "offsets.npy"
    ran = subprocess.run(
        [sys.executable, "-c", SEARCH, str(path), str(CUTOFF), str(offsets)], capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    edges, size, peak = map(int, ran.stdout.split())
    assert peak < 2.5 * size  # the result is part of the peak
    counts = np.diff(np.load(offsets))
    assert len(counts) == 408_609 and counts.sum() == edges > 30_000_000
    atoms = ase.io.read(path)
    expected = np.bincount(matscipy_list("i", atoms=atoms, cutoff=CUTOFF), minlength=len(atoms))
    assert np.array_equal(counts, expected)
