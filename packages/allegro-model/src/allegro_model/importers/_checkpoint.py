"""Checkpoints of nequip-allegro: settings from the stored configuration, weights from the state."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod, sqrt
from typing import Any

import torch
from torch import Tensor

from allegro_model.importers._view import CONSTANTS, ModuleView
from allegro_model.track import tensor_track
from equitensor.paths import spherical_irreps

_MODULES = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "tanh": "Tanh", "ssp": "ShiftedSoftplus"}
_UNSUPPORTED = "a model of allegro.model.AllegroModel (allegro ≥ 0.5)"


def view_of(checkpoint: Any, model_key: str, path: str) -> ModuleView:
    """View the model of a checkpoint with the weights that nequip evaluates with."""
    hyper = checkpoint.get("hyper_parameters") if isinstance(checkpoint, Mapping) else None
    config = hyper.get("model") if isinstance(hyper, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(checkpoint.get("state_dict"), Mapping):
        raise ValueError(
            f"path must be a checkpoint of nequip, got {path!r} without a state and a model configuration"
        )
    if model_key in config and "_target_" not in config:
        config = config[model_key]
    target = config.get("_target_")
    if target != "allegro.model.AllegroModel":
        raise ValueError(f"path must be a checkpoint of {_UNSUPPORTED}, got {path!r} of {target!r}")
    if "radial_chemical_embed" not in config:
        raise ValueError(
            f"path must be a checkpoint of {_UNSUPPORTED}, got {path!r} of an older allegro: package it with its own "
            "nequip-package and import the package"
        )
    state = _weights(checkpoint["state_dict"], config, model_key, path)
    root = ModuleView("GraphModel")
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        (root.child(owner) if owner else root).tensors[leaf] = tensor
    root.attributes["type_names"] = list(config["type_names"])
    _annotate(root.child("model.func"), config)
    return root


def _weights(
    state: Mapping[str, Any], config: Mapping[str, Any], model_key: str, path: str
) -> dict[str, Tensor]:
    """Return the state of the model, with the moving average in place of the weights where there is one."""
    tensors = {k: v for k, v in state.items() if isinstance(v, Tensor)}
    prefix = f"model.{model_key}."
    if not any(name.startswith(prefix) for name in tensors):
        prefix = "model."
    model = {
        name.removeprefix(prefix).replace("._orig_mod", ""): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    average = {
        int(name.rpartition("_")[2]): value
        for name, value in tensors.items()
        if name.startswith("ema.ema_weight_")
    }
    if not average:
        return model
    embed = config.get("radial_chemical_embed", {})
    constant = {
        *CONSTANTS,
        *(() if embed.get("bessel_trainable", False) else ("bessel_weights",)),
        *(n for n in ("scales", "shifts") if not _trainable(config, n)),
    }
    names = [name for name in model if name.rsplit(".", 1)[-1] not in constant]
    averages = [average[k] for k in sorted(average)]
    fits = [model[name].shape for name in names] == [value.shape for value in averages]
    if not fits or not state.get("ema._extra_state", {}).get("is_holding_ema_weights", True):
        raise ValueError(
            f"path must be a checkpoint whose moving average fits its model, got {path!r} where it does not"
        )
    return {**model, **dict(zip(names, averages, strict=True))}


def _trainable(config: Mapping[str, Any], name: str) -> bool:
    given = config.get(f"per_type_energy_{name}") is not None
    return given and bool(config.get(f"per_type_energy_{name}_trainable", False))


def _annotate(func: ModuleView, config: Mapping[str, Any]) -> None:
    """Set the kinds and settings that the mapping reads, which live modules have and a state does not."""
    get = config.get
    forward = get("forward_normalize", True)
    func.child("edge_norm").attributes["r_max"] = float(config["r_max"])
    embed, radial = func.child("radial_chemical_embed"), config["radial_chemical_embed"]
    embed.kind = str(radial["_target_"]).rsplit(".", 1)[-1]
    if embed.kind == "TwoBodyBesselScalarEmbed":
        bessel = embed.child("bessel_encode")
        bessel.attributes["trainable"] = radial.get("bessel_trainable", False)
        bessel.child("cutoff").attributes["p"] = radial.get("polynomial_cutoff_p", 6)
        _mlp(embed.child("type_embed.basis_linear"), None, forward)
    _mlp(func.child("scalar_embed_mlp.mlp_module"), get("scalar_embed_mlp_nonlinearity", "silu"), forward)
    _mlp(func.child("tensor_embed.env_embed_linear"), None, forward)
    _mlp(func.child("edge_readout.mlp_module"), get("readout_mlp_nonlinearity", "silu"), forward)

    core, l_max, parity = func.child("allegro"), int(config["l_max"]), bool(get("parity", True))
    _mlp(core.child("first_layer_env_embed_projection"), None, True)
    layers = list(core.child("latents").children.values())
    for latent in layers:
        _mlp(latent, get("allegro_mlp_nonlinearity", "silu"), forward)
    core.child("_env_weighter").attributes["weight_individual_irreps"] = get("weight_individual_irreps", True)
    allowed = [(ell, p) for ell in range(l_max + 1) for p in (1, -1)] if parity else spherical_irreps(l_max)
    core.attributes.update(
        num_layers=len(layers),
        num_scalar_features=int(get("num_scalar_features", 64)),
        num_tensor_features=int(get("num_tensor_features", 16)),
        tensor_track_allowed_irreps=_irreps(allowed),
    )
    for k, layer in enumerate(tensor_track(l_max, len(layers), parity)):
        core.child(f"tps.{k}").attributes.update(
            irreps_in1=_irreps(layer.irreps_in),
            irreps_in2=_irreps(spherical_irreps(l_max)),
            irreps_out=_irreps(layer.irreps_out),
            path_channel_coupling=get("tp_path_channel_coupling", True),
        )
    average, names = config["avg_num_neighbors"], list(config["type_names"])
    values = [average[name] for name in names] if isinstance(average, Mapping) else [average]
    dtype = core.child("tps.0").weights.dtype
    norm = torch.tensor([1 / sqrt(value) for value in values], dtype=dtype)  # rounded as nequip does
    core.child("avg_num_neighbors_norm").attributes["norm_const"] = norm
    func.child("edge_eng_sum.norm_module").attributes["norm_const"] = norm
    scale_shift = func.child("per_type_energy_scale_shift")
    for name in ("scales", "shifts"):
        scale_shift.attributes[f"has_{name}"] = get(f"per_type_energy_{name}") is not None
        scale_shift.attributes[f"{name}_trainable"] = _trainable(config, name)
    pair = get("pair_potential")
    if pair is not None:
        func.child("pair_potential").kind = str(pair["_target_"]).rsplit(".", 1)[-1]
        func.child("pair_potential.cutoff").attributes["p"] = pair.get("polynomial_cutoff_p", 6.0)


def _irreps(irreps: Any) -> list[tuple[int, Any]]:
    return [(1, ir) for ir in irreps]


def _mlp(function: ModuleView, nonlinearity: str | None, forward: bool) -> None:
    """Restore kinds and scale factors of a ScalarMLPFunction, which its state does not hold."""
    stack = function.child("mlp")
    nonlinearity = None if nonlinearity in (None, "None", "null") else nonlinearity
    linear = nonlinearity is None and "weights" in stack.children
    if linear:
        matrices = list(stack.children["weights"].tensors.values())
    else:
        matrices = [layer.tensors["weight"] for layer in stack.children.values()]
    alphas = []
    for k, matrix in enumerate(matrices):
        first = k == (0 if forward else len(matrices) - 1)
        gain = 1.0 if nonlinearity is None or first else sqrt(2)
        alphas.append(gain / sqrt(matrix.shape[0 if forward else 1]))
    if linear:
        stack.kind = "DeepLinearMLP"
        stack.attributes["alpha"] = prod(alphas)
        return
    for layer, alpha in zip(list(stack.children.values()), alphas, strict=True):
        layer.kind = "ScalarLinearLayer"
        layer.attributes["alpha"] = alpha
    if nonlinearity is not None and len(matrices) > 1:
        stack.child("nonlinearity").kind = _MODULES.get(nonlinearity, nonlinearity)
