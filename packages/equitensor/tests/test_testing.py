"""The equivariance check accepts what is equivariant and refuses what is not."""

import pytest
import torch
from e3nn import o3

from equitensor.irreps import spherical_irreps
from equitensor.testing import assert_equivariant, random_orthogonal, representation


def test_representation_is_e3nn_s():
    g = torch.Generator().manual_seed(3)
    matrix = random_orthogonal(g, inversion=False)
    angles = o3.matrix_to_angles(matrix)
    for ell in range(6):
        theirs = o3.Irrep(ell, 1).D_from_angles(*angles)
        torch.testing.assert_close(representation([(ell, 1)], matrix), theirs.double(), atol=1e-5, rtol=0)


def test_representation_is_a_homomorphism_and_orthogonal():
    g = torch.Generator().manual_seed(4)
    a, b = random_orthogonal(g, True), random_orthogonal(g, False)
    irreps = [*spherical_irreps(5), (2, -1)]
    d = representation(irreps, a)
    torch.testing.assert_close(d @ representation(irreps, b), representation(irreps, a @ b))
    torch.testing.assert_close(d @ d.T, torch.eye(len(d), dtype=torch.float64))


@pytest.mark.parametrize(
    "function, out",
    [
        (lambda v: v * 2 + 1, "1o"),
        (lambda v: v.abs(), "1o"),
        (lambda v: torch.linalg.cross(v, v.flip(0)), "1o"),
        (lambda v: v[:, :1], "0e"),
    ],
)
def test_what_is_not_equivariant_is_refused(function, out):
    v = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with pytest.raises(AssertionError, match="differs from R f"):
        assert_equivariant(function, [v], ["1o"], out)


def test_several_outputs_and_constants():
    v = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    s = torch.rand(5, 1, dtype=torch.float64)
    assert_equivariant(lambda v, s: (v * s, (v * v).sum(1, keepdim=True)), [v, s], ["1o", None], ["1o", "0e"])
    with pytest.raises(AssertionError, match="must return 2"):
        assert_equivariant(lambda v: v, [v], ["1o"], ["1o", "0e"])
