"""The Allegro potential: its parameters, their folding, and the reassociated forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_unflatten

from allegro_model.checks import check_inputs
from allegro_model.config import AllegroConfig
from allegro_model.elements import ATOMIC_NUMBERS
from allegro_model.forward import Fixed, Folded, atom_energies
from allegro_model.mlp import MLP
from allegro_model.radial import inverse_sqrt
from allegro_model.track import tensor_track


class Allegro(nn.Module):
    """The Allegro potential (Musaelian et al., Nat. Commun. 14, 579 (2023); arXiv 2504.16068).

    The energies are those of the published model, evaluated without a tensor on any edge: the tensor track is
    linear in the edge, so each layer's product is pulled back to the edge's two-body tensor once per atom.

    Parameters
    ----------
    config : AllegroConfig
        The architecture.

    Examples
    --------
    >>> import torch
    >>> from allegro_model import Allegro, AllegroConfig
    >>> model = Allegro(AllegroConfig(type_names=["H", "O"], cutoff=4.0, energy_shifts={"H": -1.0, "O": -2.0}))
    >>> no_edges = torch.zeros(0, 3, dtype=torch.float64), torch.zeros(2, 0, dtype=torch.int64)
    >>> model(*no_edges, torch.tensor([1, 0, 0])).tolist()
    [-2.0, -1.0, -1.0]
    """

    model_name = "allegro"
    bessel_frequencies: Tensor
    energy_scales: Tensor
    energy_shifts: Tensor
    density_norm: Tensor
    cutoff_table: Tensor
    atomic_numbers: Tensor

    def __init__(self, config: AllegroConfig):
        super().__init__()
        self.config = c = config
        dtype = getattr(torch, c.dtype)
        num_types, rows = len(c.type_names), c.l_max + 1
        wide = c.num_tensor_features * rows
        hidden = c.num_scalar_features if c.scalar_embed_dim is None else c.scalar_embed_dim
        self.fixed = _fixed(config)

        self.center_embedding = nn.Parameter(torch.randn(num_types, c.embed_dim // 2, dtype=dtype))
        self.neighbor_embedding = nn.Parameter(torch.randn(num_types, c.embed_dim // 2, dtype=dtype))
        self.basis_linear = MLP(c.num_bessels, c.embed_dim, 0, 0, None, dtype)
        self.scalar_embed = MLP(
            c.embed_dim,
            hidden,
            c.scalar_embed_depth,
            c.scalar_embed_width,
            c.scalar_embed_nonlinearity,
            dtype,
        )
        self.tensor_embed = MLP(hidden, wide, 0, 0, None, dtype)
        self.first_projection = MLP(hidden, c.num_scalar_features + wide, 0, 0, None, dtype)
        self.products = nn.ParameterList()
        self.latents = nn.ModuleList()
        for k, layer in enumerate(self.fixed.layers):
            shape = (
                (layer.num_paths, c.num_tensor_features) if c.path_channel_coupling else (layer.num_paths,)
            )
            self.products.append(
                nn.Parameter(torch.empty(shape, dtype=dtype).uniform_(-math.sqrt(3), math.sqrt(3)))
            )
            last = k == c.num_layers - 1
            self.latents.append(
                MLP(
                    c.num_scalar_features * (k + 1) + c.num_tensor_features,
                    c.num_scalar_features + (0 if last else wide),
                    c.latent_depth,
                    c.latent_width,
                    c.latent_nonlinearity,
                    dtype,
                )
            )
        self.readout = MLP(
            c.num_scalar_features * (c.num_layers + 1),
            1,
            c.readout_depth,
            c.readout_width,
            c.readout_nonlinearity,
            dtype,
        )

        frequencies = torch.arange(1, c.num_bessels + 1, dtype=torch.float64)
        self._constant_or_parameter("bessel_frequencies", frequencies, c.bessel_trainable)
        for name in ("energy_scales", "energy_shifts"):
            trainable = getattr(c, name + "_trainable")
            values = c.per_type(name)
            values = values * num_types if len(values) == 1 else values
            self._constant_or_parameter(name, torch.tensor(values, dtype=torch.float64), trainable)
        norm = inverse_sqrt(c.per_type("avg_num_neighbors"))
        norm = norm * num_types if len(norm) == 1 else norm
        self.register_buffer("density_norm", torch.tensor(norm, dtype=torch.float64))
        self.register_buffer("cutoff_table", torch.tensor(c.cutoff_matrix(), dtype=torch.float64))
        numbers = [ATOMIC_NUMBERS[name] for name in c.type_names]
        self.register_buffer("atomic_numbers", torch.tensor(numbers, dtype=torch.float64), persistent=False)

    def _constant_or_parameter(self, name: str, value: Tensor, trainable: bool) -> None:
        if trainable:
            self.register_parameter(name, nn.Parameter(value))
        else:
            self.register_buffer(name, value)

    @property
    def type_names(self) -> tuple[str, ...]:
        """Element symbol of each type."""
        return tuple(self.config.type_names)

    @property
    def cutoff(self) -> float:
        """Largest cutoff, Å."""
        return float(self.config.cutoff)

    @property
    def cutoffs(self) -> Tensor:
        """Cutoff of each ordered pair [type of center, type of neighbor], (T, T) float64, Å."""
        return torch.tensor(self.config.cutoff_matrix(), dtype=torch.float64)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Self:
        """Build from plain data (the fields of :class:`AllegroConfig`); an unknown key is a ``ValueError``."""
        return cls(AllegroConfig.from_dict(config))

    @classmethod
    def cutoffs_of(cls, config: Mapping[str, Any]) -> Tensor:
        """Return the :attr:`cutoffs` of the model that :meth:`from_config` would build, without building it."""
        return torch.tensor(AllegroConfig.from_dict(config).cutoff_matrix(), dtype=torch.float64)

    def to_config(self) -> dict[str, Any]:
        """Return the plain data from which :meth:`from_config` rebuilds this architecture."""
        return self.config.to_dict()

    @torch.no_grad()
    def shift_energies(self, delta: Tensor) -> None:
        """Add ``delta`` (T,) eV, one number per type, to the atomic energies, in the configuration too."""
        shift = torch.as_tensor(delta, dtype=torch.float64, device=self.energy_shifts.device)
        if shift.shape != self.energy_shifts.shape or not bool(shift.isfinite().all()):
            raise ValueError(
                f"delta must be {len(self.type_names)} finite numbers, one per type, got {delta!r}"
            )
        self.energy_shifts.add_(shift)
        self.config = dataclasses.replace(self.config, energy_shifts=self.energy_shifts.tolist())

    def forward(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Compute the energy of each atom.

        Parameters
        ----------
        edge_vectors : Tensor, (E, 3) float64
            From center to neighbor, Å. An edge at or beyond its cutoff contributes exactly nothing; a zero
            vector has no direction and gives NaN.
        edge_index : Tensor, (2, E) int64
            ``[center; neighbor]``, sorted by center.
        types : Tensor, (N,) int64

        Returns
        -------
        Tensor, (N,) float64
            Atom energies, eV.

        Raises
        ------
        TypeError, ValueError
            For a wrong dtype or shape, unsorted or out-of-range ``edge_index``, types out of range, NaN vectors.
            Values are checked in eager mode on the CPU only.
        RuntimeError
            Under ``torch.autocast``: the dtype is the configuration's.
        """
        check_inputs(edge_vectors, edge_index, types, len(self.config.type_names))
        return atom_energies(self.fixed, self.fold(), edge_vectors, edge_index, types)

    def fold(self) -> Folded:
        """Return the weights as the forward pass applies them, with consecutive linear maps multiplied together.

        Exact algebra, differentiable, and tiny beside the edges. The last matrix of an MLP is multiplied into the
        linear maps that read it; the map to density weights is left for the atoms, since it commutes with the sum
        over neighbors.
        """
        c = self.config
        s, u, rows = c.num_scalar_features, c.num_tensor_features, c.l_max + 1
        *embed_hidden, embed_last = self.scalar_embed.scaled_weights()
        (project,) = self.first_projection.scaled_weights()
        (tensor_embed,) = self.tensor_embed.scaled_weights()
        readout = self.readout.scaled_weights()

        # s⁰ = hidden⁰ · first: whoever reads s⁰ reads hidden⁰ instead where that is no wider
        first = embed_last @ project[:, :s]
        through = first.shape[0] <= s

        def read(matrix: Tensor) -> Tensor:
            return torch.cat([first @ matrix[:s], matrix[s:]]) if through else matrix

        latents = []
        for mlp in self.latents:
            matrix, *more = cast(MLP, mlp).scaled_weights()
            latents.append([read(matrix), *more])
        scalar_maps: list[tuple[Tensor, ...]] = [() if through else (first,)]
        density_maps = [(embed_last @ project[:, s:]).view(-1, rows, u)]
        for *_, last in latents[:-1]:
            scalar_maps.append((last[:, :s],))
            density_maps.append(last[:, s:].reshape(-1, rows, u))
        own = (
            len(latents) * s
        )  # rows of the readout that read the last layer's scalars, which nobody else reads
        head = torch.cat([read(readout[0][:own]), latents[-1][-1] @ readout[0][own:]])
        return Folded(
            cutoffs=self.cutoff_table.flatten(),
            frequencies=self.bessel_frequencies,
            pair_embedding=torch.cat(
                [
                    self.center_embedding.repeat_interleave(len(c.type_names), 0),
                    self.neighbor_embedding.repeat(len(c.type_names), 1),
                ],
                dim=1,
            ),
            basis=self.basis_linear.scaled_weights()[0],
            embed_hidden=tuple(embed_hidden),
            tensor_embed=(embed_last @ tensor_embed).view(-1, rows, u),
            scalar_maps=tuple(scalar_maps),
            density_maps=tuple(density_maps),
            products=tuple(self.products),
            latent_hidden=tuple(tuple(matrices[:-1]) for matrices in latents),
            readout=(head, *readout[1:]),
            density_norm=self.density_norm.to(self.center_embedding.dtype),
            energy_scales=self.energy_scales,
            energy_shifts=self.energy_shifts,
            atomic_numbers=self.atomic_numbers,
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(  # type: ignore[no-untyped-call,no-any-return]
            _keeping_dtypes(fn, self.config.dtype), recurse
        )

    def _load_from_state_dict(self, state_dict: Mapping[str, Any], prefix: str, *args: Any) -> None:
        table = state_dict.get(prefix + "cutoff_table")
        ours = self.cutoffs
        if table is not None and table.shape == ours.shape:
            theirs = table.detach().to("cpu", torch.float64)
            if not torch.allclose(theirs, ours, rtol=1e-6, atol=0.0):
                raise ValueError(
                    f"state_dict must be of a model with this model's cutoffs, {ours.tolist()} Å by pair of types "
                    f"(cutoff and type_cutoffs of AllegroConfig), got {theirs.tolist()}"
                )
        super()._load_from_state_dict(state_dict, prefix, *args)

    def for_inference(self) -> FoldedAllegro:
        """Return an equal module for evaluation only, with the folded weights as constants."""
        return FoldedAllegro(self)


class FoldedAllegro(nn.Module):
    """An :class:`Allegro` for evaluation: the same energies from weights folded once and kept as buffers."""

    def __init__(self, model: Allegro):
        super().__init__()
        self.fixed, self.dtype = model.fixed, model.config.dtype
        self.type_names, self.cutoff, self.cutoffs = model.type_names, model.cutoff, model.cutoffs
        with torch.no_grad():
            leaves, self._shape = tree_flatten(model.fold())
        for position, leaf in enumerate(leaves):
            self.register_buffer(f"folded_{position}", leaf.detach().clone(), persistent=False)

    def forward(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        """Compute atom energies (N,) float64 eV from the arguments of :meth:`Allegro.forward`."""
        check_inputs(edge_vectors, edge_index, types, len(self.type_names))
        folded = tree_unflatten([leaf for _, leaf in self.named_buffers()], self._shape)
        return atom_energies(self.fixed, folded, edge_vectors, edge_index, types)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(  # type: ignore[no-untyped-call,no-any-return]
            _keeping_dtypes(fn, self.dtype), recurse
        )


def _keeping_dtypes(fn: Callable[[Tensor], Tensor], dtype: str) -> Callable[[Tensor], Tensor]:
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


def _fixed(c: AllegroConfig) -> Fixed:
    """Return the settings of the forward pass that are not tensors."""
    p = float(c.polynomial_cutoff_p)
    return Fixed(
        l_max=c.l_max,
        layers=tensor_track(c.l_max, c.num_layers, c.parity, c.path_channel_coupling),
        cutoff_exponent=int(p) if p.is_integer() else p,
        num_types=len(c.type_names),
        uniform_cutoff=len({value for row in c.cutoff_matrix() for value in row}) == 1,
        zbl=c.zbl,
        embed_nonlinearity=c.scalar_embed_nonlinearity,
        latent_nonlinearity=c.latent_nonlinearity,
        readout_nonlinearity=c.readout_nonlinearity,
    )
