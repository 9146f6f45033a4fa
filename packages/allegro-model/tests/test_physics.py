"""Symmetries, locality, smoothness, derivatives, and the ordinary values: nothing, one atom, no edges."""

import pytest
import torch
from e3nn.o3 import rand_matrix

import localgraph
from localgraph import evaluate


def energies_and_forces(model, positions, types, cell=None, pbc=False):
    result = evaluate(model, positions, types, cell, pbc)
    return result.energies, result.forces, result.virial


@pytest.mark.parametrize("changes", [{}, dict(num_layers=3, l_max=3), dict(zbl=True)], ids=str)
@pytest.mark.parametrize("inversion", [1.0, -1.0])
def test_energy_is_invariant_and_forces_turn(make, cluster, changes, inversion):
    model = make(**changes)
    positions, types, _, _ = cluster()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        rotation = inversion * rand_matrix(dtype=torch.float64)
    order = torch.randperm(len(types), generator=torch.Generator().manual_seed(1))
    shift = torch.tensor([3.0, -8.0, 0.4], dtype=torch.float64)
    e, f, w = energies_and_forces(model, positions, types)
    e2, f2, w2 = energies_and_forces(model, (positions @ rotation.T + shift)[order], types[order])
    assert f.abs().max() > 0.01
    torch.testing.assert_close(e2, e[order], rtol=0, atol=1e-11)
    torch.testing.assert_close(f2, (f @ rotation.T)[order], rtol=0, atol=1e-10)
    torch.testing.assert_close(w2, rotation @ w @ rotation.T, rtol=0, atol=1e-10)
    torch.testing.assert_close(f.sum(0), torch.zeros(3, dtype=f.dtype), rtol=0, atol=1e-11)


def test_an_atom_feels_its_neighbors_only(make, cluster):
    """Strict locality: the energy of an atom changes only with atoms within its cutoff."""
    model = make(num_layers=3)
    x = torch.tensor([[0.0, 0, 0], [2.0, 0, 0], [4.0, 0.1, 0], [6.0, 0, 0.2]], dtype=torch.float64)
    types = torch.tensor([0, 1, 2, 1])
    moved = x + torch.tensor([[0.0, 0, 0], [0, 0, 0], [0.3, 0, 0], [0, 0, 0]], dtype=torch.float64)
    before, after = (energies_and_forces(model, p, types)[0] for p in (x, moved))
    assert before[0] == after[0]
    assert abs(before[1] - after[1]) > 1e-4


@pytest.mark.parametrize("changes", [{}, dict(zbl=True, type_cutoffs={"H": {"O": 2.5}})], ids=str)
def test_smooth_as_a_neighbor_crosses_the_cutoff(make, changes):
    model = make(**changes)
    types = torch.tensor([0, 1, 2])
    cutoff = float(model.cutoffs[0, 2])
    base = torch.tensor([[0.0, 0, 0], [0.0, 1.3, 0.4], [0, 0, 0]], dtype=torch.float64)

    def at(distance):
        x = base.clone()
        x[2, 0] = distance
        e, f, _ = energies_and_forces(model, x, types)
        return e.sum(), f

    inside, outside = at(cutoff - 1e-9), at(cutoff + 1e-9)
    assert abs(inside[0] - outside[0]) < 1e-8
    assert (inside[1] - outside[1]).abs().max() < 1e-8
    nearer = at(cutoff - 0.6)
    assert abs(nearer[0] - outside[0]) > 1e-5  # the neighbor does matter inside


def test_edges_beyond_the_cutoff_count_nothing(make, cluster):
    model = make(zbl=True)
    positions, types, graph, vectors = cluster()
    wide = localgraph.neighbors(positions, 5.0)
    assert wide.num_edges > graph.num_edges
    a = model(vectors, graph.edge_index, types)
    b = model(localgraph.edge_vectors(positions, wide), wide.edge_index, types)
    torch.testing.assert_close(a, b, rtol=0, atol=1e-14)


def test_forces_and_stress_are_finite_differences(make):
    model = make(zbl=True)
    cell = torch.tensor([[4.0, 0, 0], [0.5, 4.3, 0], [-0.3, 0.2, 3.8]], dtype=torch.float64)
    fractional = torch.rand(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    x, types = fractional @ cell, torch.tensor([0, 1, 2, 0, 0])
    _, f, w = energies_and_forces(model, x, types, cell, True)
    h = 1e-4
    for atom, axis in ((0, 0), (3, 2)):
        ends = []
        for sign in (1, -1):
            moved = x.clone()
            moved[atom, axis] += sign * h
            ends.append(energies_and_forces(model, moved, types, cell, True)[0].sum())
        assert abs(-(ends[0] - ends[1]) / (2 * h) - f[atom, axis]) < 1e-6 * max(1, abs(f[atom, axis]))
    strain = torch.zeros(3, 3, dtype=torch.float64)
    strain[0, 1] = h
    ends = []
    for sign in (1, -1):
        deform = torch.eye(3, dtype=torch.float64) + sign * strain
        ends.append(energies_and_forces(model, x @ deform, types, cell @ deform, True)[0].sum())
    assert abs((ends[0] - ends[1]) / (2 * h) - w[0, 1]) < 1e-6 * max(1, abs(w[0, 1]))


@pytest.mark.parametrize("changes", [{}, dict(num_layers=3, l_max=1, zbl=True)], ids=str)
def test_gradcheck_and_gradgradcheck(make, cluster, changes):
    model = make(
        num_tensor_features=2, num_scalar_features=2, latent_width=3, scalar_embed_width=3, **changes
    )
    _, types, graph, vectors = cluster(num_atoms=4, size=2.0)
    vectors = vectors.requires_grad_(True)
    call = lambda r: model(r, graph.edge_index, types)  # noqa: E731
    assert torch.autograd.gradcheck(call, (vectors,))
    assert torch.autograd.gradgradcheck(call, (vectors,))


def test_nothing_one_atom_and_isolated_atoms(make):
    model = make(zbl=True)
    shifts = model.energy_shifts
    for types in (torch.zeros(0, dtype=torch.int64), torch.tensor([2]), torch.tensor([1, 0, 2])):
        vectors, index = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
        energies, g = localgraph.energies_and_edge_forces(model, vectors, index, types)
        assert torch.equal(energies, shifts[types]) and g.shape == (0, 3)


def test_isolated_atoms_keep_their_energy_among_others(make, cluster):
    model = make()
    _, types, graph, vectors = cluster()
    energies = model(vectors, graph.edge_index, types)
    assert energies[-1] == model.energy_shifts[types[-1]]
    assert (energies[:-1] != model.energy_shifts[types[:-1]]).all()
