"""Mapping of a model of nequip-allegro, live or read from a file, to the equal Allegro."""

from __future__ import annotations

from math import prod
from typing import Any, cast

import torch
from torch import Tensor

from allegro_model.config import AllegroConfig
from allegro_model.elements import ATOMIC_NUMBERS
from allegro_model.importers._view import CONSTANTS, irreps_of, kind_of
from allegro_model.mlp import MLP
from allegro_model.model import Allegro
from allegro_model.track import tensor_track
from equitensor.paths import irreps_string, spherical_irreps

_ACTIVATIONS = {"SiLU": "silu", "GELU": "gelu", "Mish": "mish", "Tanh": "tanh"}


def allegro_of(source: Any) -> Allegro:
    """Build the Allegro equal to a GraphModel of nequip-allegro, a live one or a view.

    ``ValueError`` names every module, setting and tensor that has no counterpart.
    """
    if "model.func.allegro.tps.0.weights" not in source.state_dict():
        raise ValueError(
            "source must be a nequip-allegro model (a GraphModel holding an Allegro_Module), "
            f"got {kind_of(source)}"
        )
    try:
        with torch.random.fork_rng(devices=[]):  # a new model draws its weights
            return _Reader(source).build()
    except (AttributeError, KeyError, IndexError) as e:
        raise ValueError(
            f"source must be a nequip-allegro model of a known layout, got one in which {e}"
        ) from e


class _Reader:
    """Reads a GraphModel by the names of its modules, and keeps account of what was read."""

    def __init__(self, source: Any):
        self.parts: dict[str, Any] = dict(source.model.func.named_children())
        self.state = source.state_dict()
        self.type_names = [str(name) for name in source.type_names]
        self.read: set[str] = set()
        self.problems: list[str] = []

    def get(self, name: str) -> Tensor:
        """Return a tensor of the source by its name below ``model.func``, marked as read."""
        name = "model.func." + name
        self.read.add(name)
        return cast(Tensor, self.state[name].detach().cpu())

    def mlp(self, name: str) -> tuple[list[Tensor], list[float], str | None]:
        """Return matrices as stored, the factor on each when applied, and the nonlinearity, of a ScalarMLPFunction."""
        owner, attribute = self.parts[name.split(".")[0]], name.split(".")[1:]
        for part in attribute:
            owner = owner[int(part)] if part.isdigit() else getattr(owner, part)
        stack = owner.mlp
        prefix = f"model.func.{name}.mlp."
        keys = [k for k in self.state if k.startswith(prefix)]
        for key in keys:
            if key.endswith(".bias"):
                self.problems.append(
                    f"{key}: an MLP with a bias is not smooth at the cutoff and has no counterpart"
                )
        self.read.update(keys)
        if kind_of(stack) == "DeepLinearMLP":
            matrices = [w.detach().cpu() for w in stack.weights]
            return matrices, [float(stack.alpha)] + [1.0] * (len(matrices) - 1), None
        linear = [layer for layer in stack if kind_of(layer) == "ScalarLinearLayer"]
        kinds = {kind_of(layer) for layer in stack} - {"ScalarLinearLayer"}
        unknown = sorted(kinds - set(_ACTIVATIONS))
        if unknown:
            self.problems.append(f"{prefix}: nonlinearity {unknown} is none of {sorted(_ACTIVATIONS)}")
        names = [_ACTIVATIONS[kind] for kind in kinds if kind in _ACTIVATIONS]
        return (
            [m.weight.detach().cpu() for m in linear],
            [float(m.alpha) for m in linear],
            names[0] if names else None,
        )

    def build(self) -> Allegro:
        """Build the equal model; ``ValueError`` with all that could not be mapped."""
        known = {
            *(
                "edge_norm",
                "radial_chemical_embed",
                "scalar_embed_mlp",
                "tensor_embed",
                "allegro",
                "edge_readout",
            ),
            *("edge_eng_sum", "per_type_energy_scale_shift", "pair_potential", "total_energy_sum"),
        }
        for name, part in self.parts.items():
            if name not in known:
                self.problems.append(f"{name}: a module {kind_of(part)} has no counterpart")
        embed = self.parts["radial_chemical_embed"]
        if not {"bessel_encode", "type_embed"} <= set(dict(embed.named_children())):
            self.problems.append(f"radial_chemical_embed: {kind_of(embed)} is no TwoBodyBesselScalarEmbed")
            self.fail_if_unmapped()
        core: Any = self.parts["allegro"]
        if not core._env_weighter.weight_individual_irreps:
            self.problems.append("allegro: weight_individual_irreps=False has no counterpart")
            self.fail_if_unmapped()

        config, matrices = self.config(embed, core)
        self.fail_if_unmapped()
        model = Allegro(config)
        with torch.no_grad():
            self.fill(model, matrices)
        left = [k for k in self.state if k not in self.read and k.rsplit(".", 1)[-1] not in CONSTANTS]
        self.problems += [
            f"{key}: a tensor of shape {tuple(self.state[key].shape)} was not mapped" for key in left
        ]
        self.fail_if_unmapped()
        return model

    def fail_if_unmapped(self) -> None:
        """Raise what was found so far."""
        if self.problems:
            raise ValueError(
                "source must be a model with a counterpart here, got\n  " + "\n  ".join(self.problems)
            )

    def config(self, embed: Any, core: Any) -> tuple[AllegroConfig, dict[str, Any]]:
        """Return the configuration, and the MLPs by the names of this package."""
        names = self.type_names
        cutoff = float(self.parts["edge_norm"].r_max)
        table = (1.0 / self.get("edge_norm._rmax_recip").double()).expand(len(names) ** 2)
        uniform = torch.allclose(table, torch.full_like(table, cutoff), rtol=1e-9, atol=0)
        pairs = None if uniform else table.view(len(names), len(names)).tolist()
        bessel = embed.bessel_encode
        frequencies = self.get("radial_chemical_embed.bessel_encode.bessel_weights")
        exponent = float(bessel.cutoff.p)

        mlps = {
            "basis_linear": self.mlp("radial_chemical_embed.type_embed.basis_linear"),
            "scalar_embed": self.mlp("scalar_embed_mlp.mlp_module"),
            "tensor_embed": self.mlp("tensor_embed.env_embed_linear"),
            "first_projection": self.mlp("allegro.first_layer_env_embed_projection"),
            "readout": self.mlp("edge_readout.mlp_module"),
            **{f"latents.{k}": self.mlp(f"allegro.latents.{k}") for k in range(core.num_layers)},
        }
        for name, (_, _, nonlinearity) in list(mlps.items()):
            if name.startswith("latents.") and nonlinearity != mlps["latents.0"][2]:
                self.problems.append(
                    f"{name}: nonlinearity {nonlinearity!r} differs from that of the first latent"
                )
        scalar, latent, readout = (mlps[k][0] for k in ("scalar_embed", "latents.0", "readout"))

        zbl = self.parts.get("pair_potential")
        if zbl is not None:
            if kind_of(zbl) != "ZBL":
                self.problems.append(f"pair_potential: {kind_of(zbl)} has no counterpart, only ZBL has")
            else:
                if abs(float(zbl._qqr2exesquare) - 0.5 * 14.399645) > 1e-9:
                    self.problems.append("pair_potential: ZBL in units other than metal has no counterpart")
                if float(zbl.cutoff.p) != exponent:
                    self.problems.append(
                        f"pair_potential: cutoff exponent {float(zbl.cutoff.p)} is not the model's {exponent}"
                    )
                numbers = zbl.atomic_numbers.flatten().tolist()
                if numbers != [ATOMIC_NUMBERS.get(name) for name in names]:
                    self.problems.append(
                        f"pair_potential: atomic numbers {numbers} are not those of the types {names}"
                    )

        norms = self.norms(core)
        scale_shift: Any = self.parts["per_type_energy_scale_shift"]
        first_in = core.tps[0]
        l_max = max(ell for ell, _ in irreps_of(first_in.irreps_in2))
        parity = any(p != (-1) ** ell for ell, p in irreps_of(core.tensor_track_allowed_irreps))
        self.check_irreps(core, l_max, parity)
        return (
            AllegroConfig(
                type_names=names,
                cutoff=cutoff,
                type_cutoffs=None
                if pairs is None
                else {
                    c: dict(zip(names, (min(v, cutoff) for v in row), strict=True))
                    for c, row in zip(names, pairs, strict=True)
                },
                l_max=l_max,
                parity=parity,
                num_layers=core.num_layers,
                num_scalar_features=core.num_scalar_features,
                num_tensor_features=core.num_tensor_features,
                num_bessels=frequencies.numel(),
                bessel_trainable=bool(bessel.trainable),
                polynomial_cutoff_p=exponent,
                embed_dim=mlps["basis_linear"][0][0].shape[1],
                scalar_embed_depth=len(scalar) - 1,
                scalar_embed_width=scalar[0].shape[1],
                scalar_embed_dim=scalar[-1].shape[1],
                latent_depth=len(latent) - 1,
                latent_width=latent[0].shape[1],
                readout_depth=len(readout) - 1,
                readout_width=readout[0].shape[1],
                scalar_embed_nonlinearity=mlps["scalar_embed"][2],
                latent_nonlinearity=mlps["latents.0"][2],
                readout_nonlinearity=mlps["readout"][2],
                path_channel_coupling=bool(first_in.path_channel_coupling),
                avg_num_neighbors=norms[0] if len(norms) == 1 else norms,
                energy_scales=self.scale_shift("scales", scale_shift.has_scales, 1.0),
                energy_shifts=self.scale_shift("shifts", scale_shift.has_shifts, 0.0),
                energy_scales_trainable=bool(scale_shift.scales_trainable and scale_shift.has_scales),
                energy_shifts_trainable=bool(scale_shift.shifts_trainable and scale_shift.has_shifts),
                zbl=zbl is not None,
                dtype=str(
                    self.get("radial_chemical_embed.type_embed.center_embed.weight").dtype
                ).removeprefix("torch."),
            ),
            mlps,
        )

    def check_irreps(self, core: Any, l_max: int, parity: bool) -> None:
        """Compare the irreps of every product, and their order, which places its weights, with those of our track."""
        harmonics = spherical_irreps(l_max)
        for k, layer in enumerate(tensor_track(l_max, core.num_layers, parity)):
            tp = core.tps[k]
            for side, ours in (
                ("irreps_in1", layer.irreps_in),
                ("irreps_in2", harmonics),
                ("irreps_out", layer.irreps_out),
            ):
                theirs = irreps_of(getattr(tp, side))
                if theirs != ours:
                    self.problems.append(
                        f"allegro.tps.{k}: {side} {irreps_string(theirs)} are not {irreps_string(ours)}, those of "
                        f"l_max={l_max}, parity={parity}"
                    )

    def norms(self, core: Any) -> list[float]:
        """Return the average numbers of neighbors, one or one per type."""
        readout = self.parts["edge_eng_sum"]
        if hasattr(core, "avg_num_neighbors_norm"):  # allegro 0.8
            norm = core.avg_num_neighbors_norm.norm_const.detach().cpu().double().flatten()
            last = readout.norm_module.norm_const.detach().cpu().double().flatten()
        else:  # allegro 0.4 to 0.7
            factors = {tp.scatter_factor for tp in core.tps}
            if len(factors) != 1 or None in factors or readout._factor is None:
                self.problems.append(f"allegro: scatter factors {factors} have no counterpart")
                return [1.0]
            norm = torch.tensor([float(factors.pop())], dtype=torch.float64)
            last = torch.tensor([float(readout._factor) * 2**0.5], dtype=torch.float64)
        if norm.shape != last.shape or not torch.allclose(norm, last, rtol=1e-12, atol=0):
            self.problems.append("edge_eng_sum: its avg_num_neighbors is not that of the layers")
        return cast(list[float], (norm**-2).tolist())

    def scale_shift(self, name: str, given: bool, default: float) -> float | list[float]:
        """Return scales or shifts, one number or one per type."""
        values = self.get(f"per_type_energy_scale_shift.{name}").flatten().tolist()
        if not given:
            return default
        return values[0] if len(values) == 1 else values

    def fill(self, model: Allegro, mlps: dict[str, Any]) -> None:
        """Copy every tensor; columns of density and embedding weights go from channel-major to degree-major."""
        c = model.config
        for name, (matrices, factors, _) in mlps.items():
            _copy(cast(MLP, model.get_submodule(name)), matrices, factors)
        wide = c.num_tensor_features * (c.l_max + 1)
        for mlp in (model.tensor_embed, model.first_projection, *list(model.latents)[:-1]):
            last = cast(MLP, mlp).weights[-1]
            block = last[:, last.shape[1] - wide :]
            swapped = (
                block.unflatten(1, (c.num_tensor_features, c.l_max + 1)).transpose(1, 2).flatten(1).clone()
            )
            block.copy_(swapped)
        for k, weights in enumerate(model.products):
            theirs = self.get(f"allegro.tps.{k}.weights")
            weights.copy_(
                theirs.reshape(weights.shape[::-1]).T
                if c.path_channel_coupling
                else theirs.reshape(weights.shape)
            )
        embed = "radial_chemical_embed.type_embed."
        model.center_embedding.copy_(self.get(embed + "center_embed.weight"))
        model.neighbor_embedding.copy_(self.get(embed + "neighbor_embed.weight"))
        model.bessel_frequencies.copy_(
            self.get("radial_chemical_embed.bessel_encode.bessel_weights").flatten()
        )


def _copy(mlp: MLP, matrices: list[Tensor], factors: list[float]) -> None:
    """Copy matrices; where the factors applied to them differ in sum, the difference goes into the first matrix."""
    for ours, theirs in zip(mlp.weights, matrices, strict=True):
        ours.copy_(theirs)
    if mlp.nonlinearity is None:
        pairs = [(prod(factors), prod(mlp.alphas), mlp.weights[0])]
    else:
        pairs = list(zip(factors, mlp.alphas, mlp.weights, strict=True))
    for wanted, applied, weight in pairs:
        if abs(wanted / applied - 1.0) > 1e-6:
            weight.mul_(wanted / applied)
