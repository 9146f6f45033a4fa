"""Labeled frames from files that ASE reads."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from ase import Atoms

from mlip_train.config.data import SourceConfig
from mlip_train.data.frame import DataError, Floats, Frame
from mlip_train.data.xyz import VOIGT, read_frames


def frames_of(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file.

    Raises
    ------
    DataError
        If ASE cannot read it.
    """
    if path.suffix.lower() in (".xyz", ".extxyz"):
        yield from read_frames(path)
        return
    try:
        frames = ase.io.read(path, index=":")
    except Exception as e:
        raise DataError(f"{path} must be readable by ASE, got {type(e).__name__}: {e}") from None
    yield from frames if isinstance(frames, list) else [frames]


def keys_of(path: Path) -> list[str]:
    """Names of everything that the first frame of a file holds besides its structure."""
    for atoms in frames_of(path):
        results = atoms.calc.results if atoms.calc is not None else {}
        return sorted({*atoms.info, *atoms.arrays, *results} - {"numbers", "positions"})
    return []


def from_atoms(atoms: Atoms, source: SourceConfig, index: int) -> Frame:
    """Take the labels that a source names from a structure.

    Raises
    ------
    DataError
        For a label that is not numeric, not finite, of a wrong shape, or there twice with different values.
    """
    where = f"{source.path}, frame {index}"
    n = len(atoms)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise DataError(f"{where}, key 'positions' must be finite")
    energy = _one(atoms, source.energy, where)
    forces = _find(atoms, source.forces, where)
    if forces is not None and forces.shape != (n, 3):
        raise DataError(f"{where}, key {source.forces!r} must have shape {(n, 3)}, got {forces.shape}")
    if forces is None and source.forces is not None and n == 1 and not atoms.pbc.any():
        forces = np.zeros((1, 3))  # by symmetry
    weight = _one(atoms, "config_weight", where)
    if weight is not None and weight < 0:
        raise DataError(f"{where}, key 'config_weight' must be at least 0, got {weight}")
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=positions,
        forces=np.full((n, 3), np.nan) if forces is None else forces * source.force_scale,
        cell=np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        energy=float("nan") if energy is None else energy * source.energy_scale,
        stress=_stress(atoms, source, where),
        weight=source.weight * (1.0 if weight is None else weight),
        subset=source.subset or Path(source.path).stem,
        file=source.path,
        number=index,
    )


def _find(atoms: Atoms, key: str | None, where: str) -> Floats | None:
    """Return the values under a key; None where they are absent or NaN throughout."""
    if key is None:
        return None
    results = atoms.calc.results if atoms.calc is not None else {}
    found = [place[key] for place in (atoms.info, atoms.arrays, results) if key in place]
    if not found:
        return None
    try:
        values = [np.asarray(value, dtype=np.float64) for value in found]
    except (TypeError, ValueError):
        raise DataError(f"{where}, key {key!r} must be numeric, got {found[0]!r}") from None
    value = values[0]
    for other in values[1:]:
        if other.size == value.size and not np.allclose(
            value.ravel(), other.ravel(), 1e-6, 1e-6, equal_nan=True
        ):
            raise DataError(f"{where}, key {key!r} must have one value, got {value} and {other}")
    if value.size and np.isnan(value).all():
        return None
    if not np.isfinite(value).all():
        bad = value[~np.isfinite(value.reshape(len(value), -1)).all(1)][0] if value.ndim else value
        raise DataError(f"{where}, key {key!r} must be finite, got {bad}")
    return value


def _one(atoms: Atoms, key: str | None, where: str) -> float | None:
    value = _find(atoms, key, where)
    if value is not None and value.size != 1:
        raise DataError(f"{where}, key {key!r} must be one number, got {value.size}")
    return None if value is None else float(value.reshape(()))


def _stress(atoms: Atoms, source: SourceConfig, where: str) -> Floats:
    """Return the stress, (3, 3) eV/Å³, from stress or virial; NaN where there is none or no volume."""
    if not atoms.pbc.all():
        return np.full((3, 3), np.nan)
    stress = _tensor(atoms, source.stress, where)
    virial = _tensor(atoms, source.virial, where)
    if stress is not None:
        stress = stress * source.stress_scale
    if virial is not None:
        volume = float(atoms.cell.volume)
        if not volume > 0:
            raise DataError(f"{where}, cell must have a volume for the virial, got {volume} Å³")
        virial = -virial * source.energy_scale / volume
    if stress is not None and virial is not None and not np.allclose(stress, virial, 1e-2, 1e-4):
        raise DataError(
            f"{where}, keys {source.stress!r} and {source.virial!r} must agree (virial = -volume * stress), got "
            f"stresses of {stress.ravel().tolist()} and {virial.ravel().tolist()} eV/Å³ (null for one key omits it)"
        )
    found = stress if stress is not None else virial
    return np.full((3, 3), np.nan) if found is None else found


def _tensor(atoms: Atoms, key: str | None, where: str) -> Floats | None:
    """Return a symmetric matrix given by 6 (Voigt) or 9 numbers."""
    value: Any = _find(atoms, key, where)
    if value is None:
        return None
    if value.size == 6:
        value = value.ravel()[np.array(VOIGT)]
    if value.size != 9:
        raise DataError(f"{where}, key {key!r} must have 6 or 9 numbers, got {value.size}")
    value = value.reshape(3, 3)
    symmetric: Floats = 0.5 * (value + value.T)
    return symmetric
