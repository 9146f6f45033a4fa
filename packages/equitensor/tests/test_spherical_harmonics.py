"""Spherical harmonics against e3nn, near the poles, under differentiation, tracing and compilation."""

import math

import mpmath
import pytest
import torch
from e3nn import o3
from torch.fx.experimental.proxy_tensor import make_fx

from equitensor import spherical_harmonics
from equitensor.testing import assert_equivariant

POLES = [[0, 1, 0], [0, -1, 0], [1e-9, 1, -1e-9], [1e-5, -1, 0], [1, 0, 0], [0, 0, -1], [1e-160, 1, 0]]


def vectors(n=50):
    g = torch.Generator().manual_seed(0)
    return torch.cat(
        [torch.tensor(POLES, dtype=torch.float64), torch.randn(n, 3, dtype=torch.float64, generator=g)]
    )


@pytest.mark.parametrize("normalization", ["component", "norm", "integral"])
@pytest.mark.parametrize("normalize", [True, False])
@pytest.mark.parametrize("l_max", [0, 1, 3, 8])
def test_equal_to_e3nn(l_max, normalize, normalization):
    v = vectors()
    ours = spherical_harmonics(l_max, v, normalize, normalization)
    theirs = o3.spherical_harmonics(list(range(l_max + 1)), v, normalize, normalization)
    torch.testing.assert_close(ours, theirs, atol=1e-13, rtol=1e-12)


def exact(ell, m, v):
    """Component-normalized Y by 60-digit arithmetic from Legendre functions of the polar angle about y."""
    mpmath.mp.dps = 60
    x, y, z = (mpmath.mpf(float(c)) for c in v)
    r = mpmath.sqrt(x * x + y * y + z * z)
    x, y, z = x / r, y / r, z / r
    s2 = x * x + z * z
    a = abs(m)
    t = mpmath.mpf(1)  # derivative of the Legendre polynomial, which is P_l^m / (1 - y²)^(m/2)
    coefficients = mpmath.taylor(lambda q: mpmath.legendre(ell, q), 0, ell)
    t = sum(
        c * mpmath.factorial(n) / mpmath.factorial(n - a) * y ** (n - a)
        for n, c in enumerate(coefficients)
        if n >= a
    )
    norm = mpmath.sqrt(
        (2 * ell + 1) * mpmath.factorial(ell - a) / mpmath.factorial(ell + a) * (2 if a else 1)
    )
    phase = mpmath.mpc(z, x) ** a
    del s2
    return float(norm * t * (phase.imag if m < 0 else phase.real))


@pytest.mark.parametrize("v", [[0, 1, 0], [1e-7, 1, -2e-7], [1e-3, -1, 1e-3], [0.3, 0.5, -0.8]])
def test_exact_to_1e_13_near_the_poles(v):
    ours = spherical_harmonics(8, torch.tensor(v, dtype=torch.float64))
    theirs = [exact(ell, m, v) for ell in range(9) for m in range(-ell, ell + 1)]
    assert (ours - torch.tensor(theirs, dtype=torch.float64)).abs().max() < 1e-13


def test_norm_of_every_degree():
    y = spherical_harmonics(10, vectors(), normalization="integral")
    for ell in range(11):
        total = y[:, ell * ell : (ell + 1) ** 2].square().sum(1)
        torch.testing.assert_close(total, torch.full_like(total, (2 * ell + 1) / (4 * math.pi)))


@pytest.mark.parametrize("normalize", [True, False])
def test_derivatives(normalize):
    v = torch.tensor([[0.0, 1.0, 0.0], [0.3, -0.4, 0.7]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: spherical_harmonics(5, v, normalize), v)
    assert torch.autograd.gradgradcheck(lambda v: spherical_harmonics(3, v, normalize), v)


def test_equivariance():
    irreps = [(ell, (-1) ** ell) for ell in range(7)]
    assert_equivariant(lambda v: spherical_harmonics(6, v), [vectors()], ["1o"], [tuple(irreps)], atol=1e-11)


def test_zero_vector_is_the_documented_convention():
    v = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
    y = spherical_harmonics(4, v)
    assert y[0, 0] == 1 and not y[0, 1:].any()
    (g,) = torch.autograd.grad(y.sum(), v, create_graph=True)
    (h,) = torch.autograd.grad(g.sum(), v)
    assert g.isfinite().all() and h.isfinite().all()


@pytest.mark.parametrize("shape", [(0, 3), (3,), (2, 4, 3)])
def test_shapes_and_dtypes(shape):
    for dtype in (torch.float32, torch.float64):
        y = spherical_harmonics(2, torch.ones(shape, dtype=dtype))
        assert y.shape == (*shape[:-1], 9) and y.dtype == dtype


def test_traces_with_dynamic_sizes_from_zero():
    def f(v):
        v = v.detach().requires_grad_()
        return torch.autograd.grad(spherical_harmonics(3, v).square().sin().sum(), v)[0]

    graph = make_fx(f, tracing_mode="symbolic")(vectors())
    exported = torch.export.export(graph, (vectors(),), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    for v in (vectors(), vectors()[:1], torch.zeros(0, 3, dtype=torch.float64)):
        torch.testing.assert_close(graph(v), f(v))
        torch.testing.assert_close(exported.module()(v), f(v))


def test_compiles_and_exports_to_l_8():
    """Values and a gradient without graph breaks, and what torch.export makes."""

    class Harmonics(torch.nn.Module):
        def forward(self, v):
            return spherical_harmonics(8, v)

    compiled = torch.compile(Harmonics(), backend="aot_eager", fullgraph=True, dynamic=True)
    dynamic = torch.export.Dim.DYNAMIC
    exported = torch.export.export(Harmonics(), (vectors(),), dynamic_shapes=({0: dynamic},)).module()
    for v in (vectors(), vectors(7)):
        given, plain = (v.clone().requires_grad_() for _ in range(2))
        y, expected = compiled(given), spherical_harmonics(8, plain)
        torch.testing.assert_close(y, expected, atol=1e-13, rtol=0)
        torch.testing.assert_close(exported(v), expected, atol=1e-13, rtol=0)
        g, h = (torch.autograd.grad(t.sin().sum(), x)[0] for t, x in ((y, given), (expected, plain)))
        torch.testing.assert_close(g[4:], h[4:], atol=1e-11, rtol=1e-11)


@pytest.mark.slow
def test_inductor_compiles_l_8_with_a_gradient():
    """As a force field has it: the derivative is in the graph. The recursions must not be inlined without end."""

    def f(v):
        v = v.detach().requires_grad_()
        y = spherical_harmonics(8, v)
        return y.detach(), torch.autograd.grad(y.sin().sum(), v)[0]

    compiled = torch.compile(make_fx(f, tracing_mode="symbolic")(vectors()), fullgraph=True, dynamic=True)
    for v in (vectors(), vectors(7), vectors()[:0]):
        for got, expected in zip(compiled(v), f(v), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-12)


def test_bad_arguments():
    v = torch.ones(2, 3)
    with pytest.raises(ValueError, match="l_max"):
        spherical_harmonics(-1, v)
    with pytest.raises(ValueError, match="normalization"):
        spherical_harmonics(1, v, normalization="other")
    with pytest.raises(ValueError, match=r"shape \(..., 3\)"):
        spherical_harmonics(1, torch.ones(2, 2))
    with pytest.raises(TypeError, match="floating"):
        spherical_harmonics(1, torch.ones(2, 3, dtype=torch.int64))
