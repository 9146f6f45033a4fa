"""How fast are frames read in random order: store, SPICE's HDF5, LMDB of pickles, extended XYZ?"""

from __future__ import annotations

import numpy as np
import pytest
from benchmarks.bench_data import READERS, prepare

FRAMES, READS = 1000, 10


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """The same random frames in every format."""
    for needed in ("lmdb", "ase"):
        pytest.importorskip(needed, reason=f"{needed} is not installed")
    return prepare(tmp_path_factory.mktemp("datasets"), FRAMES)


@pytest.mark.parametrize("provider", READERS)
def test_random_access(timed, datasets, provider):
    read = READERS[provider](datasets[provider])
    order = np.random.default_rng(0).integers(0, FRAMES, READS).tolist()

    def call():
        for i in order:
            read(i)

    reference = "hdf5" if provider == "store" else None
    timed(
        call,
        reference=reference,
        atoms=None,
        edges=None,
        dtype="float64",
        parameters={"frames": FRAMES, "reads": READS},
    )
