"""Configuration of an Allegro model: frozen, validated, convertible to and from plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from allegro_model._by_type import cutoff_matrix, per_type
from allegro_model._fields import is_number, plain, require, require_int, require_positive
from allegro_model.elements import ATOMIC_NUMBERS
from allegro_model.pair import LennardJones

NONLINEARITIES = ("silu", "gelu", "mish", "tanh")
DTYPES = ("float32", "float64")
MLP_DTYPES = (None, "bfloat16")
EMBEDDINGS = ("bessel", "spline")
PER_TYPE = ("avg_num_neighbors", "energy_scales", "energy_shifts")
INTEGERS = {
    "l_max": 0,
    "num_layers": 1,
    "num_scalar_features": 1,
    "num_tensor_features": 1,
    "num_bessels": 1,
    "num_splines": 1,
    "spline_span": 0,
    "embed_dim": 1,
    "scalar_embed_depth": 0,
    "scalar_embed_width": 1,
    "latent_depth": 0,
    "latent_width": 1,
    "readout_depth": 0,
    "readout_width": 1,
}
"""Integer fields and the smallest value of each."""


@dataclasses.dataclass(frozen=True)
class AllegroConfig:
    """Configuration of an :class:`~allegro_model.Allegro` model.

    Kept as plain data, copied: numbers of NumPy and torch become Python's, arrays and lists become tuples.

    Parameters
    ----------
    type_names : sequence of str
        Name of each atom type, an element symbol or a key of ``elements``; ``types`` index into it.
    cutoff : float
        Largest cutoff radius r_max, Å, > 0.
    elements : mapping, optional
        Element symbol of each type whose name is not one, ``{"Ow": "O"}``; ``None`` for a type that is no element.
    type_cutoffs : mapping, optional
        Cutoffs of ordered type pairs, Å, each in (0, ``cutoff``]: ``{"H": 4.0, "O": {"H": 3.5}}`` maps a center
        type to one number or to numbers per neighbor type; what is left out is ``cutoff``.
    l_max : int
        Largest rotation order of the spherical harmonics, ≥ 0.
    parity : bool
        Keep irreps of both parities between layers (for one and two layers this changes nothing).
    num_layers : int
        Allegro layers, ≥ 1.
    num_scalar_features, num_tensor_features : int
        Scalar channels S and tensor channels C.
    radial_embedding : str
        ``"bessel"``: embeddings of both types times a linear map of a Bessel basis. ``"spline"``: splines with
        coefficients per ordered pair of types and channel.
    num_bessels : int
        Bessel functions.
    bessel_trainable : bool
        Train the Bessel frequencies nπ.
    polynomial_cutoff_p : float
        Exponent p ≥ 2 of the polynomial cutoff of the Bessel functions, finite.
    num_splines, spline_span : int
        Spline functions on [0, 1] of the scaled length, and how many of them overlap at a grid point (at most
        ``num_splines``).
    embed_dim : int
        Width E_d of the two-body embedding (even with Bessel functions).
    scalar_embed_depth, scalar_embed_width : int
        Hidden layers of the scalar-embedding MLP and their width.
    scalar_embed_dim : int, optional
        Output width S' of the scalar-embedding MLP; ``None`` means ``num_scalar_features``.
    latent_depth, latent_width : int
        Hidden layers of each latent MLP and their width.
    readout_depth, readout_width : int
        Hidden layers of the readout MLP and their width.
    scalar_embed_nonlinearity, latent_nonlinearity, readout_nonlinearity : str or None
        ``"silu"``, ``"gelu"``, ``"mish"``, ``"tanh"`` (each with f(0) = 0) or ``None`` for a linear MLP.
    path_channel_coupling : bool
        Tensor-product weights per path and channel (``True``) or per path only.
    weight_individual_irreps : bool
        Weights of an atom's density per channel and degree (``True``) or per channel only.
    avg_num_neighbors : float, mapping or sequence
        Average number of neighbors N̄ (> 0), one number or one per center type.
    energy_scales, energy_shifts : float, mapping or sequence
        Per-type scale (eV) and shift (eV) of the atom energy: one number, a mapping from every type name, or a
        sequence in the order of ``type_names``.
    energy_scales_trainable, energy_shifts_trainable : bool
        Train them.
    zbl : bool
        Add the Ziegler–Biersack–Littmark screened nuclear repulsion; every type must have an element.
    lennard_jones : LennardJones or mapping, optional
        Add a Lennard-Jones or an inverse-power pair potential.
    pair_cutoff_p : float, optional
        Exponent p ≥ 2 of the polynomial cutoff of the pair potentials; ``None`` means ``polynomial_cutoff_p``.
    dtype : str
        ``"float32"`` or ``"float64"``: dtype of weights and features. Geometry, scale, shift, pair potentials and
        energies are always float64. A model keeps it: ``model.to(dtype)``, ``.double()`` and the like are refused.
    mlp_dtype : str, optional
        ``"bfloat16"`` computes the hidden layers of the MLPs in it (matrix products and nonlinearities); weights, sums
        over edges, geometry and energies keep their dtypes, and forces are the derivatives of these energies.
        ``None`` means ``dtype``.
    fused_layers : bool
        Evaluate each layer's work on edges by :func:`equitensor.edge_layer`: on a GPU in float32 one kernel whose
        hidden layers stay on chip, in TF32. Needs latents of two hidden layers with SiLU, a linear readout and no
        ``mlp_dtype``; sizes without a kernel are refused there at the first call.

    Raises
    ------
    ValueError
        Naming the field, the requirement and the value given.
    """

    type_names: Sequence[str]
    cutoff: float
    elements: Mapping[str, str | None] | None = None
    type_cutoffs: Mapping[str, Any] | None = None
    l_max: int = 2
    parity: bool = True
    num_layers: int = 2
    num_scalar_features: int = 64
    num_tensor_features: int = 64
    radial_embedding: str = "bessel"
    num_bessels: int = 8
    bessel_trainable: bool = False
    polynomial_cutoff_p: float = 6.0
    num_splines: int = 16
    spline_span: int = 12
    embed_dim: int = 32
    scalar_embed_depth: int = 2
    scalar_embed_width: int = 64
    scalar_embed_dim: int | None = None
    latent_depth: int = 2
    latent_width: int = 256
    readout_depth: int = 1
    readout_width: int = 128
    scalar_embed_nonlinearity: str | None = "silu"
    latent_nonlinearity: str | None = "silu"
    readout_nonlinearity: str | None = None
    path_channel_coupling: bool = True
    weight_individual_irreps: bool = True
    avg_num_neighbors: float | Mapping[str, float] | Sequence[float] = 1.0
    energy_scales: float | Mapping[str, float] | Sequence[float] = 1.0
    energy_shifts: float | Mapping[str, float] | Sequence[float] = 0.0
    energy_scales_trainable: bool = False
    energy_shifts_trainable: bool = False
    zbl: bool = False
    lennard_jones: LennardJones | Mapping[str, Any] | None = None
    pair_cutoff_p: float | None = None
    dtype: str = "float32"
    mlp_dtype: str | None = None
    fused_layers: bool = False

    def __post_init__(self) -> None:
        self._check_types()
        self._check_sizes()
        self._check_choices()
        for field in PER_TYPE:
            self._set(field, plain(getattr(self, field)))
            self.per_type(field)
        for number in self.per_type("avg_num_neighbors"):
            require_positive("avg_num_neighbors", number)
        given = self.type_cutoffs
        ok = given is None or isinstance(given, Mapping)
        require(ok, "type_cutoffs", "None or a mapping of types", given)
        self._set("type_cutoffs", plain(given))
        self.cutoff_matrix()
        if isinstance(self.lennard_jones, Mapping):
            self._set("lennard_jones", LennardJones.from_dict(self.lennard_jones))
        pair, required = self.lennard_jones, "None, a LennardJones or a mapping of its fields"
        require(pair is None or isinstance(pair, LennardJones), "lennard_jones", required, pair)
        if isinstance(pair, LennardJones):
            pair.check_size(len(self.type_names))

    def _check_types(self) -> None:
        names, given = self.type_names, self.elements
        sequence = isinstance(names, Sequence) and not isinstance(names, str)
        require(sequence, "type_names", "a sequence of element symbols", names)
        require(len(names) > 0, "type_names", "a non-empty sequence of element symbols", names)
        require(given is None or isinstance(given, Mapping), "elements", "None or a mapping of types", given)
        unknown = sorted(set(given or {}) - {name for name in names if isinstance(name, str)}, key=str)
        require(not unknown, "elements", f"a mapping with keys among {list(names)}", unknown)
        for name in names:
            known = isinstance(name, str) and (name in (given or {}) or name in ATOMIC_NUMBERS)
            required = "element symbols such as 'H' or 'Si', or keys of elements"
            require(known, "type_names", required, name)
        for name, element in (given or {}).items():
            known = element is None or element in ATOMIC_NUMBERS
            require(known, f"elements.{name}", "an element symbol or None", element)
        require(len(set(names)) == len(names), "type_names", "distinct names", names)
        self._set("type_names", tuple(names))
        self._set("elements", None if given is None else dict(given))
        if self.zbl is True:
            without = [n for n, z in zip(names, self.atomic_numbers(), strict=True) if z is None]
            require(not without, "elements", "an element for every type, which zbl needs", without)

    def _check_sizes(self) -> None:
        require_positive("cutoff", self.cutoff)
        self._set("cutoff", float(self.cutoff))
        for field, low in INTEGERS.items():
            require_int(field, getattr(self, field), low)
            self._set(field, int(getattr(self, field)))
        span, splines = self.spline_span, self.num_splines
        require(span <= splines, "spline_span", f"at most num_splines = {splines}", span)
        even = self.embed_dim % 2 == 0 or self.radial_embedding == "spline"
        require(even, "embed_dim", "an even number", self.embed_dim)
        if self.scalar_embed_dim is not None:
            require_int("scalar_embed_dim", self.scalar_embed_dim, 1)
            self._set("scalar_embed_dim", int(self.scalar_embed_dim))
        for field in ("polynomial_cutoff_p", "pair_cutoff_p"):
            p = getattr(self, field)
            if p is not None or field == "polynomial_cutoff_p":
                ok = is_number(p) and math.isfinite(p) and p >= 2
                require(ok, field, "a finite number ≥ 2", p)
                self._set(field, float(p))

    def _check_choices(self) -> None:
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_nonlinearity"):
                ok = value is None or value in NONLINEARITIES
                require(ok, field.name, f"None or one of {NONLINEARITIES}", value)
            if isinstance(field.default, bool):
                require(isinstance(value, bool), field.name, "true or false", value)
        for name, allowed in (
            ("radial_embedding", EMBEDDINGS),
            ("dtype", DTYPES),
            ("mlp_dtype", MLP_DTYPES),
        ):
            require(getattr(self, name) in allowed, name, f"one of {allowed}", getattr(self, name))

        if self.fused_layers:
            self._check_fused()

    def _check_fused(self) -> None:
        linear = self.readout_depth == 0 or self.readout_nonlinearity is None
        silu = self.latent_nonlinearity == "silu"
        for field, ok, required in (
            ("latent_depth", self.latent_depth == 2, "2"),
            ("latent_nonlinearity", silu, "'silu'"),
            ("readout_nonlinearity", linear, "None"),
            ("mlp_dtype", self.mlp_dtype is None, "None"),
        ):
            require(ok, field, f"{required} with fused_layers", getattr(self, field))

    def _set(self, field: str, value: object) -> None:
        """Replace a field by its plain form, during construction only."""
        object.__setattr__(self, field, value)

    def __hash__(self) -> int:
        return hash(json.dumps(self.to_dict(), sort_keys=True))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> AllegroConfig:
        """Build from plain data; ``ValueError`` names every key that does not exist."""
        known = {f.name for f in dataclasses.fields(cls)}
        unknown = sorted(set(data) - known)
        require(not unknown, "config", f"a mapping with keys among {sorted(known)}", unknown)
        missing = [key for key in ("type_names", "cutoff") if key not in data]
        require(not missing, "config", "a mapping with the keys type_names and cutoff", sorted(data))
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON data from which :meth:`from_dict` builds an equal configuration."""
        out = dataclasses.asdict(self)
        out["type_names"] = list(self.type_names)
        for key in PER_TYPE:
            if isinstance(out[key], tuple):
                out[key] = list(out[key])
        return out

    def element_of_types(self) -> tuple[str, ...]:
        """Return the element symbol of each type; the name of a type that is no element."""
        given = self.elements or {}
        return tuple(given.get(name, name) or name for name in self.type_names)

    def atomic_numbers(self) -> list[int | None]:
        """Return the atomic number of each type, None where it is no element."""
        given = self.elements or {}
        symbols = [given.get(name, name) for name in self.type_names]
        return [None if symbol is None else ATOMIC_NUMBERS[symbol] for symbol in symbols]

    def per_type(self, field: str) -> list[float]:
        """Return the values of a per-type field: one per type, or a single one where the field is one number."""
        return per_type(field, getattr(self, field), self.type_names)

    def cutoff_matrix(self) -> list[list[float]]:
        """Return the cutoff of each ordered pair ``[type of center][type of neighbor]``, Å."""
        return cutoff_matrix(self.type_cutoffs or {}, self.cutoff, self.type_names)
