"""Notation of irreps, against e3nn."""

import pytest
from e3nn import o3

from equitensor.irreps import as_irreps


@pytest.mark.parametrize("text", ["0e + 1o", "1x0e+1x1o", "0e+1e+2o", "0y+1y+2y", "", "10e"])
def test_irreps_are_read_as_e3nn_reads_them(text):
    theirs = o3.Irreps(text)
    expected = tuple((ir.l, ir.p) for _, ir in theirs)
    assert as_irreps(text) == as_irreps(theirs) == as_irreps(expected) == expected


@pytest.mark.parametrize("bad", ["2x0e", "0e+", "1z", "-1e", [(-1, 1)], [(0, 2)]])
def test_bad_irreps_are_named(bad):
    with pytest.raises(ValueError, match="features must"):
        as_irreps(bad, "features")
