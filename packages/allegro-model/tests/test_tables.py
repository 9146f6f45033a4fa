"""Tables of the two-body features: the model's energies and forces within a tolerance, refused where they are not."""

import math

import pytest
import torch

import localgraph
from allegro_model import tabulate

TOLERANCE = 1e-7
TWO_TYPES = {
    "type_names": ["H", "O"],
    "energy_scales": {"H": 1.1, "O": 1.9},
    "energy_shifts": {"H": -1.0, "O": 0.5},
}


@pytest.fixture
def small(make):
    """A model of two types."""
    return lambda **changes: make(**TWO_TYPES | changes)


@pytest.fixture
def few(cluster):
    """A cluster of their atoms: edge vectors, edge_index and types."""

    def build(**settings):
        _, types, graph, vectors = cluster(**settings)
        return vectors, graph.edge_index, types % 2

    return build


def both(model, module, vectors, index, types):
    """Return the differences of atom energies, edge forces and forces between a module and its model."""
    found = localgraph.energies_and_edge_forces(module, vectors, index, types)
    exact = localgraph.energies_and_edge_forces(model, vectors, index, types)
    energy, edge = (a - b for a, b in zip(found, exact, strict=True))
    return energy, edge, localgraph.forces(edge, index, len(types))


def pairs(model, lengths):
    """Return one graph of two atoms, or many, of every pair of types and length over its cutoff."""
    count = len(model.type_names)
    a, b = (t.repeat_interleave(len(lengths)) for t in torch.cartesian_prod(*[torch.arange(count)] * 2).T)
    r = lengths.repeat(count**2) * model.cutoffs[a, b]
    direction = torch.tensor([0.6, 0.0, -0.8], dtype=torch.float64)
    edges = torch.arange(len(r))
    return r.unsqueeze(1) * direction, torch.stack([edges, len(r) + b]), torch.cat([a, torch.arange(count)])


MODELS = [
    {},
    {"radial_embedding": "spline", "num_splines": 8, "spline_span": 6},
    {"type_cutoffs": {"H": {"O": 2.0}}, "zbl": True, "scalar_embed_depth": 0},
    {"l_max": 1, "weight_individual_irreps": False, "scalar_embed_nonlinearity": None},
]


@pytest.mark.parametrize("changes", MODELS, ids=str)
def test_forces_are_within_the_tolerance(small, few, changes):
    model = small(**changes)
    vectors, index, types = few()
    module, report = model.tabulated(TOLERANCE, [(vectors, index, types)])
    assert report["tolerance"] == TOLERANCE and 0 < report["max_force"] <= TOLERANCE
    # another cluster, and lengths that are not those of the measurement
    vectors, index, types = few(seed=7, num_atoms=14, size=4.5)
    energy, edge, atom = both(model, module, vectors, index, types)
    assert 0 < energy.abs().max() < TOLERANCE
    assert max(edge.abs().max(), atom.abs().max()) <= TOLERANCE
    lengths = torch.rand(300, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    ends = torch.tensor([0.003, 1.0 - 1e-5, 1.0], dtype=torch.float64)
    found = pairs(model, torch.cat([lengths, ends]))
    large = localgraph.energies_and_edge_forces(model, *found)[1].norm(dim=1, keepdim=True).clamp(min=1.0)
    assert (both(model, module, *found)[1] / large).abs().max() <= TOLERANCE


def test_a_smaller_tolerance_takes_more_intervals(small):
    model = small()
    coarse, fine = (model.tabulated(tolerance)[1] for tolerance in (1e-5, 1e-8))
    assert coarse["max_force"] > fine["max_force"]
    assert coarse["intervals"][0] < fine["intervals"][0]
    assert coarse["bytes"] < fine["bytes"]


def test_forces_are_the_derivative_of_the_tabulated_energy(small, few):
    model = small(num_tensor_features=2, num_scalar_features=2, latent_width=3, scalar_embed_width=3)
    module, _ = model.tabulated(1e-3)  # coarse, so that the model's own derivative is another
    vectors, index, types = few(num_atoms=3, size=1.5)
    vectors.requires_grad_(True)

    def call(r):
        return module(r, index, types)

    assert torch.autograd.gradcheck(call, (vectors,))
    assert torch.autograd.gradgradcheck(call, (vectors,))
    assert both(model, module, vectors.detach(), index, types)[1].abs().max() > 1e-8


def test_forces_are_continuous_where_polynomials_meet(small):
    model = small()
    module, _ = model.tabulated(1e-3)
    meet = torch.arange(1, 16, dtype=torch.float64) / 16  # of two cells of different intervals
    step = 1e-12
    below, above = (
        localgraph.energies_and_edge_forces(module, *pairs(model, meet + sign * step)) for sign in (-1, 1)
    )
    for low, high in zip(below, above, strict=True):
        torch.testing.assert_close(low, high, rtol=1e-8, atol=1e-8)


def test_an_edge_at_or_beyond_its_cutoff_counts_nothing(small):
    model = small(type_cutoffs={"H": {"O": 2.0}})
    module, _ = model.tabulated(1e-6)
    for length in (1.0, 1.3, 1e3):
        vectors, index, types = pairs(model, torch.tensor([length], dtype=torch.float64))
        energies, forces = localgraph.energies_and_edge_forces(module, vectors, index, types)
        assert torch.equal(energies, model.energy_shifts[types]) and not forces.any()


def test_float32_tables_round_like_the_model(small, few):
    model = small(dtype="float32")
    module, report = model.tabulated(TOLERANCE)
    assert module.dtype == "float32" and report["max_force"] <= TOLERANCE
    vectors, index, types = few()
    energy, edge, _ = both(model, module, vectors, index, types)
    assert energy.abs().max() < 1e-5 and edge.abs().max() < 1e-5
    assert module.to("cpu") is module
    with pytest.raises(TypeError, match="dtype must be float32"):
        module.double()


@pytest.mark.parametrize(
    "changes, tolerance, message",
    [
        ({}, 1e-10, "tolerance must be at least 1e-09 eV/Å, got 1e-10"),
        ({}, math.nan, "tolerance must be at least 1e-09 eV/Å, got nan"),
        ({"mlp_dtype": "bfloat16"}, 1e-7, "mlp_dtype must be None for tables"),
        (
            {
                "type_names": list(localgraph.ELEMENTS[:89]),
                "energy_scales": 1.0,
                "energy_shifts": 0.0,
            },
            1e-7,
            r"tables must take at most 256 MiB, got 5\d\d MiB or more for the 7,921 pairs of 89 types",
        ),
    ],
)
def test_refusals(small, changes, tolerance, message):
    with pytest.raises(ValueError, match=message):
        small(**changes).tabulated(tolerance)


def test_what_tables_do_not_reach_is_refused(small, few, monkeypatch):
    rough = small(polynomial_cutoff_p=2.1)  # whose third derivative has no limit at 0
    with pytest.raises(
        ValueError, match=r"tables must have at most 256 intervals .* near 0.\d+ Å of H-H with"
    ):
        rough.tabulated(1e-9)
    vectors, index, types = few()
    monkeypatch.setattr(tabulate, "ROUNDS", 1)
    monkeypatch.setattr(tabulate, "PAIR_MARGIN", 0.01)
    with pytest.raises(
        ValueError, match=r"tolerance must be one that tables reach, got 1e-06 eV/Å and forces"
    ):
        small().tabulated(1e-6, [(vectors, index, types)])
