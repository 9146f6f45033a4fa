"""Export with tables of the two-body features: recorded, described, within its tolerance, and refused in words."""

import dataclasses

import pytest
import torch

import localgraph
import mlip_export
from mlip_export import cli
from mlip_export._describe import describe
from mlip_export.graphs import cluster
from mlip_export.products import choose


@pytest.fixture(scope="module")
def allegro():
    """A small Allegro of float32 weights, and the same in float64."""
    package = pytest.importorskip("allegro_model")
    options = dict(type_names=["H", "O"], cutoff=3.5, l_max=1, num_scalar_features=8, num_tensor_features=4)
    options |= dict(latent_width=16, latent_depth=1, scalar_embed_width=8, avg_num_neighbors=20.0)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        single = package.Allegro(package.AllegroConfig(**options))
    double = package.Allegro(package.AllegroConfig(**options, dtype="float64"))
    double.load_state_dict(single.state_dict())
    return single, double


def test_an_export_with_tables(allegro, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(choose, "CLEAR", 0.0)  # one build
    single, double = allegro
    source, target = tmp_path / "model.safetensors", tmp_path / "model.pt2"
    localgraph.save_model(source, single)
    assert cli.main(["compile", str(source), "-o", str(target), "--two-body-table", "1e-8"]) == 0
    found = mlip_export.read_metadata(target)
    table = found.two_body_table
    assert table["tolerance"] == 1e-8 and 0 < table["max_force"] <= 1e-8
    assert (
        "two-body table: forces within 1e-08 eV/Å of the model in float64 (largest" in capsys.readouterr().out
    )
    assert found.verification["comparisons"] == 42 and found.verification["max_force"] < 1e-5
    edges = cluster(single.cutoffs, 200, seed=11)
    expected = localgraph.energies_and_edge_forces(double, *edges)
    for a, b in zip(mlip_export.load(target)(*edges), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)
    assert "two-body table" not in describe(dataclasses.replace(found, two_body_table={}))


def test_the_option_without_a_number():
    parse = cli.build_parser().parse_args
    assert parse(["compile", "a", "--two-body-table"]).two_body_table == 1e-7
    assert parse(["compile", "a"]).two_body_table is None


@pytest.mark.parametrize("value", [1e-10, 1e-5, 0.0, float("nan")])
def test_tolerances_out_of_range(allegro, tmp_path, value):
    with pytest.raises(ValueError, match=r"two_body_table must be from 1e-09 to 1e-06 eV/Å, got"):
        mlip_export.compile(allegro[0], tmp_path / "a.pt2", two_body_table=value)


def test_models_without_tables_are_named(allegro, toy, tmp_path, monkeypatch):
    single, double = allegro
    with pytest.raises(
        ValueError, match="must be None for model 'export_toy', which has no method tabulated"
    ):
        mlip_export.compile(toy(("H", "O"), 3.5), tmp_path / "a.pt2", two_body_table=1e-7)
    with pytest.raises(ValueError, match="must be None for a model without float32 weights"):
        mlip_export.compile(double, tmp_path / "a.pt2", two_body_table=1e-7)
    from allegro_model import tabulate

    monkeypatch.setattr(tabulate, "LARGEST", 1000)
    with pytest.raises(
        ValueError, match=r"that tables of this model keep, got 1e-07: tables must take at most"
    ):
        mlip_export.compile(single, tmp_path / "a.pt2", two_body_table=1e-7)
    assert not any(tmp_path.iterdir())
