"""Coupling coefficients, against e3nn."""

import itertools

import numpy as np
import pytest
import torch
from e3nn import o3

from equitensor.wigner import coupling


@pytest.mark.parametrize("degrees", [(0, 0, 0), (1, 1, 0), (1, 1, 1), (2, 1, 3), (3, 3, 4), (6, 5, 4)])
def test_coupling_has_component_normalization(degrees):
    c = coupling(*degrees)
    np.testing.assert_allclose(np.einsum("abo,abO->oO", c, c), np.eye(2 * degrees[2] + 1), atol=1e-14)
    assert not c.flags.writeable


@pytest.mark.parametrize("l_max", [4, pytest.param(8, marks=pytest.mark.slow)])
def test_coupling_is_e3nn_s(l_max):
    """Every symbol up to l_max: order, signs, normalization and exact zeros."""
    for l1, l2 in itertools.product(range(l_max + 1), repeat=2):
        for l3 in range(abs(l1 - l2), min(l_max, l1 + l2) + 1):
            ours = coupling(l1, l2, l3)
            theirs = o3.wigner_3j(l1, l2, l3, dtype=torch.float64).numpy() * (2 * l3 + 1) ** 0.5
            np.testing.assert_allclose(ours, theirs, atol=1e-14, rtol=0)
            np.testing.assert_array_equal(ours == 0, np.abs(theirs) < 1e-12)


@pytest.mark.parametrize(
    "l1, l2, l3", [t for t in itertools.combinations_with_replacement(range(5), 3) if t[2] <= t[0] + t[1]]
)
def test_coefficients_of_equal_magnitude_are_equal(l1, l2, l3):
    """Kernels hold each constant once: no two differ by rounding alone, also with the two inputs exchanged."""
    c = coupling(l1, l2, l3)
    magnitudes = np.unique(np.abs(c))
    assert np.diff(magnitudes, prepend=-1).min() > 1e-9
    np.testing.assert_array_equal(np.abs(c), np.abs(coupling(l2, l1, l3).transpose(1, 0, 2)))


def test_coupling_refuses_degrees_that_do_not_couple():
    with pytest.raises(ValueError, match="l3 must be in 1 … 3"):
        coupling(1, 2, 4)


def test_coupling_can_first_be_asked_for_while_tracing():
    from torch._subclasses.fake_tensor import FakeTensorMode

    coupling.cache_clear()
    with FakeTensorMode():
        c = coupling(2, 1, 1)
    np.testing.assert_array_equal(c, coupling(2, 1, 1))
    assert isinstance(c, np.ndarray)
