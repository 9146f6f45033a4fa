"""Paths and pruning, against e3nn and the tables of the published models."""

import subprocess
import sys

import numpy as np
import pytest
from e3nn import o3

from equitensor import paths
from equitensor.irreps import as_irreps, irreps_slices, spherical_irreps
from equitensor.wigner import coupling


def test_order_is_out_then_in1_then_in2():
    irreps = as_irreps("0e+1o+2e")
    found = paths.admissible_paths(irreps, irreps, irreps)
    assert [tuple(p) for p in found] == sorted((tuple(p) for p in found), key=lambda p: (p[2], p[0], p[1]))
    expected = {
        (i, j, k)
        for i, a in enumerate(irreps)
        for j, b in enumerate(irreps)
        for k, c in enumerate(irreps)
        if o3.Irrep(*c) in o3.Irrep(*a) * o3.Irrep(*b)
    }
    assert {tuple(p) for p in found} == expected


@pytest.mark.parametrize("l_max, inner", [(1, 3), (2, 11), (3, 23)])
def test_allegro_chain_prunes_to_what_reaches_the_scalar(l_max, inner):
    y = spherical_irreps(l_max)
    allowed = [(ell, p) for p in (1, -1) for ell in range(l_max + 1)]
    chain = paths.chain_irreps(y, y, allowed, 2)
    assert chain[0] == y and chain[2] == ((0, 1),)
    # only (l, (−1)^l) couples with a spherical harmonic to 0e
    assert set(chain[1]) == set(y)
    assert len(paths.admissible_paths(chain[1], y, chain[2])) == l_max + 1
    assert len(paths.admissible_paths(chain[0], y, chain[1])) >= inner


def test_three_products_keep_both_parities_and_drop_dead_ends():
    y = spherical_irreps(2)
    allowed = [(ell, p) for p in (1, -1) for ell in range(3)]
    chain = paths.chain_irreps(y, y, allowed, 3)
    assert (1, 1) in chain[1] and (0, -1) not in chain[1]
    for k in range(3):
        for a in chain[k]:
            assert any(paths.couples(a, b, o) for b in y for o in chain[k + 1])
        for o in chain[k + 1]:
            assert any(paths.couples(a, b, o) for a in chain[k] for b in y)


def test_import_needs_no_e3nn():
    script = (
        "import sys; sys.modules['e3nn'] = None; import equitensor as eq; eq.TensorProduct('1o', '1o', '0e')"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_sparse_table_is_the_dense_one():
    spec = (((0, 1), (2, 1)), ((1, -1), (2, 1)), ((1, -1), (2, 1), (0, 1)))
    table = paths.coupling_table(*spec)
    dense = np.zeros((len(paths.admissible_paths(*spec)), 6, 8, 9))
    dense[table.path, table.a, table.b, table.o] = table.value
    slices = [irreps_slices(s) for s in spec]
    for number, (i, j, k) in enumerate(paths.admissible_paths(*spec)):
        block = dense[number][slices[0][i], slices[1][j], slices[2][k]]
        np.testing.assert_array_equal(block, coupling(spec[0][i][0], spec[1][j][0], spec[2][k][0]))
    assert np.count_nonzero(dense) == len(table.value)


def test_unreachable_chain_is_refused():
    with pytest.raises(ValueError, match="must have a path from product 0"):
        paths.chain_irreps("0e", "0e", "1o", 1, last="1o")
    with pytest.raises(ValueError, match="num_products"):
        paths.chain_irreps("0e", "0e", "0e", 0)
