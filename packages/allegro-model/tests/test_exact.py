"""The reassociated forward pass is the direct one: same energies, same gradients, folded or not."""

import pytest
import torch

import localgraph
from allegro_model import direct, presets

ELEMENTS_10 = ["H", "B", "C", "N", "O", "F", "P", "S", "Cl", "Br"]
ELEMENTS_15 = [*ELEMENTS_10, "I", "Li", "Na", "K", "Si"]

LJ = dict(
    sigma=[[1.0, 1.1, 1.2], [1.1, 1.3, 1.4], [1.2, 1.4, 1.5]],
    epsilon=0.1,
    delta=0.05,
    trainable=("sigma", "epsilon", "delta"),
)
CASES = [
    *(
        dict(l_max=l_max, num_layers=n, parity=parity, path_channel_coupling=coupled)
        for l_max in (1, 2, 3)
        for n in (1, 2, 3)
        for parity in (True, False)
        for coupled in (True, False)
    ),
    dict(l_max=6),
    dict(num_layers=4, l_max=2),
    dict(zbl=True, type_cutoffs={"H": 2.0, "O": {"C": 2.5}}),
    dict(scalar_embed_dim=20),
    dict(scalar_embed_width=5),  # narrower than the scalars: readers read the hidden layer
    dict(scalar_embed_depth=0),
    dict(latent_depth=0),
    dict(latent_nonlinearity=None),
    dict(readout_nonlinearity="silu", readout_depth=2),
    dict(readout_depth=0),
    dict(bessel_trainable=True, num_bessels=5, polynomial_cutoff_p=4.5),
    dict(avg_num_neighbors={"H": 3.0, "C": 8.0, "O": 5.0}),
    dict(energy_scales_trainable=True, energy_shifts_trainable=True),
    dict(energy_scales=[1.1, 0.0, 1.9]),
    dict(l_max=0),
    dict(l_max=0, num_layers=3, parity=False, path_channel_coupling=False),
    dict(weight_individual_irreps=False, num_layers=3),
    dict(radial_embedding="spline", num_splines=5, spline_span=3, embed_dim=7),
    dict(radial_embedding="spline", scalar_embed_depth=0, type_cutoffs={"H": 2.0}),
    dict(lennard_jones=LJ, pair_cutoff_p=4.5, type_cutoffs={"H": {"O": 2.0}}),
    dict(lennard_jones={**LJ, "style": "repulsive", "exponent": 4.5, "trainable": ()}, zbl=True),
]


@pytest.mark.parametrize("changes", CASES, ids=lambda c: "-".join(f"{k}={v}" for k, v in c.items()))
def test_equals_direct_form(make, cluster, changes):
    model = make(**changes)
    _, types, graph, vectors = cluster()
    vectors.requires_grad_(True)
    inputs = [vectors, *(p for p in model.parameters())]
    results = []
    for energies in (
        model(vectors, graph.edge_index, types),
        direct.atom_energies(model, vectors, graph.edge_index, types),
    ):
        (g,) = torch.autograd.grad(energies.sum(), vectors, create_graph=True)
        loss = (
            g * torch.linspace(-1, 1, g.numel(), dtype=g.dtype).view_as(g)
        ).sum() + energies.square().sum()
        results.append((energies, g, *torch.autograd.grad(loss, inputs, allow_unused=True)))
    assert results[0][0].std() > 1e-3
    for a, b in zip(*results, strict=True):
        if b is None:
            a = torch.zeros(()) if a is None else a
            b = torch.zeros_like(a)
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(*(energies for energies, *_ in results), rtol=0, atol=1e-12)
    with torch.no_grad():
        folded = model.for_inference()(vectors, graph.edge_index, types)
    torch.testing.assert_close(folded, results[0][0].detach(), rtol=0, atol=1e-12)


def test_float32_is_float64_to_rounding(make, cluster):
    _, types, graph, vectors = cluster()
    double = make(dtype="float64")
    single = make(dtype="float32")
    single.load_state_dict(double.state_dict())
    a, b = (m(vectors, graph.edge_index, types) for m in (double, single))
    assert b.dtype == torch.float64
    assert 0 < (a - b).abs().max() < 1e-5
    assert single.energy_shifts.dtype == torch.float64 and single.center_embedding.dtype == torch.float32


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_hidden_layers_in_bfloat16(make, cluster, dtype):
    _, types, graph, vectors = cluster()
    reference, mixed = make(dtype="float64"), make(dtype=dtype, mlp_dtype="bfloat16")
    mixed.load_state_dict(reference.state_dict())
    assert all(p.dtype != torch.bfloat16 for p in mixed.parameters())
    found = []
    for model in (reference, mixed):
        energies, g = localgraph.energies_and_edge_forces(
            model, vectors, graph.edge_index, types, create_graph=True
        )
        forces = localgraph.forces(g, graph.edge_index, len(types))
        gradients = torch.autograd.grad(forces.square().sum(), model.readout.weights[0])
        assert energies.dtype == forces.dtype == torch.float64
        found.append((energies.detach(), forces.detach(), gradients[0].double()))
    for exact, rounded in zip(*found, strict=True):
        error = (rounded - exact).norm() / (exact - exact.mean(0)).norm()
        assert 1e-5 < error < 0.05  # 8 bits of mantissa
    alone = types.numel() - 1  # the atom without neighbors has its constant
    assert found[1][0][alone] == found[0][0][alone]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        dict(num_layers=1),
        dict(num_layers=3, l_max=1, scalar_embed_dim=11),
        dict(
            scalar_embed_width=5, weight_individual_irreps=False, readout_depth=0, radial_embedding="spline"
        ),
    ],
)
def test_fused_layers_are_the_same_model(make, cluster, changes):
    """Energies, forces, and gradients of forces by the weights; folded too."""
    _, types, graph, vectors = cluster()
    composed, fused = make(**changes), make(fused_layers=True, **changes)
    found = []
    for model in (composed, fused):
        edges = vectors, graph.edge_index, types
        energies, g = localgraph.energies_and_edge_forces(model, *edges, create_graph=True)
        gradients = torch.autograd.grad(energies.sum() + g.square().sum(), list(model.parameters()))
        alone = localgraph.energies_and_edge_forces(model.for_inference(), *edges)
        found.append((energies, g, *alone, *gradients))
    torch.testing.assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)
    assert fused.to_config()["fused_layers"] and torch.equal(
        *(m.readout.weights[0] for m in (composed, fused))
    )


@pytest.mark.parametrize(
    "preset, elements, changes, count",
    [
        (presets.spice_small, ELEMENTS_10, {}, 360_000),
        (presets.spice_medium, ELEMENTS_10, {}, 385_408),
        (presets.spice_large, ELEMENTS_10, {}, 3_120_832),
        (presets.spice_small, ELEMENTS_15, {}, 360_160),
        (presets.spice_medium, ELEMENTS_15, {}, 385_568),
        (presets.spice_large, ELEMENTS_15, {}, 3_120_992),
        (presets.spice_small, ELEMENTS_15, dict(scalar_embed_dim=128), 392_928),
        (presets.spice_medium, ELEMENTS_15, dict(scalar_embed_dim=128), 426_528),
        (presets.spice_large, ELEMENTS_15, dict(scalar_embed_dim=128), 3_120_992),
    ],
)
def test_parameter_counts_of_the_presets(preset, elements, changes, count):
    import allegro_model

    model = allegro_model.Allegro(preset(elements, **changes))
    assert sum(p.numel() for p in model.parameters()) == count


def test_two_layers_do_not_depend_on_parity(make, cluster):
    _, types, graph, vectors = cluster()
    a, b = make(parity=True), make(parity=False)
    assert torch.equal(a(vectors, graph.edge_index, types), b(vectors, graph.edge_index, types))
