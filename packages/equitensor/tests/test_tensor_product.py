"""The tensor product beside the ladder: e3nn, every entry of derivatives, operator checks, gathering, errors."""

import pytest
import torch
from e3nn import o3
from torch.library import opcheck

from equitensor import TensorProduct, row_offsets, tensor_product
from equitensor.irreps import irreps_string, spherical_irreps

SMALL = ("0e+1o+2e", "0e+1o", "0e+1o+1e")


def operands(tp, rows, channels, dtype=torch.float64):
    g = torch.Generator().manual_seed(rows + channels)
    dims = [sum(2 * ell + 1 for ell, _ in s) for s in tp.spec]
    given = [torch.randn(rows, d, channels, dtype=dtype, generator=g) for d in dims]
    return *given, torch.randn(tp.weight_shape(channels), dtype=dtype, generator=g)


@pytest.fixture
def double_by_default():
    """e3nn makes its constants in the default dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.parametrize("l_max", [1, 2, 3])
def test_equal_to_e3nn_uuu(l_max, double_by_default):
    channels, irreps = 5, spherical_irreps(l_max)
    tp = TensorProduct(irreps, irreps, irreps)
    full = o3.Irreps([(channels, ir) for ir in irreps])
    theirs = o3.TensorProduct(
        full,
        full,
        full,
        [(p.in1, p.in2, p.out, "uuu", True) for p in tp.paths],
        irrep_normalization="component",
        path_normalization="none",
    )
    x, y, _, w = operands(tp, 4, channels)

    def flat(t):
        blocks = torch.split(t, [2 * ell + 1 for ell, _ in irreps], 1)
        return torch.cat([b.transpose(1, 2).flatten(1) for b in blocks], 1)

    expected = theirs(flat(x), flat(y), w.flatten())
    torch.testing.assert_close(flat(tp(x, y, w)), expected, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("coupled", [True, False])
def test_first_and_second_derivatives(coupled):
    tp = TensorProduct(*SMALL, coupled=coupled)
    x, y, _, w = (t.requires_grad_() for t in operands(tp, 2, 2))
    assert torch.autograd.gradcheck(tp, (x, y, w))
    assert torch.autograd.gradgradcheck(tp, (x, y, w))


@pytest.mark.parametrize("coupled", [True, False])
def test_opcheck(coupled):
    tp = TensorProduct("0e+1o", "0e+1o", "0e+1o", coupled=coupled)
    x, y, g, w = (t.requires_grad_() for t in operands(tp, 2, 3))
    opcheck(torch.ops.equitensor.contract.default, (x, y, w, str(tp.spec), [0, 1, 2]))
    opcheck(torch.ops.equitensor.contract_weights.default, (x, y, g, str(tp.spec), coupled))


def test_gather_of_the_second_operand():
    tp = TensorProduct(*SMALL)
    x, y, _, w = operands(tp, 4, 3)
    centers = torch.tensor([0, 0, 2, 3])
    offsets = row_offsets(centers, 4)
    torch.testing.assert_close(tp(x, y, w, centers, offsets), tp(x, y[centers], w))
    x, y, w = (t[..., :1].clone().requires_grad_() for t in (x, y, w))
    assert torch.autograd.gradcheck(lambda *a: tp(*a, centers, offsets), (x, y, w))
    with pytest.raises(ValueError, match="both or neither"):
        tp(x, y, w, centers)


def test_function_and_value():
    tp = TensorProduct(*SMALL, coupled=False)
    x, y, _, w = operands(tp, 2, 3)
    torch.testing.assert_close(tensor_product(x, y, w, *SMALL), tp(x, y, w))
    assert tp == TensorProduct(*SMALL, coupled=False) and hash(tp) == hash(
        TensorProduct(*SMALL, coupled=False)
    )
    assert tp != TensorProduct(*SMALL)
    assert irreps_string(tp.spec.in1) in repr(tp)


def test_bad_arguments():
    with pytest.raises(ValueError, match="no path reaches 3o"):
        TensorProduct("0e", "0e", "0e+3o")
    with pytest.raises(ValueError, match="irreps_out"):
        TensorProduct("0e", "0e", "")
    with pytest.raises(ValueError, match="multiplicity"):
        TensorProduct("4x0e", "0e", "0e")
    tp = TensorProduct(*SMALL)
    x, y, _, w = operands(tp, 2, 3)
    with pytest.raises(ValueError, match="x must have"):
        tp(x[:, 1:], y, w)
    with pytest.raises(ValueError, match="y must have"):
        tp(x, y[:1], w)
    with pytest.raises(ValueError, match="same number of channels"):
        tp(x, y[..., :1], w)
    with pytest.raises(ValueError, match="weights must have shape"):
        tp(x, y, w[:1])
    with pytest.raises(TypeError, match="one floating dtype"):
        tp(x, y.float(), w)
    with pytest.raises(TypeError, match="of 16, 32 or 64 bits"):
        tp(*(t.to(torch.float8_e5m2) for t in (x, y, w)))


@pytest.mark.parametrize("coupled", [True, False])
def test_pull_back_is_the_gradient_in_the_first_operand(coupled):
    tp = TensorProduct(*SMALL, coupled=coupled)
    x, y, g, w = operands(tp, 3, 4)
    x.requires_grad_()
    (expected,) = torch.autograd.grad(tp(x, y, w), x, g)
    torch.testing.assert_close(tp.pull_back(g, y, w), expected)


@pytest.mark.parametrize(
    "arguments, error, message",
    [
        (lambda g, y, w: (g[:, 1:], y, w), ValueError, "g must have shape"),
        (lambda g, y, w: (g, y[:, 1:], w), ValueError, "y must have shape"),
        (lambda g, y, w: (g, y[:1], w), ValueError, r"y must have one row per row of g \(3\), got 1"),
        (lambda g, y, w: (g[..., :1], y, w), ValueError, "g and y must have the same number of channels"),
        (lambda g, y, w: (g, y, w[:1]), ValueError, "weights must have shape"),
        (lambda g, y, w: (g, y, w[..., :1]), ValueError, "weights must have shape"),
        (lambda g, y, w: (g, y.float(), w), TypeError, "g, y and weights must have one floating dtype"),
    ],
)
def test_bad_arguments_of_pull_back(arguments, error, message):
    tp = TensorProduct(*SMALL)
    _, y, g, w = operands(tp, 3, 4)
    with pytest.raises(error, match=message):
        tp.pull_back(*arguments(g, y, w))


def test_one_center_per_row():
    tp = TensorProduct(*SMALL)
    x, y, _, w = operands(tp, 3, 4)
    for wrong in ([2], [0, 1], [0, 0, 1, 2]):
        centers = torch.tensor(wrong)
        with pytest.raises(ValueError, match=r"centers must be one per row of x \(3\)"):
            tp(x, y, w, centers, row_offsets(centers, 3))


def test_forward_mode_is_refused():
    tp = TensorProduct(*SMALL)
    x, y, g, w = operands(tp, 2, 3)
    for f, first in ((tp, x), (tp.pull_back, g)):
        with pytest.raises(NotImplementedError, match="forward-mode tangent"):
            torch.func.jvp(lambda a, f=f: f(a, y, w), (first,), (first,))


@pytest.mark.parametrize("coupled", [True, False])
def test_autocast_changes_nothing(coupled):
    tp = TensorProduct(*SMALL, coupled=coupled)
    given = [t.float().requires_grad_() for t in operands(tp, 2, 3)]
    x, y, _, w = given
    plain = tp(x, y, w)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = tp(x, y, w)
        gradients = torch.autograd.grad(cast.sum(), (x, y, w))
    assert cast.dtype == torch.float32 and torch.equal(cast, plain)
    for a, b in zip(gradients, torch.autograd.grad(plain.sum(), (x, y, w)), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize(
    "irreps", ["0e + 1o", ((0, 1), (1, -1)), [(0, 1), (1, -1)], o3.Irreps("0e + 1o")], ids=repr
)
def test_irreps_of_every_kind_are_read_while_compiling(irreps):
    torch.compiler.reset()

    @torch.compile(fullgraph=True, dynamic=True, backend="aot_eager")
    def function(x, y, weights):
        return tensor_product(x, y, weights, irreps, irreps, irreps)

    tp = TensorProduct(irreps, irreps, irreps)
    x, y, weights = torch.rand(3, 4, 2), torch.rand(3, 4, 2), torch.rand(tp.num_paths, 2)
    torch.testing.assert_close(function(x, y, weights), tp(x, y, weights), atol=0, rtol=0)
