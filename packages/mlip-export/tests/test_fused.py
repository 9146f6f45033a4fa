"""Fused layers: what the option changes, what a program holds, and what is refused, with no GPU."""

import pytest
import torch

import localgraph
import mlip_export
from mlip_export import inductor
from mlip_export._model import agreement_of, prepared, reference_model
from mlip_export._trace import trace
from mlip_export.graphs import cluster, traced_graph
from mlip_export.loaded import open_function

OPTIONS = dict(
    type_names=["H", "O"], cutoff=4.0, num_scalar_features=8, num_tensor_features=8, latent_width=16
)


@pytest.fixture
def model():
    """A small Allegro in float32."""
    allegro = pytest.importorskip("allegro_model")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return allegro.Allegro(allegro.AllegroConfig(**OPTIONS, avg_num_neighbors=20.0))


def program_of(model):
    module = model.for_inference()
    return trace(module, traced_graph(model.cutoffs, torch.device("cpu")))


def test_the_option_decides_and_the_reference_is_composed(model):
    fused = prepared(model, None, "cpu", fused=True)
    assert fused.to_config()["fused_layers"] and agreement_of(fused) == "tf32"
    assert all(torch.equal(a, b) for a, b in zip(fused.parameters(), model.parameters(), strict=True))
    for composed in (prepared(fused, None, "cpu"), reference_model(fused)):
        assert not composed.to_config()["fused_layers"]
    assert agreement_of(prepared(fused, None, "cpu")) == "float32"
    double = prepared(model, "float64", "cpu", fused=True)
    assert double.to_config()["fused_layers"] and double.to_config()["dtype"] == "float64"


def test_a_program_holds_an_operator_per_layer_and_direction(model):
    program = program_of(prepared(model, None, "cpu", fused=True))
    names = [str(node.target) for node in program.graph.nodes]
    for name in ("equitensor.edge_layer.default", "equitensor.edge_layer_backward.default"):
        assert names.count(name) == 2
    inputs = cluster(model.cutoffs, 40, isolated=2, seed=3)
    expected = localgraph.energies_and_edge_forces(model, *inputs)
    for found, value in zip(program.module()(*inputs), expected, strict=True):
        torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_compiled_program(model, tmp_path):
    """On a CPU the operators are composed, in the program too."""
    path = tmp_path / "a.pt2"
    inductor.build(program_of(prepared(model, None, "cpu", fused=True)), path, inductor.options("native"))
    function = open_function(path, torch.device("cpu"))
    for atoms, isolated in ((40, 2), (2, 0), (1, 0)):
        inputs = cluster(model.cutoffs, atoms, isolated=isolated, seed=3)
        expected = localgraph.energies_and_edge_forces(model, *inputs)
        for found, value in zip(function(*inputs), expected, strict=True):
            torch.testing.assert_close(found, value, rtol=1e-4, atol=1e-5)


def test_models_without_fused_layers_are_named(toy):
    with pytest.raises(ValueError, match=r"fused must be False for model .* has no fused_layers, got True"):
        prepared(toy(("H", "O"), 3.5), None, "cpu", fused=True)


def test_sizes_of_other_depths_are_named(model):
    deep = type(model).from_config({**model.to_config(), "latent_depth": 3})
    with pytest.raises(ValueError, match="latent_depth must be 2 with fused_layers, got 3"):
        prepared(deep, None, "cpu", fused=True)


def test_a_cpu_is_refused(model, tmp_path):
    with pytest.raises(ValueError, match="fused must be False but for device 'cuda' with precision 'tf32'"):
        mlip_export.compile(model, tmp_path / "a.pt2", fused=True)
    assert list(tmp_path.iterdir()) == []
