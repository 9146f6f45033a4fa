"""Paths, pruning and coupling coefficients, against e3nn and the tables of the published models."""

import itertools
import subprocess
import sys

import numpy as np
import pytest
import torch
from e3nn import o3

from equitensor import paths


def test_order_is_out_then_in1_then_in2():
    irreps = paths.as_irreps("0e+1o+2e")
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
    y = paths.spherical_irreps(l_max)
    allowed = [(ell, p) for p in (1, -1) for ell in range(l_max + 1)]
    chain = paths.chain_irreps(y, y, allowed, 2)
    assert chain[0] == y and chain[2] == ((0, 1),)
    # only (l, (−1)^l) couples with a spherical harmonic to 0e
    assert set(chain[1]) == set(y)
    assert len(paths.admissible_paths(chain[1], y, chain[2])) == l_max + 1
    assert len(paths.admissible_paths(chain[0], y, chain[1])) >= inner


def test_three_products_keep_both_parities_and_drop_dead_ends():
    y = paths.spherical_irreps(2)
    allowed = [(ell, p) for p in (1, -1) for ell in range(3)]
    chain = paths.chain_irreps(y, y, allowed, 3)
    assert (1, 1) in chain[1] and (0, -1) not in chain[1]
    for k in range(3):
        for a in chain[k]:
            assert any(paths.couples(a, b, o) for b in y for o in chain[k + 1])
        for o in chain[k + 1]:
            assert any(paths.couples(a, b, o) for a in chain[k] for b in y)


@pytest.mark.parametrize("degrees", [(0, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 3), (3, 3, 4), (6, 5, 4)])
def test_coupling_has_component_normalization(degrees):
    c = paths.coupling(*degrees)
    np.testing.assert_allclose(np.einsum("abo,abO->oO", c, c), np.eye(2 * degrees[2] + 1), atol=1e-14)
    assert not c.flags.writeable


@pytest.mark.parametrize("l_max", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_coupling_is_e3nn_s(l_max):
    """Every symbol up to l_max: order, signs, normalization and exact zeros."""
    for l1, l2 in itertools.product(range(l_max + 1), repeat=2):
        for l3 in range(abs(l1 - l2), min(l_max, l1 + l2) + 1):
            ours = paths.coupling(l1, l2, l3)
            theirs = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy() * (2 * l3 + 1) ** 0.5
            np.testing.assert_allclose(ours, theirs, atol=1e-14, rtol=0)
            np.testing.assert_array_equal(ours == 0, np.abs(theirs) < 1e-12)


@pytest.mark.parametrize(
    "l1, l2, l3", [t for t in itertools.combinations_with_replacement(range(5), 3) if t[2] <= t[0] + t[1]]
)
def test_coefficients_of_equal_magnitude_are_equal(l1, l2, l3):
    """Kernels hold each constant once: no two differ by rounding alone, also with the two inputs exchanged."""
    c = paths.coupling(l1, l2, l3)
    magnitudes = np.unique(np.abs(c))
    assert np.diff(magnitudes, prepend=-1).min() > 1e-9
    np.testing.assert_array_equal(np.abs(c), np.abs(paths.coupling(l2, l1, l3).transpose(1, 0, 2)))


def test_coupling_refuses_degrees_that_do_not_couple():
    with pytest.raises(ValueError, match="l3 must be in 1 … 3"):
        paths.coupling(1, 2, 4)


@pytest.mark.parametrize("text", ["0e + 1o", "1x0e+1x1o", "0e+1e+2o", "0y+1y+2y", "", "10e"])
def test_irreps_are_read_as_e3nn_reads_them(text):
    theirs = o3.Irreps(text)
    expected = tuple((ir.l, ir.p) for _, ir in theirs)
    assert paths.as_irreps(text) == paths.as_irreps(theirs) == paths.as_irreps(expected) == expected


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
    slices = [paths.irreps_slices(s) for s in spec]
    for number, (i, j, k) in enumerate(paths.admissible_paths(*spec)):
        block = dense[number][slices[0][i], slices[1][j], slices[2][k]]
        np.testing.assert_array_equal(block, paths.coupling(spec[0][i][0], spec[1][j][0], spec[2][k][0]))
    assert np.count_nonzero(dense) == len(table.value)


def test_coupling_can_first_be_asked_for_while_tracing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    paths.coupling.cache_clear()
    with FakeTensorMode():
        c = paths.coupling(2, 1, 1)
    np.testing.assert_array_equal(c, paths.coupling(2, 1, 1))
    assert isinstance(c, np.ndarray)


@pytest.mark.parametrize("bad", ["2x0e", "0e+", "1z", "-1e", [(-1, 1)], [(0, 2)]])
def test_bad_irreps_are_named(bad):
    with pytest.raises(ValueError, match="features must"):
        paths.as_irreps(bad, "features")


def test_unreachable_chain_is_refused():
    with pytest.raises(ValueError, match="must have a path from product 0"):
        paths.chain_irreps("0e", "0e", "1o", 1, last="1o")
    with pytest.raises(ValueError, match="num_products"):
        paths.chain_irreps("0e", "0e", "0e", 0)
