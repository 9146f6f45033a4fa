"""Allegro as other packages meet it: registered, saved and read again, traced and compiled."""

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

import localgraph
from allegro_model import Allegro


def test_registered_and_conforming(make):
    assert localgraph.model_class("allegro") is Allegro
    model = make()
    assert isinstance(model, localgraph.EdgeModel)
    assert model.cutoffs.shape == (3, 3) and model.cutoffs.max() == model.cutoff


def test_model_file_round_trip(make, cluster, tmp_path):
    model = make(type_cutoffs={"H": {"O": 2.0}}, avg_num_neighbors={"H": 3.0, "C": 4.0, "O": 5.0}, zbl=True)
    localgraph.save_model(tmp_path / "m.safetensors", model, {"note": "test"})
    again, metadata = localgraph.load_model(tmp_path / "m.safetensors")
    assert metadata == {"note": "test"}
    assert again.to_config() == model.to_config()
    _, types, graph, vectors = cluster()
    assert torch.equal(model(vectors, graph.edge_index, types), again(vectors, graph.edge_index, types))


def test_construction_leaves_global_state_alone():
    before = torch.get_default_dtype(), torch.get_num_threads()
    Allegro.from_config({"type_names": ["H"], "cutoff": 3.0, "dtype": "float64"})
    assert (torch.get_default_dtype(), torch.get_num_threads()) == before


def test_symbolic_trace_serves_other_sizes(make, cluster):
    model = make(zbl=True).for_inference()

    def call(vectors, index, types):
        return localgraph.energies_and_edge_forces(model, vectors, index, types)

    _, types, graph, vectors = cluster(num_atoms=7)
    traced = make_fx(call, tracing_mode="symbolic", _allow_non_fake_inputs=True)(
        vectors, graph.edge_index, types
    )
    for num_atoms, cutoff in ((7, 3.0), (12, 2.5), (3, 1.0)):
        _, types, graph, vectors = cluster(seed=num_atoms, num_atoms=num_atoms, cutoff=cutoff)
        for a, b in zip(
            traced(vectors, graph.edge_index, types), call(vectors, graph.edge_index, types), strict=True
        ):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_compiled_energies_are_eager_ones(make, cluster):
    model = make(num_layers=2)
    compiled = torch.compile(model, fullgraph=True, dynamic=True)
    for num_atoms in (12, 7):
        _, types, graph, vectors = cluster(seed=num_atoms, num_atoms=num_atoms)
        torch.testing.assert_close(
            compiled(vectors, graph.edge_index, types),
            model(vectors, graph.edge_index, types),
            rtol=0,
            atol=1e-12,
        )


def test_cutoffs_without_a_model(make):
    model = make(type_cutoffs={"H": {"O": 2.0}})
    assert torch.equal(Allegro.cutoffs_of(model.to_config()), model.cutoffs)


@pytest.mark.parametrize("trainable", [False, True])
def test_shifted_energies(make, cluster, tmp_path, trainable):
    model = make(energy_shifts_trainable=trainable)
    _, types, graph, vectors = cluster()
    before = model(vectors, graph.edge_index, types)
    delta = torch.tensor([1.0, -2.0, 0.25], dtype=torch.float64)
    model.shift_energies(delta)
    after = model(vectors, graph.edge_index, types)
    torch.testing.assert_close(after - before, delta[types], rtol=0, atol=1e-12)
    again = Allegro.from_config(model.to_config())
    assert torch.equal(again.energy_shifts, model.energy_shifts)
    for wrong in (delta[:2], delta * float("nan")):
        with pytest.raises(ValueError, match="delta must be 3 finite numbers"):
            model.shift_energies(wrong)
