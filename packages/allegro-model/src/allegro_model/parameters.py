"""The parameters and constants of the Allegro potential, made from its configuration."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Self, cast

import torch
from torch import Tensor, nn

from allegro_model.config import AllegroConfig
from allegro_model.forward import Fixed
from allegro_model.mlp import MLP
from allegro_model.pair import LENGTHS_AND_ENERGIES, LennardJones
from allegro_model.radial import inverse_sqrt
from allegro_model.track import tensor_track


class Parameters(nn.Module):
    """What training changes and what the data fix: embeddings, MLPs, path weights, scales, shifts and tables."""

    bessel_frequencies: Tensor  # of the Bessel embedding only
    energy_scales: Tensor
    energy_shifts: Tensor
    density_norm: Tensor
    cutoff_table: Tensor
    atomic_numbers: Tensor
    spline_coefficients: Tensor  # of the spline embedding only
    lj_sigma: Tensor  # these of a Lennard-Jones potential only
    lj_epsilon: Tensor
    lj_delta: Tensor

    def __init__(self, config: AllegroConfig):
        super().__init__()
        self.config = config
        self.fixed = fixed_of(config)
        self._make_embedding()
        self._make_layers()
        self._make_constants()

    def _make_embedding(self) -> None:
        """Make the two-body embedding and the linear maps that read it."""
        c, dtype = self.config, self.dtype
        num_types, scalars = len(c.type_names), c.num_scalar_features
        if c.radial_embedding == "bessel":
            self.center_embedding = nn.Parameter(torch.randn(num_types, c.embed_dim // 2, dtype=dtype))
            self.neighbor_embedding = nn.Parameter(torch.randn(num_types, c.embed_dim // 2, dtype=dtype))
            self.basis_linear = MLP(c.num_bessels, c.embed_dim, 0, 0, None, dtype)
        else:
            shape = (num_types, num_types, c.num_splines, c.embed_dim)
            bound = math.sqrt(3 / max(c.spline_span, 1))
            coefficients = torch.empty(shape, dtype=torch.float64).uniform_(-bound, bound)
            self.spline_coefficients = nn.Parameter(coefficients)
        hidden = scalars if c.scalar_embed_dim is None else c.scalar_embed_dim
        depth, width = c.scalar_embed_depth, c.scalar_embed_width
        self.scalar_embed = MLP(c.embed_dim, hidden, depth, width, c.scalar_embed_nonlinearity, dtype)
        tensors = c.num_tensor_features * (c.l_max + 1)
        self.tensor_embed = MLP(hidden, tensors, 0, 0, None, dtype)
        self.first_projection = MLP(hidden, scalars + self._density_weights, 0, 0, None, dtype)

    @property
    def _density_weights(self) -> int:
        """How many weights of an edge's contribution to the density an MLP gives."""
        c = self.config
        return c.num_tensor_features * (c.l_max + 1 if c.weight_individual_irreps else 1)

    def _make_layers(self) -> None:
        """Make path weights and latent MLP of each layer, and the readout."""
        c, dtype = self.config, self.dtype
        scalars, tensors = c.num_scalar_features, c.num_tensor_features
        self.products = nn.ParameterList()
        self.latents = nn.ModuleList()
        for k, layer in enumerate(self.fixed.layers):
            shape = (layer.num_paths, tensors) if c.path_channel_coupling else (layer.num_paths,)
            weights = torch.empty(shape, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3))
            self.products.append(nn.Parameter(weights))
            inputs = scalars * (k + 1) + tensors
            outputs = scalars + (0 if k == c.num_layers - 1 else self._density_weights)
            self.latents.append(
                MLP(inputs, outputs, c.latent_depth, c.latent_width, c.latent_nonlinearity, dtype)
            )
        inputs = scalars * (c.num_layers + 1)
        self.readout = MLP(inputs, 1, c.readout_depth, c.readout_width, c.readout_nonlinearity, dtype)

    def _make_constants(self) -> None:
        """Make what is float64 always: frequencies, scales, shifts, norms, cutoffs, pair potentials."""
        c = self.config
        num_types = len(c.type_names)
        if c.radial_embedding == "bessel":
            frequencies = torch.arange(1, c.num_bessels + 1, dtype=torch.float64)
            self._constant_or_parameter("bessel_frequencies", frequencies, c.bessel_trainable)
        for name in ("energy_scales", "energy_shifts"):
            values = torch.tensor(c.per_type(name), dtype=torch.float64).expand(num_types).clone()
            self._constant_or_parameter(name, values, getattr(c, name + "_trainable"))
        norm = torch.tensor(inverse_sqrt(c.per_type("avg_num_neighbors")), dtype=torch.float64)
        self.register_buffer("density_norm", norm.expand(num_types).clone())
        self.register_buffer("cutoff_table", torch.tensor(c.cutoff_matrix(), dtype=torch.float64))
        numbers = torch.tensor([z or 0 for z in c.atomic_numbers()], dtype=torch.float64)
        self.register_buffer("atomic_numbers", numbers, persistent=False)
        if isinstance(c.lennard_jones, LennardJones):
            for name in LENGTHS_AND_ENERGIES:
                table = c.lennard_jones.table(name, num_types)
                self._constant_or_parameter("lj_" + name, table, name in c.lennard_jones.trainable)

    def _constant_or_parameter(self, name: str, value: Tensor, trainable: bool) -> None:
        if trainable:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of weights and features."""
        return cast(torch.dtype, getattr(torch, self.config.dtype))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(  # type: ignore[no-untyped-call,no-any-return]
            keeping_dtypes(fn, self.config.dtype), recurse
        )


def keeping_dtypes(fn: Callable[[Tensor], Tensor], dtype: str) -> Callable[[Tensor], Tensor]:
    """Wrap ``fn`` of ``Module._apply``: always-float64 tensors stay float64, a change of the weights' dtype raises."""

    def apply(tensor: Tensor) -> Tensor:
        out = fn(tensor)
        if out.dtype == tensor.dtype:
            return out
        if tensor.dtype == torch.float64 and dtype == "float32":
            return tensor.to(out.device)
        raise TypeError(
            f"dtype must be {dtype}, which AllegroConfig.dtype fixes, got {out.dtype}; for 'float32' or 'float64' "
            "build Allegro(dataclasses.replace(model.config, dtype=...)) and load the model's state_dict into it"
        )

    return apply


def fixed_of(c: AllegroConfig) -> Fixed:
    """Return the settings of the forward pass that are not tensors."""
    pair = c.lennard_jones
    own = c.polynomial_cutoff_p if c.pair_cutoff_p is None else c.pair_cutoff_p
    return Fixed(
        l_max=c.l_max,
        layers=tensor_track(c.l_max, c.num_layers, c.parity, c.path_channel_coupling),
        cutoff_exponent=_exponent(c.polynomial_cutoff_p),
        num_types=len(c.type_names),
        uniform_cutoff=len({value for row in c.cutoff_matrix() for value in row}) == 1,
        spline_span=c.spline_span,
        zbl=c.zbl,
        lennard_jones=(_exponent(pair.exponent), pair.style) if isinstance(pair, LennardJones) else None,
        pair_cutoff_exponent=_exponent(own),
        embed_nonlinearity=c.scalar_embed_nonlinearity,
        latent_nonlinearity=c.latent_nonlinearity,
        readout_nonlinearity=c.readout_nonlinearity,
        fused_layers=c.fused_layers,
        mlp_dtype=None if c.mlp_dtype is None else getattr(torch, c.mlp_dtype),
    )


def _exponent(p: float) -> float:
    """Return an integer where p is one: its powers are products."""
    return int(p) if float(p).is_integer() else float(p)
