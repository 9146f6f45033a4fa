"""Configuration of an Allegro model: frozen, validated, convertible to and from plain data."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
from torch import Tensor

from allegro_model.elements import ATOMIC_NUMBERS

NONLINEARITIES = ("silu", "gelu", "mish", "tanh")
DTYPES = ("float32", "float64")
PER_TYPE = ("avg_num_neighbors", "energy_scales", "energy_shifts")


@dataclasses.dataclass(frozen=True)
class AllegroConfig:
    """Configuration of an :class:`~allegro_model.Allegro` model.

    Kept as plain data, copied: numbers of NumPy and torch become Python's, arrays and lists become tuples.

    Parameters
    ----------
    type_names : sequence of str
        Element symbol of each atom type; ``types`` index into it.
    cutoff : float
        Largest cutoff radius r_max, Å, > 0.
    type_cutoffs : mapping, optional
        Cutoffs of ordered type pairs, Å, each in (0, ``cutoff``]: ``{"H": 4.0, "O": {"H": 3.5}}`` maps a center
        type to one number or to numbers per neighbor type; what is left out is ``cutoff``.
    l_max : int
        Largest rotation order of the spherical harmonics, ≥ 1.
    parity : bool
        Keep irreps of both parities between layers (for one and two layers this changes nothing).
    num_layers : int
        Allegro layers, ≥ 1.
    num_scalar_features, num_tensor_features : int
        Scalar channels S and tensor channels C.
    num_bessels : int
        Radial basis functions.
    bessel_trainable : bool
        Train the Bessel frequencies nπ.
    polynomial_cutoff_p : float
        Exponent p ≥ 2 of the polynomial cutoff, finite.
    embed_dim : int
        Width E_d of the two-body embedding (even).
    scalar_embed_depth, scalar_embed_width : int
        Hidden layers of the scalar-embedding MLP and their width.
    scalar_embed_dim : int, optional
        Output width S' of the scalar-embedding MLP; ``None`` means ``num_scalar_features``.
    latent_depth, latent_width : int
        Hidden layers of each latent MLP and their width.
    readout_depth, readout_width : int
        Hidden layers of the readout MLP and their width.
    scalar_embed_nonlinearity, latent_nonlinearity, readout_nonlinearity : str or None
        ``"silu"``, ``"gelu"``, ``"mish"``, ``"tanh"`` (each with f(0) = 0) or ``None`` for a product of matrices.
    path_channel_coupling : bool
        Tensor-product weights per path and channel (``True``) or per path only.
    avg_num_neighbors : float or mapping
        Average number of neighbors N̄ (> 0), one number or one per center type.
    energy_scales, energy_shifts : float, mapping or sequence
        Per-type scale (eV) and shift (eV) of the atom energy: one number, a mapping from every type name, or a
        sequence in the order of ``type_names``.
    energy_scales_trainable, energy_shifts_trainable : bool
        Train them.
    zbl : bool
        Add the Ziegler–Biersack–Littmark screened nuclear repulsion.
    dtype : str
        ``"float32"`` or ``"float64"``: dtype of weights and features. Geometry, scale, shift, ZBL and energies are
        always float64. A model keeps it: ``model.to(dtype)``, ``.double()`` and the like are refused.

    Raises
    ------
    ValueError
        Naming the field, the requirement and the value given.
    """

    type_names: Sequence[str]
    cutoff: float
    type_cutoffs: Mapping[str, Any] | None = None
    l_max: int = 2
    parity: bool = True
    num_layers: int = 2
    num_scalar_features: int = 64
    num_tensor_features: int = 64
    num_bessels: int = 8
    bessel_trainable: bool = False
    polynomial_cutoff_p: float = 6.0
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
    avg_num_neighbors: float | Mapping[str, float] | Sequence[float] = 1.0
    energy_scales: float | Mapping[str, float] | Sequence[float] = 1.0
    energy_shifts: float | Mapping[str, float] | Sequence[float] = 0.0
    energy_scales_trainable: bool = False
    energy_shifts_trainable: bool = False
    zbl: bool = False
    dtype: str = "float32"

    def __post_init__(self) -> None:
        names = self.type_names
        sequence = isinstance(names, Sequence) and not isinstance(names, str)
        _require(sequence, "type_names", "a sequence of element symbols", names)
        _require(len(names) > 0, "type_names", "a non-empty sequence of element symbols", names)
        for name in names:
            known = isinstance(name, str) and name in ATOMIC_NUMBERS
            _require(known, "type_names", "element symbols such as 'H' or 'Si'", name)
        _require(len(set(names)) == len(names), "type_names", "distinct names", names)
        self._set("type_names", tuple(names))
        _positive_number("cutoff", self.cutoff)
        self._set("cutoff", float(self.cutoff))
        for field, low in (
            ("l_max", 1),
            ("num_layers", 1),
            ("num_scalar_features", 1),
            ("num_tensor_features", 1),
            ("num_bessels", 1),
            ("embed_dim", 2),
            ("scalar_embed_depth", 0),
            ("scalar_embed_width", 1),
            ("latent_depth", 0),
            ("latent_width", 1),
            ("readout_depth", 0),
            ("readout_width", 1),
        ):
            _require_int(field, getattr(self, field), low)
            self._set(field, int(getattr(self, field)))
        _require(self.embed_dim % 2 == 0, "embed_dim", "an even number", self.embed_dim)
        if self.scalar_embed_dim is not None:
            _require_int("scalar_embed_dim", self.scalar_embed_dim, 1)
            self._set("scalar_embed_dim", int(self.scalar_embed_dim))
        p = self.polynomial_cutoff_p
        _require(
            _is_number(p) and math.isfinite(p) and p >= 2, "polynomial_cutoff_p", "a finite number ≥ 2", p
        )
        self._set("polynomial_cutoff_p", float(p))
        for field in ("scalar_embed_nonlinearity", "latent_nonlinearity", "readout_nonlinearity"):
            value = getattr(self, field)
            _require(
                value is None or value in NONLINEARITIES, field, f"None or one of {NONLINEARITIES}", value
            )
        for field in (
            "parity",
            "bessel_trainable",
            "path_channel_coupling",
            "energy_scales_trainable",
            "energy_shifts_trainable",
            "zbl",
        ):
            _require(isinstance(getattr(self, field), bool), field, "true or false", getattr(self, field))
        _require(self.dtype in DTYPES, "dtype", f"one of {DTYPES}", self.dtype)
        for field in PER_TYPE:
            self._set(field, _plain(getattr(self, field)))
            self.per_type(field)
        for number in self.per_type("avg_num_neighbors"):
            _positive_number("avg_num_neighbors", number)
        given = self.type_cutoffs
        _require(
            given is None or isinstance(given, Mapping), "type_cutoffs", "None or a mapping of types", given
        )
        self._set("type_cutoffs", _plain(given))
        self.cutoff_matrix()

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
        _require(not unknown, "config", f"a mapping with keys among {sorted(known)}", unknown)
        missing = [key for key in ("type_names", "cutoff") if key not in data]
        _require(not missing, "config", "a mapping with the keys type_names and cutoff", sorted(data))
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON data from which :meth:`from_dict` builds an equal configuration."""
        out = dataclasses.asdict(self)
        out["type_names"] = list(self.type_names)
        for key in PER_TYPE:
            if isinstance(out[key], tuple):
                out[key] = list(out[key])
        return out

    def per_type(self, field: str) -> list[float]:
        """Return the values of a per-type field: one per type, or one alone where the field is one number."""
        value = getattr(self, field)
        if isinstance(value, Mapping):
            _require(
                set(value) == set(self.type_names),
                field,
                f"a mapping with exactly the keys {list(self.type_names)}",
                dict(value),
            )
            numbers = [value[name] for name in self.type_names]
        elif isinstance(value, Sequence) and not isinstance(value, str):
            _require(
                len(value) == len(self.type_names),
                field,
                f"{len(self.type_names)} numbers, one per type",
                value,
            )
            numbers = list(value)
        else:
            numbers = [value]
        for number in numbers:
            _require(_is_number(number) and math.isfinite(number), field, "finite numbers", value)
        return [float(number) for number in numbers]

    def cutoff_matrix(self) -> list[list[float]]:
        """Cutoff of each ordered pair [type of center][type of neighbor], Å."""
        given = self.type_cutoffs or {}
        unknown = sorted(set(given) - set(self.type_names), key=str)
        _require(not unknown, "type_cutoffs", f"a mapping with keys among {list(self.type_names)}", unknown)
        matrix = []
        for center in self.type_names:
            entry = given.get(center, self.cutoff)
            if isinstance(entry, Mapping):
                unknown = sorted(set(entry) - set(self.type_names), key=str)
                _require(
                    not unknown,
                    f"type_cutoffs.{center}",
                    f"a mapping with keys among {list(self.type_names)}",
                    unknown,
                )
                row = [entry.get(neighbor, self.cutoff) for neighbor in self.type_names]
            else:
                row = [entry] * len(self.type_names)
            for value in row:
                _positive_number(f"type_cutoffs.{center}", value)
                _require(
                    value <= self.cutoff, f"type_cutoffs.{center}", f"at most cutoff = {self.cutoff}", value
                )
            matrix.append([float(value) for value in row])
        return matrix


def _require(condition: bool, name: str, required: str, got: object) -> None:
    if not condition:
        raise ValueError(f"{name} must be {required}, got {got!r}")


def _plain(value: Any) -> Any:
    """Return a copy in Python's own numbers, tuples and dictionaries."""
    if isinstance(value, np.ndarray | np.generic | Tensor):
        value = value.tolist()
    if isinstance(value, Mapping):
        return {key: _plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return tuple(_plain(entry) for entry in value)
    return float(value) if _is_number(value) else value


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _require_int(name: str, value: Any, low: int) -> None:
    ok = isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= low
    _require(ok, name, f"an integer ≥ {low}", value)


def _positive_number(name: str, value: Any) -> None:
    _require(_is_number(value) and math.isfinite(value) and value > 0, name, "a finite number > 0", value)
