"""Checkpoints of nequip-allegro: settings from the stored configuration, weights from the state."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod, sqrt
from typing import Any, NamedTuple

import torch
from torch import Tensor

from allegro_model.importers._view import CONSTANTS, ModuleView
from allegro_model.track import tensor_track
from equitensor.irreps import spherical_irreps

_MODULES = {"silu": "SiLU", "gelu": "GELU", "mish": "Mish", "tanh": "Tanh", "ssp": "ShiftedSoftplus"}
_TARGETS = ("allegro.model.AllegroModel", "allegro.model.AllegroEnergyModel")
_OWN_PAIR_CUTOFF = (0, 17)
"""The nequip whose pair potentials have a cutoff exponent of their own; before, it was that of the embedding."""


class _Layout(NamedTuple):
    """Names and defaults of a generation of allegro."""

    embed: str  # name of the two-body embedding
    network: str  # name of the MLP behind it
    readout: str | None  # default nonlinearity of the readout


_FROM_0_5 = _Layout("radial_chemical_embed", "scalar_embed_mlp.mlp_module", "silu")
_UP_TO_0_4 = _Layout("scalar_embed", "scalar_embed.twobody_mlp.mlp_module", None)


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
    config = _without_accelerators(config)
    target = config.get("_target_")
    if target not in _TARGETS:
        raise ValueError(
            f"path must be a checkpoint of one of {_TARGETS}, got {path!r} of {target!r}: if it is an Allegro model, "
            "package it with its own nequip-package and import the package"
        )
    layout = _FROM_0_5 if "radial_chemical_embed" in config else _UP_TO_0_4
    state = _weights(checkpoint["state_dict"], config, layout, model_key, path)
    root = ModuleView("GraphModel")
    for name, tensor in state.items():
        owner, _, leaf = name.rpartition(".")
        (root.child(owner) if owner else root).tensors[leaf] = tensor
    root.attributes["type_names"] = list(config["type_names"])
    func = root.child("model.func") if target == _TARGETS[0] else root.child("model")
    _annotate_embedding(func, config, layout)
    _annotate_core(func.child("allegro"), config)
    _annotate_outputs(func, config, _version(hyper, "allegro"))
    if config.get("pair_potential") is not None:
        _annotate_pair(func, config["pair_potential"], config[layout.embed], _version(hyper, "nequip"))
    return root


def _without_accelerators(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Unwrap a model from modifiers that choose kernels and leave its function as it is."""
    while config.get("_target_") == "nequip.model.modify" and isinstance(config.get("model"), Mapping):
        names = [modifier.get("modifier", "") for modifier in config.get("modifiers", [])]
        if not all(name.startswith("enable_") for name in names):
            break
        config = config["model"]
    return config


def _version(hyper: Any, code: str) -> tuple[int, ...]:
    """Return the version of nequip or allegro that wrote a checkpoint, the newest where it does not say."""
    info = hyper.get("info_dict")
    versions = info.get("versions") if isinstance(info, Mapping) else None
    text = str(versions.get(code, "999.0")) if isinstance(versions, Mapping) else "999.0"
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _weights(
    state: Mapping[str, Any], config: Mapping[str, Any], layout: _Layout, model_key: str, path: str
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
    constant = {
        *CONSTANTS,
        *(() if config[layout.embed].get("bessel_trainable", False) else ("bessel_weights",)),
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


def _annotate_embedding(func: ModuleView, config: Mapping[str, Any], layout: _Layout) -> None:
    """Set kinds and settings of the cutoffs, the two-body embedding and the MLP behind it."""
    forward = config.get("forward_normalize", True)
    func.child("edge_norm").attributes["r_max"] = float(config["r_max"])
    embed, settings = func.child(layout.embed), config[layout.embed]
    embed.kind = _class_name(settings)
    nonlinearity = config.get("scalar_embed_mlp_nonlinearity", "silu")
    if layout is _UP_TO_0_4:
        nonlinearity = settings.get("two_body_mlp_nonlinearity", "silu")
    if embed.kind == "TwoBodyBesselScalarEmbed":
        bessel = embed.child("bessel_encode")
        bessel.attributes["trainable"] = settings.get("bessel_trainable", False)
        bessel.child("cutoff").attributes["p"] = settings.get("polynomial_cutoff_p", 6)
        _mlp(embed.child("type_embed.basis_linear"), None, forward)
    elif "spline" in embed.children:
        spline = embed.child("spline")
        num_types, width = len(config["type_names"]), spline.child("class_embed").weight.shape[1]
        num_splines = spline.lower.shape[0]
        span = round(float(spline.upper[0] - spline.lower[0]) * num_splines) - 1
        spline.attributes.update(num_splines=num_splines, spline_span=span, num_channels=width // num_splines)
        spline.attributes["num_classes"] = num_types**2
    if layout is _FROM_0_5 or embed.kind == "TwoBodyBesselScalarEmbed":
        _mlp(func.child(layout.network), nonlinearity, forward)
    _mlp(func.child("tensor_embed.env_embed_linear"), None, forward)


def _annotate_core(core: ModuleView, config: Mapping[str, Any]) -> None:
    """Set kinds and settings of the Allegro layers."""
    get, l_max = config.get, int(config["l_max"])
    forward = get("forward_normalize", True)
    setting = get("parity_setting", "o3_full" if get("parity", True) else "o3_restricted")
    parity = setting == "o3_full"
    _mlp(core.child("first_layer_env_embed_projection"), None, True)
    layers = list(core.child("latents").children.values())
    for latent in layers:
        _mlp(latent, get("allegro_mlp_nonlinearity", "silu"), forward)
    core.child("_env_weighter").attributes["weight_individual_irreps"] = get("weight_individual_irreps", True)
    allowed = [(ell, p) for ell in range(l_max + 1) for p in (1, -1)] if parity else spherical_irreps(l_max)
    scalars = _widths(layers[-1])[1]
    core.attributes.update(
        num_layers=len(layers),
        num_scalar_features=scalars,
        num_tensor_features=_widths(layers[0])[0] - scalars,
        tensor_track_allowed_irreps=_irreps(allowed),
        scatter_features=get("scatter_features", False),
    )
    harmonics = tuple((ell, 1) for ell in range(l_max + 1)) if setting == "so3" else spherical_irreps(l_max)
    for k, layer in enumerate(tensor_track(l_max, len(layers), parity)):
        core.child(f"tps.{k}").attributes.update(
            irreps_in1=_irreps(layer.irreps_in),
            irreps_in2=_irreps(harmonics),
            irreps_out=_irreps(layer.irreps_out),
            path_channel_coupling=get("tp_path_channel_coupling", True),
        )


def _annotate_outputs(func: ModuleView, config: Mapping[str, Any], version: tuple[int, ...]) -> None:
    """Set kinds and settings of the readout, the norms, scales and shifts."""
    get, core = config.get, func.child("allegro")
    layout = _FROM_0_5 if "radial_chemical_embed" in config else _UP_TO_0_4
    nonlinearity = get("readout_mlp_nonlinearity", layout.readout)
    _mlp(func.child("edge_readout.mlp_module"), nonlinearity, get("forward_normalize", True))
    average, names = config["avg_num_neighbors"], list(config["type_names"])
    values = [average[name] for name in names] if isinstance(average, Mapping) else [average]
    dtype = core.child("tps.0").weights.dtype if version >= (0, 8, 2) else torch.float64
    norm = torch.tensor(
        [1 / sqrt(value) for value in values], dtype=dtype
    )  # rounded as allegro does from 0.8.2 on
    core.child("avg_num_neighbors_norm").attributes["norm_const"] = norm
    func.child("edge_eng_sum.norm_module").attributes["norm_const"] = norm
    scale_shift = func.child("per_type_energy_scale_shift")
    for name in ("scales", "shifts"):
        scale_shift.attributes[f"has_{name}"] = get(f"per_type_energy_{name}") is not None
        scale_shift.attributes[f"{name}_trainable"] = _trainable(config, name)


def _annotate_pair(
    func: ModuleView, pair: Mapping[str, Any], embed: Mapping[str, Any], version: tuple[int, ...]
) -> None:
    """Set kind and settings of the pair potential, and of the cutoff it takes."""
    module = func.child("pair_potential")
    module.kind = _class_name(pair)
    if version >= _OWN_PAIR_CUTOFF:
        module.child("cutoff").attributes["p"] = pair.get("polynomial_cutoff_p", 6.0)
    elif _class_name(embed) != "TwoBodyBesselScalarEmbed":
        func.child("cutoff.cutoff").attributes["p"] = 6.0
    module.attributes.update(
        lj_style=pair.get("lj_style", "lj"),
        exponent=pair.get("lj_exponent") or 6.0,
    )
    for name in ("sigma", "epsilon", "delta"):
        if name in module.tensors:
            module.tensors[name].requires_grad_(bool(pair.get(f"lj_{name}_trainable", False)))


def _class_name(settings: Mapping[str, Any]) -> str:
    return str(settings["_target_"]).rsplit(".", 1)[-1]


def _widths(network: ModuleView) -> tuple[int, int]:
    """Return the widths of input and output of an MLP."""
    matrices = list(network.state_dict().values())
    return int(matrices[0].shape[0]), int(matrices[-1].shape[1])


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
