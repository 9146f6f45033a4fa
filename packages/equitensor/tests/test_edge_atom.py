"""The edge–atom operators beside the ladder: blocks, every entry of derivatives, determinism, errors."""

import pytest
import torch
from graphs import graph
from torch.library import opcheck

from equitensor import ScalarReader, reference, row_offsets, to_atoms, to_basis, to_scalars, to_weights


def operands(centers, offsets, dims, channels, dtype=torch.float64):
    g = torch.Generator().manual_seed(len(centers) + channels)
    edges, atoms = len(centers), len(offsets) - 1
    shapes = (
        (edges, len(dims), channels),
        (edges, sum(dims)),
        (atoms, sum(dims), channels),
        (edges, channels),
    )
    return [torch.randn(s, dtype=dtype, generator=g) for s in shapes]


def calls(w, basis, features, scale):
    """Each operator as (function, reference implementation, operands); dims may follow the offsets."""

    def scaled(function):
        return lambda a, b, s, *rest: function(a, b, *rest, scale=s)

    return {
        "to_scalars": (to_scalars, reference.to_scalars, (w, basis, features)),
        "scaled_to_atoms": (scaled(to_atoms), reference.scaled_to_atoms, (w, basis, scale)),
        "scaled_to_weights": (scaled(to_weights), reference.scaled_to_weights, (basis, features, scale)),
        "scaled_to_basis": (scaled(to_basis), reference.scaled_to_basis, (w, features, scale)),
        "to_atoms": (to_atoms, reference.to_atoms, (w, basis)),
        "to_weights": (to_weights, reference.to_weights, (basis, features)),
        "to_basis": (to_basis, reference.to_basis, (w, features)),
    }


@pytest.mark.parametrize("dims", [[4], [1, 3, 3, 1], [2, 5]])
def test_blocks_of_any_size(dims):
    centers, offsets = graph("gaps")
    for ours, expected, given in calls(*operands(centers, offsets, dims, 3)).values():
        torch.testing.assert_close(
            ours(*given, centers, offsets, dims), expected(*given, centers, offsets, dims), atol=1e-12, rtol=0
        )


@pytest.mark.parametrize("name", ["one edge", "gaps", "one center"])
def test_first_and_second_derivatives(name):
    centers, offsets = graph(name)
    for ours, _, given in calls(*operands(centers, offsets, [1, 3], 2)).values():
        given = [x.requires_grad_() for x in given]
        f = lambda *t, op=ours: op(*t, centers, offsets)  # noqa: E731
        assert torch.autograd.gradcheck(f, given)
        assert torch.autograd.gradgradcheck(f, given)


@pytest.mark.parametrize("name", ["one edge", "gaps"])
def test_all_gradients_of_scalars_at_once(name):
    centers, offsets = graph(name)
    tensors, rest = operands(centers, offsets, [1, 3], 2), (centers, offsets, [1, 3])
    w, basis, features, scale = (x.requires_grad_() for x in tensors)
    backward = torch.ops.equitensor.to_scalars_backward
    out = reference.to_scalars(w, basis, features, *rest)
    expected = torch.autograd.grad((out * scale).sum(), (w, basis, features))
    for got, single in zip(backward(w, basis, features, scale, *rest), expected, strict=True):
        torch.testing.assert_close(got, single, atol=1e-12, rtol=0)
    assert torch.autograd.gradcheck(lambda *t: backward(*t, *rest), (w, basis, features, scale))
    assert torch.autograd.gradgradcheck(lambda *t: backward(*t, *rest), (w, basis, features, scale))
    opcheck(backward.default, (w, basis, features, scale, *rest))
    start = torch.randn_like(w).requires_grad_()
    given = w, basis, features, scale
    torch.testing.assert_close(backward(*given, *rest, start)[0], expected[0] + start, atol=1e-12, rtol=0)
    f = lambda start, *t: backward(*t, *rest, start)  # noqa: E731
    assert torch.autograd.gradcheck(f, (start, *given)) and torch.autograd.gradgradcheck(f, (start, *given))
    opcheck(backward.default, (*given, *rest, start))
    cotangents = [torch.randn_like(x) for x in (w, basis, features)]
    opcheck(
        torch.ops.equitensor.to_scalars_second.default, (*(x.detach() for x in given), *cotangents, *rest)
    )
    apart, at_once = (
        torch.autograd.grad(backward(*given, *rest), given, cotangents, create_graph=kept)
        for kept in (True, False)
    )
    for a, b in zip(apart, at_once, strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("fixed", [(), (0,), (1, 2)], ids=str)
def test_a_reader_has_the_values_and_derivatives_of_its_calls(fixed):
    """Also where an operand needs no gradient, a call is not used, or w reaches the result otherwise."""
    centers, offsets = graph("gaps")
    given = [
        x.requires_grad_(n not in fixed) for n, x in enumerate(operands(centers, offsets, [1, 3], 2)[:3])
    ]
    needed = [x for x in given if x.requires_grad]

    def together(w, basis, features):
        read = ScalarReader(w)
        first = read(basis, features, centers, offsets)
        second = read(basis, features * first.sum(), centers, offsets)
        read(basis, features, centers, offsets)
        return first * read(basis, features, centers, offsets), second, w * 2.0

    def apart(w, basis, features):
        read = lambda f: to_scalars(w, basis, f, centers, offsets)  # noqa: E731
        first = read(features)
        return first * read(features), read(features * first.sum()), w * 2.0

    def derivatives(f):
        total = sum(x.square().sum() for x in f(*given))
        first = torch.autograd.grad(total, needed, create_graph=True)
        return (*first, *torch.autograd.grad(sum(g.square().sum() for g in first), needed))

    for a, b in zip(
        (*together(*given), *derivatives(together)), (*apart(*given), *derivatives(apart)), strict=True
    ):
        torch.testing.assert_close(a, b, atol=0, rtol=1e-13)

    def free(*leaves):
        rest = iter(leaves)
        return together(*(next(rest) if x.requires_grad else x for x in given))

    assert torch.autograd.gradcheck(free, needed)
    assert torch.autograd.gradgradcheck(free, needed)


def test_third_derivative():
    centers, offsets = graph("gaps")
    w, basis, *_ = (x.requires_grad_() for x in operands(centers, offsets, [1, 3], 2))

    def twice(op):
        total = op(w, basis).sin().sum()
        (g,) = torch.autograd.grad(total, w, create_graph=True)
        (h,) = torch.autograd.grad(g.square().sum(), basis, create_graph=True)
        return torch.autograd.grad(h.square().sum(), w)[0]

    torch.testing.assert_close(
        twice(lambda a, b: to_atoms(a, b, centers, offsets)),
        twice(lambda a, b: reference.to_atoms(a, b, centers, offsets, [1, 3])),
    )


@pytest.mark.parametrize("name", ["no edges", "gaps"])
def test_opcheck(name):
    centers, offsets = graph(name)
    w, basis, features, scale = (x.requires_grad_() for x in operands(centers, offsets, [1, 3], 2))
    for op, given in (
        ("to_atoms", (w, basis)),
        ("to_weights", (basis, features)),
        ("to_basis", (w, features)),
        ("to_scalars", (w, basis, features)),
        ("scaled_to_atoms", (w, basis, scale)),
        ("scaled_to_weights", (basis, features, scale)),
        ("scaled_to_basis", (w, features, scale)),
    ):
        opcheck(getattr(torch.ops.equitensor, op).default, (*given, centers, offsets, [1, 3]))
    opcheck(torch.ops.equitensor.row_offsets.default, (centers, len(offsets) - 1))


def test_deterministic():
    centers, offsets = graph("many")
    w, basis, *_ = operands(centers, offsets, [1, 3], 64, torch.float32)
    first = to_atoms(w, basis, centers, offsets)
    assert all(torch.equal(first, to_atoms(w, basis, centers, offsets)) for _ in range(3))


def test_row_offsets():
    assert row_offsets(torch.tensor([1, 1, 3]), 5).tolist() == [0, 0, 2, 2, 3, 3]
    assert row_offsets(torch.zeros(0, dtype=torch.int64), 0).tolist() == [0]
    with pytest.raises(ValueError, match="unsorted"):
        row_offsets(torch.tensor([1, 0]), 2)
    with pytest.raises(ValueError, match="outside"):
        row_offsets(torch.tensor([0, 2]), 2)
    with pytest.raises(TypeError, match="int64"):
        row_offsets(torch.tensor([0], dtype=torch.int32), 2)


def test_bad_operands():
    centers, offsets = graph("gaps")
    w, basis, features, scale = operands(centers, offsets, [1, 3], 2)
    rest = (centers, offsets)
    with pytest.raises(ValueError, match="w must have shape"):
        to_atoms(w[:2], basis, *rest)
    with pytest.raises(ValueError, match=r"dims must be sizes of blocks"):
        to_atoms(w, basis[:, :3], *rest)
    with pytest.raises(ValueError, match=r"dims must be sizes of blocks"):
        to_weights(basis[:, :3], features[:, :3], *rest)
    with pytest.raises(ValueError, match="same number of channels"):
        to_basis(w[:, :, :1], features, *rest)
    with pytest.raises(TypeError, match="floating dtype"):
        to_atoms(w, basis.float(), *rest)
    for dtype in (torch.int64, torch.complex64, torch.float8_e4m3fn):
        with pytest.raises(TypeError, match="floating dtype of 16, 32 or 64 bits"):
            to_atoms(w.to(dtype), basis.to(dtype), *rest)
    with pytest.raises(ValueError, match="scale must have shape"):
        to_atoms(w, basis, *rest, scale=scale[:-1])
    with pytest.raises(ValueError, match="w, scale must have the same number of channels"):
        to_atoms(w, basis, *rest, scale=scale[:, :1])
    with pytest.raises(TypeError, match="centers must be"):
        to_atoms(w, basis, centers.int(), offsets)
    with pytest.raises(ValueError, match="features must have shape"):
        to_basis(w, features[:-1], *rest)
    with pytest.raises(TypeError, match="offsets must be"):
        to_atoms(w, basis, centers, offsets.int())


@pytest.mark.parametrize(
    "wrong",
    [
        [0, 1, 2, 3, 4, 4, 4],  # other edges, as many
        [0, 0, 3, 3, 3, 4, 5],
        [1, 1, 3, 3, 3, 4, 4],
        [0, 3, 0, 3, 3, 4, 4],
        [0, 0, 900_000_000, 3, 3, 4, 4],
        [0, -3, 3, 3, 3, 4, 4],
    ],
)
def test_offsets_of_other_edges_are_refused(wrong):
    centers, offsets = graph("gaps")
    for ours, _, given in calls(*operands(centers, offsets, [1, 3], 2)).values():
        with pytest.raises(ValueError, match="offsets must be row_offsets"):
            ours(*given, centers, torch.tensor(wrong))


@pytest.mark.parametrize("wrong", [[1, 1, 1, 900_000_000], [-1, 1, 1, 4], [4, 1, 1, 1]])
def test_centers_of_other_offsets_are_refused(wrong):
    centers, offsets = graph("gaps")
    for ours, _, given in calls(*operands(centers, offsets, [1, 3], 2)).values():
        with pytest.raises(ValueError, match="not sorted or not in"):
            ours(*given, torch.tensor(wrong), offsets)


def test_forward_mode_is_refused():
    """Operators of torch.library drop forward-mode tangents silently."""
    centers, offsets = graph("gaps")
    for ours, _, given in calls(*operands(centers, offsets, [1, 3], 2)).values():
        f = lambda *t, op=ours: op(*t, centers, offsets)  # noqa: E731
        with pytest.raises(NotImplementedError, match="forward-mode tangent"):
            torch.func.jvp(f, tuple(given), tuple(given))
        with torch.autograd.forward_ad.dual_level():
            f(*given)  # nothing is dual
            dual = torch.autograd.forward_ad.make_dual(given[1], given[1])
            with pytest.raises(NotImplementedError, match="forward-mode tangent"):
                f(given[0], dual, *given[2:])
            a = given[0].clone().requires_grad_()
            out = f(a, *given[1:])
            covector = torch.autograd.forward_ad.make_dual(torch.ones_like(out), torch.ones_like(out))
            with pytest.raises(NotImplementedError, match="forward-mode tangent"):
                torch.autograd.grad(out, a, covector)


def test_forward_mode_is_refused_while_compiling():
    centers, offsets = graph("gaps")
    w, basis, *_ = operands(centers, offsets, [1, 3], 2)
    f = lambda a: torch.func.jvp(lambda b: to_atoms(b, basis, centers, offsets), (a,), (a,))  # noqa: E731
    with pytest.raises(NotImplementedError, match="forward-mode tangent"):
        torch.compile(f, backend="eager")(w)
