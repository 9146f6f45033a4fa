"""Files of nequip-allegro, made here in their formats, open as the equal model; foreign and damaged ones are named."""

import io
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch

from allegro_model.importers._checkpoint import view_of
from allegro_model.nequip import from_nequip, load, matches

MODEL = "model.sole_model."
FUNC = "model.func."


def nequip_state(model):
    """The state of the model under the names and layout of nequip-allegro 0.8."""
    c, rows = model.config, model.config.l_max + 1

    def mlp(name, ours, stacked=0):
        out = {}
        for k, weight in enumerate(ours.weights):
            if stacked and k == len(ours.weights) - 1:
                block = weight[:, -stacked:].unflatten(1, (rows, c.num_tensor_features)).transpose(1, 2)
                weight = torch.cat([weight[:, :-stacked], block.flatten(1)], 1)
            linear = ours.nonlinearity is None and len(ours.weights) > 1
            out[f"{FUNC}{name}.mlp.weights.{k}" if linear else f"{FUNC}{name}.mlp.{2 * k}.weight"] = weight
        return out

    wide = rows * c.num_tensor_features
    embed = FUNC + "radial_chemical_embed."
    state = {
        FUNC + "edge_norm._rmax_recip": 1 / model.cutoff_table.flatten(),
        embed + "bessel_encode.bessel_weights": model.bessel_frequencies[None],
        embed + "type_embed.center_embed.weight": model.center_embedding,
        embed + "type_embed.neighbor_embed.weight": model.neighbor_embedding,
        **mlp("radial_chemical_embed.type_embed.basis_linear", model.basis_linear),
        **mlp("scalar_embed_mlp.mlp_module", model.scalar_embed),
        **mlp("tensor_embed.env_embed_linear", model.tensor_embed, wide),
        **mlp("allegro.first_layer_env_embed_projection", model.first_projection, wide),
    }
    for k, latent in enumerate(model.latents):
        state.update(mlp(f"allegro.latents.{k}", latent, wide if k + 1 < c.num_layers else 0))
    for k, weights in enumerate(model.products):
        state[f"{FUNC}allegro.tps.{k}.weights"] = weights.T
    state.update(mlp("edge_readout.mlp_module", model.readout))
    for name in ("scales", "shifts"):
        state[f"{FUNC}per_type_energy_scale_shift.{name}"] = getattr(model, f"energy_{name}")[:, None]
    return {name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def checkpoint(model, **changes):
    c = model.config
    config = {
        "_target_": "allegro.model.AllegroModel",
        "type_names": list(c.type_names),
        "r_max": c.cutoff,
        "l_max": c.l_max,
        "parity": c.parity,
        "radial_chemical_embed": {"_target_": "allegro.nn.TwoBodyBesselScalarEmbed"},
        "num_scalar_features": c.num_scalar_features,
        "num_tensor_features": c.num_tensor_features,
        "readout_mlp_nonlinearity": c.readout_nonlinearity,
        "avg_num_neighbors": c.avg_num_neighbors,
        "per_type_energy_scales": dict(c.energy_scales),
        "per_type_energy_shifts": dict(c.energy_shifts),
        **changes,
    }
    state = {MODEL + name: tensor for name, tensor in nequip_state(model).items()}
    return {"state_dict": state, "hyper_parameters": {"model": config}}


def package(path, root, monkeypatch):
    """Write a view of a model as torch.package writes a module: records of classes that exist nowhere here."""
    home = types.ModuleType("nequip_like")
    monkeypatch.setitem(sys.modules, "nequip_like", home)

    def module(view):
        if not hasattr(home, view.kind):
            setattr(home, view.kind, type(view.kind, (), {"__module__": "nequip_like"}))
        made = getattr(home, view.kind)()
        made.__dict__.update(view.attributes)
        made._parameters, made._buffers = {}, dict(view.tensors)
        made._modules = {name: module(child) for name, child in view.children.items()}
        return made

    storages = []

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, torch.storage.TypedStorage):
                return None
            storages.append(bytes(value._untyped_storage.tolist()))
            kind = {torch.float64: torch.DoubleStorage, torch.float32: torch.FloatStorage}[value.dtype]
            return ("storage", kind, str(len(storages) - 1), "cpu", len(storages[-1]) // value.dtype.itemsize)

    buffer = io.BytesIO()
    models = type("ModuleDict", (), {"__module__": "nequip_like"})
    home.ModuleDict = models
    made = models()
    made._parameters, made._buffers, made._modules = {}, {}, {"sole_model": module(root)}
    Pickler(buffer, protocol=3).dump(made)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("p/model/eager_model.pkl", buffer.getvalue())
        for k, storage in enumerate(storages):
            file.writestr(f"p/.data/{k}.storage", storage)


@pytest.fixture(params=[{}, dict(num_layers=3, parity=False, readout_nonlinearity="silu")], ids=str)
def model(request, make):
    return make(**request.param)


def same(a, b):
    assert a.to_config()["l_max"] == b.to_config()["l_max"]
    ours, theirs = a.state_dict(), b.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-15, atol=1e-15)


def test_checkpoint(model, tmp_path):
    torch.save(checkpoint(model), tmp_path / "m.ckpt")
    assert matches(tmp_path / "m.ckpt")
    same(load(tmp_path / "m.ckpt"), model)


def test_moving_average_is_what_is_read(make, tmp_path):
    model, average = make(seed=0), make(seed=1)
    data = checkpoint(model)
    constant = ("_rmax_recip", "bessel_weights", "scales", "shifts")
    values = [t for name, t in nequip_state(average).items() if not name.endswith(constant)]
    data["state_dict"].update({f"ema.ema_weight_{k}": t for k, t in enumerate(values)})
    torch.save(data, tmp_path / "m.ckpt")
    same(from_nequip(tmp_path / "m.ckpt"), average)
    del data["state_dict"]["ema.ema_weight_3"]
    torch.save(data, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="moving average fits"):
        from_nequip(tmp_path / "m.ckpt")


def test_packaged_model(model, tmp_path, monkeypatch):
    path = tmp_path / "m.nequip.zip"
    package(path, view_of(checkpoint(model), "sole_model", "m"), monkeypatch)
    assert matches(path)
    same(load(path), model)
    with pytest.raises(ValueError, match=r"model_key must be one of \['sole_model'\]"):
        load(path, "other")


def test_layout_of_allegro_0_7(make, tmp_path, monkeypatch):
    model = make(avg_num_neighbors=9.0)
    root = view_of(checkpoint(model), "sole_model", "m")
    func = root.child("model.func")
    del func.child("allegro").children["avg_num_neighbors_norm"]
    del func.child("edge_eng_sum").children["norm_module"]
    for tp in func.child("allegro.tps").children.values():
        tp.attributes["scatter_factor"] = 1 / 3
    func.child("edge_eng_sum").attributes["_factor"] = 1 / 18**0.5
    package(tmp_path / "m.nequip.zip", root, monkeypatch)
    same(load(tmp_path / "m.nequip.zip"), model)


class Malicious:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_nothing_of_a_file_is_executed(make, tmp_path, monkeypatch):
    model, marker = make(), tmp_path / "executed"
    torch.save({**checkpoint(model), "callbacks": Malicious(marker)}, tmp_path / "m.ckpt")
    same(load(tmp_path / "m.ckpt"), model)
    root = view_of(checkpoint(model), "sole_model", "m")
    root.attributes["hook"] = Malicious(marker)
    package(tmp_path / "m.nequip.zip", root, monkeypatch)
    same(load(tmp_path / "m.nequip.zip"), model)
    assert not marker.exists()
    pickle.loads(pickle.dumps(Malicious(marker)))
    assert marker.exists()  # it would have done something


def test_what_has_no_counterpart_is_named_in_one_error(make, tmp_path):
    data = checkpoint(
        make(), allegro_mlp_nonlinearity="ssp", pair_potential={"_target_": "nequip.nn.LennardJones"}
    )
    data["state_dict"][MODEL + FUNC + "pair_potential.eps"] = torch.ones(3)
    torch.save(data, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match=r"(?s)ShiftedSoftplus.*LennardJones"):
        load(tmp_path / "m.ckpt")


def test_bad_files(make, tmp_path):
    good = tmp_path / "good.ckpt"
    torch.save(checkpoint(make()), good)
    nequip = checkpoint(make(), _target_="nequip.model.NequIPGNNModel")
    torch.save(nequip, tmp_path / "nequip.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "short.ckpt").write_bytes(good.read_bytes()[:3000])
    with zipfile.ZipFile(tmp_path / "empty.nequip.zip", "w") as file:
        file.writestr("p/model/package_metadata.txt", "")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "weightless.ckpt", "w") as file:
        for name in source.namelist():
            if "/data/" not in name:
                file.writestr(name, source.read(name))
    for name, message in {
        "nequip.ckpt": "of 'nequip.model.NequIPGNNModel'",
        "other.ckpt": "without a state and a model configuration",
        "short.ckpt": "complete checkpoint or packaged model",
        "empty.nequip.zip": "neither model/eager_model.pkl nor data.pkl",
        "weightless.ckpt": r"storage \d+ is missing",
    }.items():
        with pytest.raises(ValueError, match=message) as error:
            load(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere.ckpt")
