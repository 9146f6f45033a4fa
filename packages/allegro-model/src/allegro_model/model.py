"""The Allegro potential: its parameters, their folding, and the reassociated forward pass."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any, Self, cast

import torch
from torch import Tensor, nn

from allegro_model.checks import check_inputs
from allegro_model.config import AllegroConfig
from allegro_model.fold import FoldedAllegro, fixed_of, fold, keeping_dtypes
from allegro_model.forward import Folded, atom_energies
from allegro_model.mlp import MLP
from allegro_model.pair import LENGTHS_AND_ENERGIES, LennardJones
from allegro_model.radial import inverse_sqrt


class Allegro(nn.Module):
    """The Allegro potential (Musaelian et al., Nat. Commun. 14, 579 (2023); arXiv 2504.16068).

    The energies are those of the published model, evaluated without equivariant features on edges: these are
    linear in each edge's two-body tensor V⁰ = w·Y, so the tensor products can be evaluated once per atom.

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

    @property
    def type_names(self) -> tuple[str, ...]:
        """Name of each type."""
        return tuple(self.config.type_names)

    @property
    def elements(self) -> tuple[str, ...]:
        """Element symbol of each type; the name of a type that is no element."""
        return self.config.element_of_types()

    @property
    def cutoff(self) -> float:
        """Largest cutoff, Å."""
        return float(self.config.cutoff)

    @property
    def cutoffs(self) -> Tensor:
        """Cutoff of each ordered pair ``[type of center, type of neighbor]``, (T, T) float64, Å."""
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
        """Add ``delta`` (T,) eV, one number per type, to the energy shifts (E0), in the configuration too."""
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
        """Return the weights as the forward pass applies them, see :func:`allegro_model.fold.fold`."""
        return fold(self)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        return super()._apply(  # type: ignore[no-untyped-call,no-any-return]
            keeping_dtypes(fn, self.config.dtype), recurse
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
