"""Mapping of a model of nequip-allegro, live or read from a file, to the equal Allegro."""

from __future__ import annotations

from collections.abc import Mapping
from math import isclose, prod, sqrt
from typing import Any, cast

import torch

from allegro_model.config import AllegroConfig
from allegro_model.importers._pair import pair_fields
from allegro_model.importers._source import Network, Source
from allegro_model.importers._view import irreps_of, kind_of
from allegro_model.mlp import MLP
from allegro_model.model import Allegro
from allegro_model.track import tensor_track
from equitensor.irreps import irreps_string, spherical_irreps

PARTS = {
    *("edge_norm", "radial_chemical_embed", "scalar_embed", "scalar_embed_mlp", "tensor_embed", "allegro"),
    *("edge_readout", "edge_eng_sum", "per_type_energy_scale_shift"),
    *("cutoff", "pair_potential", "total_energy_sum"),
}
"""Names of the modules that are mapped, of all layouts."""


def allegro_of(
    graph_model: Any, elements: Mapping[str, str | None] | None = None, path: str | None = None
) -> Allegro:
    """Build the Allegro equal to a GraphModel of nequip-allegro, a live one or a view of the file at ``path``.

    ``ValueError`` names every module, setting and tensor that has no counterpart.
    """
    source = Source(graph_model, path)
    try:
        with torch.random.fork_rng(devices=[]):  # a new model draws its weights
            return _build(source, elements)
    except (AttributeError, KeyError, IndexError) as e:
        source.problems.append(f"a layout that is not known, in which {e}")
        source.fail_if_unmapped()
        raise


def _build(source: Source, elements: Mapping[str, str | None] | None) -> Allegro:
    for name, part in source.parts.items():
        if name not in PARTS:
            source.problems.append(f"{name}: a module {kind_of(part)} has no counterpart")
    core = source.parts["allegro"]
    if getattr(core, "scatter_features", False):
        source.problems.append("allegro: scatter_features=True has no counterpart")
    embed, embedding = _embedding(source)
    networks = _networks(source, embed, core.num_layers)
    fields = {
        "type_names": source.type_names,
        "num_layers": core.num_layers,
        "num_scalar_features": core.num_scalar_features,
        "num_tensor_features": core.num_tensor_features,
        "path_channel_coupling": bool(core.tps[0].path_channel_coupling),
        "weight_individual_irreps": bool(core._env_weighter.weight_individual_irreps),
        **_cutoffs(source),
        **embedding,
        **_network_fields(source, networks),
        **_irreps(source, core),
        **_norms(source, core),
        **_scale_shift(source),
        **pair_fields(source, embed, elements),
        "dtype": str(source.get("tensor_embed.env_embed_linear.mlp.0.weight").dtype).removeprefix("torch."),
    }
    source.name_unread()
    source.fail_if_unmapped()
    model = Allegro(AllegroConfig(**fields))
    with torch.no_grad():
        _fill(source, model, networks, embed)
    return model


def _embedding(source: Source) -> tuple[str, dict[str, Any]]:
    """Return the name of the two-body embedding (``scalar_embed`` before allegro 0.5) and its fields."""
    name = "radial_chemical_embed" if "radial_chemical_embed" in source.parts else "scalar_embed"
    module = source.parts[name]
    children = set(dict(module.named_children()))
    if "spline" in children:
        spline = module.spline
        source.get(f"{name}.spline.class_embed.weight")
        return name, {
            "radial_embedding": "spline",
            "num_splines": int(spline.num_splines),
            "spline_span": int(spline.spline_span),
            "embed_dim": int(spline.num_channels),
        }
    if not {"bessel_encode", "type_embed"} <= children:
        source.problems.append(f"{name}: a {kind_of(module)} has no counterpart")
        source.fail_if_unmapped()
    bessel = module.bessel_encode
    for table in ("center_embed", "neighbor_embed"):
        source.get(f"{name}.type_embed.{table}.weight")
    return name, {
        "num_bessels": source.get(f"{name}.bessel_encode.bessel_weights").numel(),
        "bessel_trainable": bool(bessel.trainable),
        "polynomial_cutoff_p": float(bessel.cutoff.p),
        "embed_dim": 2 * source.get(f"{name}.type_embed.center_embed.weight").shape[1],
    }


def _networks(source: Source, embed: str, num_layers: int) -> dict[str, Network]:
    """Return the MLPs by the names of this package."""
    networks = {
        "tensor_embed": source.network("tensor_embed.env_embed_linear"),
        "first_projection": source.network("allegro.first_layer_env_embed_projection"),
        "readout": source.network("edge_readout.mlp_module"),
        **{f"latents.{k}": source.network(f"allegro.latents.{k}") for k in range(num_layers)},
    }
    children = dict(source.parts[embed].named_children())
    if "type_embed" in children:
        networks["basis_linear"] = source.network(f"{embed}.type_embed.basis_linear")
    if "scalar_embed_mlp" in source.parts:
        networks["scalar_embed"] = source.network("scalar_embed_mlp.mlp_module")
    elif "twobody_mlp" in children:  # allegro 0.4
        networks["scalar_embed"] = source.network(f"{embed}.twobody_mlp.mlp_module")
    else:  # the splines of allegro 0.4, which nothing follows: the identity
        width = networks["tensor_embed"].matrices[0].shape[0]
        identity = torch.eye(width, dtype=networks["tensor_embed"].matrices[0].dtype)
        networks["scalar_embed"] = Network([identity], [1.0], None)
    return networks


def _network_fields(source: Source, networks: dict[str, Network]) -> dict[str, Any]:
    """Return depths, widths and nonlinearities."""
    scalar, latent, readout = (networks[k] for k in ("scalar_embed", "latents.0", "readout"))
    for name, network in networks.items():
        if name.startswith("latents.") and network.nonlinearity != latent.nonlinearity and network.depth:
            source.problems.append(
                f"allegro.{name}: nonlinearity {network.nonlinearity!r} differs from that of the first latent"
            )
    return {
        "scalar_embed_depth": scalar.depth,
        "scalar_embed_width": scalar.width,
        "scalar_embed_dim": scalar.matrices[-1].shape[1],
        "scalar_embed_nonlinearity": scalar.nonlinearity,
        "latent_depth": latent.depth,
        "latent_width": latent.width,
        "latent_nonlinearity": latent.nonlinearity,
        "readout_depth": readout.depth,
        "readout_width": readout.width,
        "readout_nonlinearity": readout.nonlinearity,
    }


def _cutoffs(source: Source) -> dict[str, Any]:
    """Return the largest cutoff, and those of pairs where they differ."""
    names, cutoff = source.type_names, float(source.parts["edge_norm"].r_max)
    table = (1.0 / source.get("edge_norm._rmax_recip").double()).flatten().expand(len(names) ** 2)
    if torch.allclose(table, torch.full_like(table, cutoff), rtol=1e-9, atol=0):
        return {"cutoff": cutoff}
    rows = table.view(len(names), len(names)).clamp(max=cutoff).tolist()
    pairs = {center: dict(zip(names, row, strict=True)) for center, row in zip(names, rows, strict=True)}
    return {"cutoff": cutoff, "type_cutoffs": pairs}


def _irreps(source: Source, core: Any) -> dict[str, Any]:
    """Return l_max and parity; irreps other than those, or in another order, which places weights, are problems."""
    harmonics = irreps_of(core.tps[0].irreps_in2)
    l_max = max(ell for ell, _ in harmonics)
    parity = any(p != (-1) ** ell for ell, p in irreps_of(core.tensor_track_allowed_irreps))
    for k in range(core.num_layers):
        source.get(f"allegro.tps.{k}.weights")
    if any(p == 1 for ell, p in harmonics if ell % 2):
        source.problems.append("allegro: parity_setting so3 (harmonics of even parity) has no counterpart")
        return {"l_max": l_max, "parity": False}
    for k, layer in enumerate(tensor_track(l_max, core.num_layers, parity)):
        for side, ours in (
            ("irreps_in1", layer.irreps_in),
            ("irreps_in2", spherical_irreps(l_max)),
            ("irreps_out", layer.irreps_out),
        ):
            theirs = irreps_of(getattr(core.tps[k], side))
            if theirs != ours:
                source.problems.append(
                    f"allegro.tps.{k}: {side} {irreps_string(theirs)} are not {irreps_string(ours)}, those of "
                    f"l_max={l_max}, parity={parity}"
                )
    return {"l_max": l_max, "parity": parity}


def _norms(source: Source, core: Any) -> dict[str, Any]:
    """Return the average number of neighbors, one or one per type."""
    readout = source.parts["edge_eng_sum"]
    if hasattr(core, "avg_num_neighbors_norm"):  # from allegro 0.8.2 on
        norm = core.avg_num_neighbors_norm.norm_const.detach().cpu().double().flatten()
        last = readout.norm_module.norm_const.detach().cpu().double().flatten()
    else:
        factors = {tp.scatter_factor for tp in core.tps}
        if len(factors) != 1 or None in factors or readout._factor is None:
            source.problems.append(f"allegro: scatter factors {factors} have no counterpart")
            return {}
        norm = torch.tensor([float(factors.pop())], dtype=torch.float64)
        last = torch.tensor([float(readout._factor) * sqrt(2)], dtype=torch.float64)
    if norm.shape != last.shape or not torch.allclose(norm, last, rtol=1e-12, atol=0):
        source.problems.append("edge_eng_sum: its avg_num_neighbors is not that of the layers")
    averages = (norm**-2).tolist()
    return {"avg_num_neighbors": averages[0] if len(averages) == 1 else averages}


def _scale_shift(source: Source) -> dict[str, Any]:
    """Return scales and shifts, each one number or one per type, and whether they are trained."""
    module, fields = source.parts["per_type_energy_scale_shift"], {}
    for name, default in (("scales", 1.0), ("shifts", 0.0)):
        values = source.get(f"per_type_energy_scale_shift.{name}").flatten().tolist()
        given = bool(getattr(module, f"has_{name}"))
        number = values[0] if len(values) == 1 else values
        fields[f"energy_{name}"] = number if given else default
        fields[f"energy_{name}_trainable"] = bool(getattr(module, f"{name}_trainable") and given)
    return fields


def _fill(source: Source, model: Allegro, networks: dict[str, Network], embed: str) -> None:
    """Copy every tensor; columns of density and embedding weights go from channel-major to degree-major."""
    c = model.config
    for name, network in networks.items():
        _copy(cast(MLP, model.get_submodule(name)), network)
    degrees, channels = c.l_max + 1, c.num_tensor_features
    swapped = [model.tensor_embed]
    if c.weight_individual_irreps:
        swapped += [model.first_projection, *(cast(MLP, latent) for latent in list(model.latents)[:-1])]
    for mlp in swapped:
        last = mlp.weights[-1]
        block = last[:, last.shape[1] - channels * degrees :]
        block.copy_(block.unflatten(1, (channels, degrees)).transpose(1, 2).flatten(1).clone())
    for k, weights in enumerate(model.products):
        theirs = source.get(f"allegro.tps.{k}.weights")
        coupled = c.path_channel_coupling
        weights.copy_(theirs.reshape(weights.shape[::-1]).T if coupled else theirs.reshape(weights.shape))
    if c.radial_embedding == "spline":
        table = source.get(f"{embed}.spline.class_embed.weight")
        target = model.spline_coefficients
        target.copy_(table.view(*target.shape[:2], c.embed_dim, c.num_splines).transpose(2, 3))
        return
    model.center_embedding.copy_(source.get(f"{embed}.type_embed.center_embed.weight"))
    model.neighbor_embedding.copy_(source.get(f"{embed}.type_embed.neighbor_embed.weight"))
    model.bessel_frequencies.copy_(source.get(f"{embed}.bessel_encode.bessel_weights").flatten())


def _copy(mlp: MLP, network: Network) -> None:
    """Copy matrices; where the factors applied to them differ in sum, the difference goes into the first matrix."""
    for ours, theirs in zip(mlp.weights, network.matrices, strict=True):
        ours.copy_(theirs)
    if mlp.nonlinearity is None:
        pairs = [(prod(network.factors), prod(mlp.alphas), mlp.weights[0])]
    else:
        pairs = list(zip(network.factors, mlp.alphas, mlp.weights, strict=True))
    for wanted, applied, weight in pairs:
        if not isclose(wanted, applied, rel_tol=1e-6):
            weight.mul_(wanted / applied)
