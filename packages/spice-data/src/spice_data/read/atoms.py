"""Labeled frames from ASE's Atoms, and back."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from spice_data.records import HIGHEST, NO_STRESS, Frame
from spice_data.units import ENERGY, LENGTH, STRESS

if TYPE_CHECKING:
    from ase import Atoms

AGREEMENT = 1e-3


@dataclass(frozen=True)
class Labels:
    """Keys and units of the labels in files that ASE reads.

    Attributes
    ----------
    energy, forces : str or None
        Keys of the labels that every frame must have, unless ``partial`` is set; None where the files have none.
    stress, virial : str or None
        Keys of the stress (positive under tension) and of the virial (−volume · stress), 6 numbers in Voigt order or 9.
        Frames need neither; a key other than the default must be in at least one frame. The virial of a frame that
        is not periodic along three axes is ignored.
    energy_unit, length_unit, stress_unit : str
        Names of ``spice_data.units``; forces are in energy per length.
    energy_scale, force_scale, stress_scale, length_scale : float
        Further factors of energies and virials, forces, stresses, and positions and cells; a negative one where the
        files hold gradients or pressures.
    partial : bool
        Allow frames without energy or without forces, and labels that are NaN throughout.
    required : bool
        Require each label whose key is given in some frame.
    """

    energy: str | None = "energy"
    forces: str | None = "forces"
    stress: str | None = "stress"
    virial: str | None = "virial"
    energy_unit: str = "eV"
    length_unit: str = "angstrom"
    stress_unit: str = "eV/angstrom^3"
    energy_scale: float = 1.0
    force_scale: float = 1.0
    stress_scale: float = 1.0
    length_scale: float = 1.0
    partial: bool = False
    required: bool = True

    def __post_init__(self) -> None:
        for name, table in (("energy_unit", ENERGY), ("length_unit", LENGTH), ("stress_unit", STRESS)):
            if getattr(self, name) not in table:
                raise ValueError(f"{name} must be one of {sorted(table)}, got {getattr(self, name)!r}")

    @property
    def asked(self) -> list[str]:
        """Keys of the labels that some frame must have: energy, forces, and a stress or virial of its own key."""
        stresses = [self.stress, self.virial] if (self.stress, self.virial) != ("stress", "virial") else []
        named = {"energy": [self.energy], "forces": [self.forces], "stress": stresses}
        return [name for name, keys in named.items() if self.required and any(keys)]

    @property
    def factors(self) -> tuple[float, float, float, float]:
        """Factors to Å, eV, eV/Å and eV/Å³."""
        length, energy = LENGTH[self.length_unit], ENERGY[self.energy_unit]
        return (
            length * self.length_scale,
            energy * self.energy_scale,
            energy / length * self.force_scale,
            STRESS[self.stress_unit] * self.stress_scale,
        )


def found_keys(atoms: Atoms) -> set[str]:
    """Return the names of everything an Atoms carries besides its elements and positions."""
    results = atoms.calc.results if atoms.calc is not None else {}
    return {*atoms.info, *atoms.arrays, *results} - {"numbers", "positions"}


def _find(atoms: Atoms, key: str | None, shape: tuple[int, ...], partial: bool) -> NDArray[np.float64] | None:
    """Return the label ``key`` from info, arrays or calculator; they must agree. A shape of (3, 3) may be Voigt."""
    if key is None:
        return None
    results = atoms.calc.results if atoms.calc is not None else {}
    given = [place[key] for place in (atoms.info, atoms.arrays, results) if place.get(key) is not None]
    values = []
    for each in given:
        try:
            value = np.asarray(each, np.float64)
        except (TypeError, ValueError):
            raise ValueError(f"key {key!r} must be a number or an array of numbers, got {each!r}") from None
        if shape == (3, 3) and value.size == 6:
            value = value.reshape(6)[[0, 5, 4, 5, 1, 3, 4, 3, 2]]
        if value.size != int(np.prod(shape)):
            raise ValueError(f"key {key!r} must have shape {shape}, got {value.shape}")
        values.append(value.reshape(shape))
    if len(values) > 1 and not np.allclose(values[0], values[1], rtol=1e-6, atol=1e-6, equal_nan=True):
        raise ValueError(
            f"key {key!r} must be the same in info and calculator, got {given[0]!r} and {given[1]!r}"
        )
    if not values or (partial and np.isnan(values[0]).all()):
        return None
    if not np.isfinite(values[0]).all():
        raise ValueError(f"key {key!r} must be finite, got NaN or infinity")
    return values[0]


def _require(value: NDArray[np.float64] | None, key: str | None, atoms: Atoms, partial: bool) -> None:
    if value is None and key is not None and not partial:
        found = sorted(found_keys(atoms))
        near = difflib.get_close_matches(key, found, 1, 0.5) or [k for k in found if key.lower() in k.lower()]
        hint = f" (nearest: {near[0]!r})" if near else ""
        raise ValueError(f"key {key!r} must be present, got {found}{hint}")


def _stress(atoms: Atoms, labels: Labels) -> NDArray[np.float64]:
    """Return the stress from stress or virial; both must agree."""
    per_length, per_energy, _, per_stress = labels.factors
    stress = _find(atoms, labels.stress, (3, 3), True)
    virial = _find(atoms, labels.virial, (3, 3), True) if atoms.pbc.all() else None
    if stress is not None:
        stress = 0.5 * (stress + stress.T) * per_stress
    if virial is None:
        return NO_STRESS if stress is None else stress
    volume = abs(float(np.linalg.det(atoms.cell.array))) * per_length**3
    if not volume > 0:
        raise ValueError(
            f"key {labels.virial!r} must come with a cell of non-zero volume, got {atoms.cell.tolist()}"
        )
    other: NDArray[np.float64] = -0.5 * (virial + virial.T) * per_energy / volume
    if stress is not None and np.abs(stress - other).max() > AGREEMENT * max(1e-3, np.abs(stress).max()):
        raise ValueError(
            f"keys {labels.stress!r} and {labels.virial!r} must agree (virial = -volume * stress), "
            f"got {stress.tolist()} and {other.tolist()} eV/Å³ (no key for one omits it)"
        )
    return other if stress is None else stress


def _number(info: dict[str, Any], key: str, default: float, whole: bool = False) -> float:
    try:
        value = float(info.get(key, default))
    except (TypeError, ValueError):
        raise ValueError(f"key {key!r} must be a number, got {info[key]!r}") from None
    if whole and not value.is_integer():
        raise ValueError(f"key {key!r} must be a whole number, got {info[key]!r}")
    return value


def from_ase(atoms: Atoms, labels: Labels | None = None, subset: str = "") -> Frame:
    """Return the frame of an ASE ``Atoms``, in Å, eV and eV/Å.

    Parameters
    ----------
    atoms : Atoms
        Labels are taken from ``info``, ``arrays`` and the results of the calculator. ``info`` may also have ``name``
        (by default the chemical formula), ``subset`` or ``config_type``, ``smiles``, ``charge``, ``formation_energy``,
        ``source_frame`` and ``config_weight``.
    labels : Labels, optional
        Keys and units.
    subset : str
        Subset of a frame that names none.

    Raises
    ------
    ValueError
        If a label is missing, not finite or of a wrong shape, or two that mean the same differ; the message names
        the key. The forces of a single atom are zero where they are missing.
    """
    labels = labels or Labels()
    n, info = len(atoms), atoms.info
    if n == 0 or not (1 <= atoms.numbers.min() and atoms.numbers.max() <= HIGHEST):
        raise ValueError(f"atoms must have numbers from 1 to {HIGHEST}, got {atoms.numbers.tolist()}")
    per_length, per_energy, per_force, _ = labels.factors
    energy = _find(atoms, labels.energy, (), labels.partial)
    forces = _find(atoms, labels.forces, (n, 3), labels.partial)
    _require(energy, labels.energy, atoms, labels.partial)
    if n > 1:
        _require(forces, labels.forces, atoms, labels.partial)
    elif forces is None and labels.forces is not None:
        forces = np.zeros((1, 3))  # by symmetry
    positions = np.asarray(atoms.positions, np.float64) * per_length
    if not np.isfinite(positions).all():
        raise ValueError("positions must be finite, got NaN or infinity")
    weight = _number(info, "config_weight", 1.0)
    if not 0 <= weight < np.inf:
        raise ValueError(f"key 'config_weight' must be a non-negative number, got {weight}")
    return Frame(
        positions,
        np.asarray(atoms.numbers, np.int64).copy(),
        np.nan if energy is None else float(energy) * per_energy,
        np.full((n, 3), np.nan) if forces is None else forces * per_force,
        _number(info, "formation_energy", np.nan) * per_energy,
        str(info.get("subset", info.get("config_type", subset))),
        str(info["name"]) if "name" in info else atoms.symbols.get_chemical_formula(),
        0,
        int(_number(info, "source_frame", -1, whole=True)),
        str(info.get("smiles", "")),
        int(_number(info, "charge", 0, whole=True)),
        np.asarray(atoms.cell.array, np.float64) * per_length,
        np.asarray(atoms.pbc, np.bool_).copy(),
        _stress(atoms, labels),
        weight,
    )


def to_ase(frame: Frame) -> Atoms:
    """Return an ASE ``Atoms`` with the labels in a single-point calculator (extra ``spice-data[ase]``)."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(numbers=frame.numbers, positions=frame.positions, cell=frame.cell, pbc=frame.pbc)
    atoms.info.update(subset=frame.subset, name=frame.name, formation_energy=frame.formation_energy)
    atoms.info.update(smiles=frame.smiles, charge=frame.charge, source_frame=frame.source_frame)
    if frame.weight != 1.0:
        atoms.info["config_weight"] = frame.weight
    given: dict[str, Any] = {
        "energy": frame.energy,
        "forces": frame.forces,
        "stress": frame.stress.reshape(9)[[0, 4, 8, 5, 2, 1]],
    }
    results = {key: value for key, value in given.items() if not np.isnan(value).all()}
    atoms.calc = SinglePointCalculator(atoms, **results)
    return atoms
