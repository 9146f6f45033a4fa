"""Files of nequip-allegro, made here in their formats, open as the equal model; foreign and damaged ones are named."""

import io
import os
import pickle
import sys
import types
import zipfile

import pytest
import torch

import localgraph
from allegro_model.importers._checkpoint import view_of
from allegro_model.nequip import from_nequip, load, matches

MODEL = "model.sole_model."
FUNC = "model.func."


# version of nequip, version of allegro, two-body embedding, the MLP behind it
LAYOUTS = {
    "0.4": ("0.7.0", "0.4.0", "scalar_embed", "scalar_embed.twobody_mlp.mlp_module"),
    "0.7": ("0.13.0", "0.7.1", "radial_chemical_embed", "scalar_embed_mlp.mlp_module"),
    "0.8": ("0.19.1", "0.8.3", "radial_chemical_embed", "scalar_embed_mlp.mlp_module"),
}


def nequip_state(model, layout="0.8"):
    """The state of the model under the names and layout of a version of nequip-allegro."""
    c, rows = model.config, model.config.l_max + 1
    _, _, embed, network = LAYOUTS[layout]

    def mlp(name, ours, stacked=0):
        out = {}
        for k, weight in enumerate(ours.weights):
            if stacked and k == len(ours.weights) - 1:
                block = weight[:, -stacked:].unflatten(1, (rows, c.num_tensor_features)).transpose(1, 2)
                weight = torch.cat([weight[:, :-stacked], block.flatten(1)], 1)
            linear = ours.nonlinearity is None and len(ours.weights) > 1
            out[f"{name}.mlp.weights.{k}" if linear else f"{name}.mlp.{2 * k}.weight"] = weight
        return out

    wide = rows * c.num_tensor_features
    own = wide if c.weight_individual_irreps else 0
    state = {"edge_norm._rmax_recip": 1 / model.cutoff_table.flatten()}
    if c.radial_embedding == "spline":
        lower = (torch.arange(c.num_splines, dtype=torch.float64) - c.spline_span) / c.num_splines
        table = model.spline_coefficients.transpose(2, 3).flatten(2).flatten(0, 1)
        state |= {
            f"{embed}.spline.class_embed.weight": table,
            f"{embed}.spline.lower": lower,
            f"{embed}.spline.upper": lower + (c.spline_span + 1) / c.num_splines,
        }
    else:
        state |= {
            f"{embed}.bessel_encode.bessel_weights": model.bessel_frequencies[None],
            f"{embed}.type_embed.center_embed.weight": model.center_embedding,
            f"{embed}.type_embed.neighbor_embed.weight": model.neighbor_embedding,
            **mlp(f"{embed}.type_embed.basis_linear", model.basis_linear),
        }
    state |= mlp(network, model.scalar_embed)
    state |= mlp("tensor_embed.env_embed_linear", model.tensor_embed, wide)
    state |= mlp("allegro.first_layer_env_embed_projection", model.first_projection, own)
    for k, latent in enumerate(model.latents):
        state.update(mlp(f"allegro.latents.{k}", latent, own if k + 1 < c.num_layers else 0))
    for k, weights in enumerate(model.products):
        state[f"allegro.tps.{k}.weights"] = weights.T
    state.update(mlp("edge_readout.mlp_module", model.readout))
    for name in ("scales", "shifts"):
        state[f"per_type_energy_scale_shift.{name}"] = getattr(model, f"energy_{name}")[:, None]
    if c.zbl:
        state["pair_potential.atomic_numbers"] = model.atomic_numbers
        state["pair_potential._qqr2exesquare"] = torch.tensor(0.5 * 14.399645, dtype=torch.float64)
    if c.lennard_jones is not None:
        tables = {name: getattr(model, f"lj_{name}") for name in ("sigma", "epsilon", "delta")}
        state |= {f"pair_potential.{name}": table.triu() for name, table in tables.items()}
    return {FUNC + name: tensor.detach().clone().contiguous() for name, tensor in state.items()}


def checkpoint(model, layout="0.8", **changes):
    c, (nequip, allegro, embed, _) = model.config, LAYOUTS[layout]
    old = layout == "0.4"
    kind = "Spline" if c.radial_embedding == "spline" else "Bessel"
    config = {
        "_target_": "allegro.model.AllegroModel",
        "type_names": list(c.type_names),
        "r_max": c.cutoff,
        "l_max": c.l_max,
        embed: {
            "_target_": f"allegro.nn.TwoBody{kind}ScalarEmbed",
            "polynomial_cutoff_p": c.polynomial_cutoff_p,
        },
        "num_scalar_features": c.num_scalar_features,
        "num_tensor_features": c.num_tensor_features,
        "weight_individual_irreps": c.weight_individual_irreps,
        "readout_mlp_nonlinearity": c.readout_nonlinearity,
        "avg_num_neighbors": c.avg_num_neighbors,
        "per_type_energy_scales": list(c.energy_scales.values()) if old else dict(c.energy_scales),
        "per_type_energy_shifts": list(c.energy_shifts.values()) if old else dict(c.energy_shifts),
        **({"parity_setting": "o3_full" if c.parity else "o3_restricted"} if old else {"parity": c.parity}),
    }
    if c.zbl:
        config["pair_potential"] = {"_target_": "nequip.nn.pair_potential.ZBL"}
    if c.lennard_jones is not None:
        lj = c.lennard_jones
        config["pair_potential"] = {
            "_target_": "nequip.nn.pair_potential.LennardJones",
            "lj_exponent": lj.exponent,
            "lj_style": lj.style,
            **{f"lj_{name}_trainable": True for name in lj.trainable},
        }
    if "pair_potential" in config and layout == "0.8":
        config["pair_potential"]["polynomial_cutoff_p"] = c.pair_cutoff_p or c.polynomial_cutoff_p
    state = {MODEL + name: tensor for name, tensor in nequip_state(model, layout).items()}
    hyper = {
        "model": {**config, **changes},
        "info_dict": {"versions": {"nequip": nequip, "allegro": allegro}},
    }
    return {"state_dict": state, "hyper_parameters": hyper}


def live_view(model, layout="0.8"):
    """A view of the whole model, as one of a package: a layout before 0.8 has factors and no norm modules."""
    root = view_of(checkpoint(model, layout), "sole_model", "m")
    if layout != "0.8":
        func, average = root.child("model.func"), model.config.avg_num_neighbors
        del func.child("allegro").children["avg_num_neighbors_norm"]
        del func.child("edge_eng_sum").children["norm_module"]
        for tp in func.child("allegro.tps").children.values():
            tp.attributes["scatter_factor"] = 1 / average**0.5
        func.child("edge_eng_sum").attributes["_factor"] = 1 / (2 * average) ** 0.5
    return root


def package(path, root, monkeypatch):
    """Write a view of a model as torch.package writes a module: records of classes that exist nowhere here."""
    home = types.ModuleType("nequip_like")
    monkeypatch.setitem(sys.modules, "nequip_like", home)

    def module(view):
        if not hasattr(home, view.kind):
            setattr(home, view.kind, type(view.kind, (), {"__module__": "nequip_like"}))
        made = getattr(home, view.kind)()
        made.__dict__.update(view.attributes)
        trained = {name: t for name, t in view.tensors.items() if t.requires_grad}
        made._parameters = {name: torch.nn.Parameter(t.detach()) for name, t in trained.items()}
        made._buffers = {name: t for name, t in view.tensors.items() if name not in trained}
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


LJ = {"sigma": [[1.0, 1.1, 1.2], [1.1, 1.3, 1.4], [1.2, 1.4, 1.5]], "epsilon": 0.1, "trainable": ["sigma"]}
MODELS = {
    "plain": {},
    "three layers": dict(num_layers=3, parity=False, readout_nonlinearity="silu"),
    "no tensors": dict(l_max=0, scalar_embed_dim=11),
    "shared weights": dict(weight_individual_irreps=False, num_layers=3),
    "ZBL": dict(zbl=True, polynomial_cutoff_p=8.0, type_cutoffs={"H": {"O": 2.0}}),
    "Lennard-Jones": dict(lennard_jones=LJ),
}
NEWER = {
    "splines": dict(radial_embedding="spline", num_splines=5, spline_span=3),
    "splines and ZBL": dict(radial_embedding="spline", zbl=True, pair_cutoff_p=4.0),
    "neighbors per type": dict(avg_num_neighbors={"H": 3.0, "C": 8.0, "O": 5.0}),
    "own pair cutoff": dict(lennard_jones={**LJ, "style": "repulsive"}, pair_cutoff_p=4.0),
}
CASES = [
    *((layout, name) for layout in LAYOUTS for name in MODELS),
    *(("0.8", name) for name in NEWER),
]


@pytest.fixture(params=CASES, ids=" ".join)
def written(request, make):
    """A layout and a model that it can hold."""
    layout, name = request.param
    return layout, make(**{**MODELS, **NEWER}[name])


def same(found, expected):
    """Assert the same weights, and the same function of edges."""
    ours, theirs = found.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(value, theirs[name], rtol=1e-14, atol=1e-14)
    trained = [{n for n, p in m.named_parameters() if p.requires_grad} for m in (found, expected)]
    assert trained[0] == trained[1]
    generator = torch.Generator().manual_seed(0)
    vectors = torch.rand(6, 3, dtype=torch.float64, generator=generator) - 0.3
    index, types = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]]), torch.tensor([0, 1, 2])
    for a, b in zip(found(vectors, index, types), expected(vectors, index, types), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-13, atol=1e-12)


def test_checkpoint(written, tmp_path):
    layout, model = written
    torch.save(checkpoint(model, layout), tmp_path / "m.ckpt")
    assert matches(tmp_path / "m.ckpt")
    same(load(tmp_path / "m.ckpt"), model)


def test_package(written, tmp_path, monkeypatch):
    layout, model = written
    path = tmp_path / "m.nequip.zip"
    package(path, live_view(model, layout), monkeypatch)
    assert matches(path)
    same(load(path), model)
    with pytest.raises(ValueError, match=r"model_key must be one of \['sole_model'\]"):
        load(path, "other")


@pytest.mark.parametrize("layout", LAYOUTS)
def test_moving_average_is_what_is_read(make, tmp_path, layout):
    model, average = make(seed=0), make(seed=1)
    data = checkpoint(model, layout)
    constant = ("_rmax_recip", "bessel_weights", "scales", "shifts")
    values = [t for name, t in nequip_state(average, layout).items() if not name.endswith(constant)]
    data["state_dict"].update({f"ema.ema_weight_{k}": t for k, t in enumerate(values)})
    torch.save(data, tmp_path / "m.ckpt")
    same(from_nequip(tmp_path / "m.ckpt"), average)
    del data["state_dict"]["ema.ema_weight_3"]
    torch.save(data, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="moving average fits"):
        from_nequip(tmp_path / "m.ckpt")


@pytest.mark.parametrize(("allegro", "rounded"), [("0.7.1", False), ("0.8.1", False), ("0.8.2", True)])
def test_a_norm_in_single_precision_is_rounded_where_allegro_rounds_it(make, tmp_path, allegro, rounded):
    """Up to 0.8.1 it is a Python float, from 0.8.2 on a buffer in the dtype of the model."""
    data = checkpoint(make(dtype="float32", avg_num_neighbors=9.0))
    data["hyper_parameters"]["info_dict"]["versions"]["allegro"] = allegro
    torch.save(data, tmp_path / "m.ckpt")
    third = torch.tensor(1 / 3, dtype=torch.float64)
    expected = third.float().double() if rounded else third
    norm = load(tmp_path / "m.ckpt").density_norm
    torch.testing.assert_close(norm, expected.expand_as(norm), rtol=1e-15, atol=0)


def test_model_of_energies_and_kernel_modifiers(make, tmp_path):
    """An AllegroEnergyModel has no module of derivatives; a modifier may choose kernels."""
    model = make()
    data = checkpoint(model)
    hyper = data["hyper_parameters"]
    energies = {**hyper["model"], "_target_": "allegro.model.AllegroEnergyModel"}
    modifiers = [{"modifier": "enable_TritonContracter"}]
    hyper["model"] = {"_target_": "nequip.model.modify", "modifiers": modifiers, "model": energies}
    data["state_dict"] = {k.replace(FUNC, "model."): v for k, v in data["state_dict"].items()}
    torch.save(data, tmp_path / "m.ckpt")
    same(load(tmp_path / "m.ckpt"), model)


def test_types_that_are_no_elements(make, tmp_path):
    """Their elements come from the argument, else from the atomic numbers of ZBL, else they have none."""
    elements = {"Hw": "H", "Ow": "O"}
    constants = {"Hw": 1.0, "C": 2.0, "Ow": 3.0}
    changes = dict(type_names=list(constants), energy_scales=constants, energy_shifts=constants)
    for zbl, known in ((False, ("Hw", "C", "Ow")), (True, ("H", "C", "O"))):
        torch.save(checkpoint(make(**changes, elements=elements, zbl=zbl)), tmp_path / "m.ckpt")
        assert load(tmp_path / "m.ckpt").elements == known
        assert from_nequip(tmp_path / "m.ckpt", elements=elements).elements == ("H", "C", "O")
    with pytest.raises(ValueError, match="atomic numbers"):
        load(tmp_path / "m.ckpt", elements={"Hw": "O"})


def test_reading_leaves_global_state_alone(make, tmp_path):
    torch.save(checkpoint(make()), tmp_path / "m.ckpt")
    before = torch.get_rng_state(), torch.get_default_dtype(), dict(os.environ)
    load(tmp_path / "m.ckpt")
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1:] == (torch.get_default_dtype(), dict(os.environ))


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
    changes = dict(
        allegro_mlp_nonlinearity="ssp",
        pair_potential={"_target_": "nequip.nn.Buckingham"},
        parity_setting="so3",
        scatter_features=True,
    )
    data = checkpoint(make(), "0.4", **changes)
    data["state_dict"][MODEL + FUNC + "pair_potential.rho"] = torch.ones(3)
    data["state_dict"][MODEL + FUNC + "extra.weight"] = torch.ones(3)
    torch.save(data, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="path must be a model with a counterpart here") as error:
        load(tmp_path / "m.ckpt")
    for part in ("ShiftedSoftplus", "Buckingham", "so3", "scatter_features", "extra.weight", "potential.rho"):
        assert part in str(error.value)


def test_a_pair_potential_that_jumps_is_refused(make, tmp_path):
    data = checkpoint(make(lennard_jones=LJ), "0.7")
    data["hyper_parameters"]["model"]["pair_potential"]["lj_style"] = "lj_repulsive_only"
    torch.save(data, tmp_path / "m.ckpt")
    with pytest.raises(ValueError, match="lj_repulsive_only jumps at its minimum"):
        load(tmp_path / "m.ckpt")


def archive(path, **contents):
    """Write a zip file of torch with members of the names given."""
    with zipfile.ZipFile(path, "w") as file:
        for name, content in contents.items():
            file.writestr("m/" + name.replace("__", "/").replace("_pkl", ".pkl"), content)


def nequip_not_allegro(path, make, monkeypatch):
    """Write a package whose model has convolutions in place of the Allegro module."""
    root = live_view(make())
    func = root.child("model.func")
    func.children["layer0_convnet"] = func.children.pop("allegro")
    package(path, root, monkeypatch)


BAD = {
    "nequip.ckpt": "of 'nequip.model.NequIPGNNModel': if it is an Allegro model, package it",
    "tuned.ckpt": "of 'nequip.model.ModelFromPackage': if it is an Allegro model, package it",
    "nequip.nequip.zip": "a NequIP model has no counterpart",
    "other.ckpt": "without a state and a model configuration",
    "short.ckpt": "not a zip file.*: copy or download it again",
    "config.ckpt": "not a zip file",
    "empty.nequip.zip": "neither model/eager_model.pkl nor data.pkl",
    "weightless.ckpt": r"storage \d+ is missing.*: copy or download it again",
    "deployed.pth": "a model compiled by nequip",
    "compiled.nequip.pt2": "a model compiled by nequip",
    "config.yaml": "a configuration without weights: import the package or checkpoint",
    "best_model.pth": "weights without settings, as nequip kept them beside a config.yaml",
}


@pytest.fixture
def bad_files(make, tmp_path, monkeypatch):
    good = tmp_path / "good.ckpt"
    torch.save(checkpoint(make()), good)
    for name, target in (("nequip", "NequIPGNNModel"), ("tuned", "ModelFromPackage")):
        torch.save(checkpoint(make(), _target_=f"nequip.model.{target}"), tmp_path / f"{name}.ckpt")
    nequip_not_allegro(tmp_path / "nequip.nequip.zip", make, monkeypatch)
    torch.save({"state_dict": {}}, tmp_path / "other.ckpt")
    (tmp_path / "short.ckpt").write_bytes(good.read_bytes()[:3000])
    for name in ("config.ckpt", "config.yaml"):
        (tmp_path / name).write_text("root: results\n")
    archive(tmp_path / "empty.nequip.zip", model__package_metadata="")
    with zipfile.ZipFile(good) as source, zipfile.ZipFile(tmp_path / "weightless.ckpt", "w") as file:
        for name in source.namelist():
            if "/data/" not in name:
                file.writestr(name, source.read(name))
    for name in ("deployed.pth", "compiled.nequip.pt2"):
        archive(tmp_path / name, data_pkl=pickle.dumps({}), constants_pkl=pickle.dumps(()), code__m="")
    torch.save(nequip_state(make()), tmp_path / "best_model.pth")
    return tmp_path


def test_bad_files(bad_files):
    for name, message in BAD.items():
        assert matches(bad_files / name)
        with pytest.raises(ValueError, match=message) as error:
            load(bad_files / name)
        assert "path must be" in str(error.value)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(bad_files / "nowhere.ckpt")


def test_public_models_are_known_by_name():
    known = localgraph.published()
    for name, digest in [
        ("nequip.net:mir-group/Allegro-OAM-L:0.1", "0db7f9b3c3a62e74d78b3fcf2973c462"),
        ("nequip.net:mir-group/Allegro-MP-L:0.1", "c68d5345e925ee444543d6d4d968161f"),
    ]:
        assert known[name].md5 == digest and known[name].license == "CC-BY-4.0"
        assert known[name].file.endswith(".nequip.zip")  # which the importer of this package reads
