"""TorsionNet500: torsion profiles from SDF or JSON, and errors of their barrier heights."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from spice_data.elements import NUMBERS
from spice_data.errors import DataError
from spice_data.units import HARTREE, KCAL

UNITS = {"kcal/mol": KCAL, "hartree": HARTREE, "eV": 1.0}
PROFILES, POINTS = 500, 24


class Profile(NamedTuple):
    """One molecule along the scan of one torsion.

    Attributes
    ----------
    name : str
        Name of the molecule.
    numbers : (N,) int64
        Atomic numbers.
    positions : (K, N, 3) float64
        Å, one conformation per angle.
    angles : (K,) float64
        Torsion angle, degrees.
    energies : (K,) float64
        Reference energies, eV; only their differences mean anything.
    """

    name: str
    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    angles: NDArray[np.float64]
    energies: NDArray[np.float64]


class _Record(NamedTuple):
    name: str
    numbers: tuple[int, ...]
    positions: NDArray[np.float64]
    data: dict[str, str]


def _sdf_records(path: Path) -> Iterator[_Record]:
    """Yield the records of an SDF file (V2000 molblocks) with their data items."""
    index = 0
    lines: list[str] = []
    with path.open(encoding="utf-8") as file:
        for line in file:
            if line.startswith("$$$$"):
                yield _sdf_record(path, lines, f"record {index}")
                index, lines = index + 1, []
            else:
                lines.append(line.rstrip("\n"))
    if any(line.strip() for line in lines):
        raise DataError(path, "end each record by $$$$", "the end of the file", at=f"record {index}")


def _sdf_record(path: Path, lines: list[str], where: str) -> _Record:
    if len(lines) < 4 or "V2000" not in lines[3]:
        raise DataError(path, "be a V2000 molblock", repr(lines[3] if len(lines) > 3 else lines), at=where)
    try:
        n = int(lines[3][:3])
        rows = [(line[:10], line[10:20], line[20:30], line[31:34].strip()) for line in lines[4 : 4 + n]]
        positions = np.array([[float(v) for v in row[:3]] for row in rows]).reshape(n, 3)
        numbers = tuple(NUMBERS[row[3]] for row in rows)
    except (ValueError, KeyError) as e:
        raise DataError(path, "have atom lines of coordinates and a symbol", repr(e), at=where) from None
    data, key = {}, ""
    for line in lines[4 + n :]:
        if line.startswith(">") and "<" in line:
            key = line[line.index("<") + 1 : line.rindex(">")]
            data[key] = ""
        elif key and line.strip():
            data[key] = f"{data[key]}\n{line}" if data[key] else line.strip()
        elif key:
            key = ""
    return _Record(lines[0].strip(), numbers, positions, data)


def _value(path: Path, record: _Record, tag: str, where: str) -> float:
    if tag not in record.data:
        raise DataError(path, "be a data item", f"only {sorted(record.data)}", dataset=tag, at=where)
    try:
        return float(record.data[tag])
    except ValueError:
        raise DataError(path, "be a number", repr(record.data[tag]), dataset=tag, at=where) from None


def _from_sdf(path: Path, scale: float, points: int, energy_tag: str, angle_tag: str) -> Iterator[Profile]:
    group: list[_Record] = []
    start = 0
    for index, record in enumerate(_sdf_records(path)):
        group.append(record)
        if record.numbers != group[0].numbers:
            raise DataError(path, f"have the atoms of record {start}", record.numbers, at=f"record {index}")
        if len(group) == points:
            places = [f"record {start + k}" for k in range(points)]
            angles = [_value(path, r, angle_tag, w) for r, w in zip(group, places, strict=True)]
            energies = [_value(path, r, energy_tag, w) for r, w in zip(group, places, strict=True)]
            yield Profile(
                group[0].name or f"profile {start // points}",
                np.array(group[0].numbers, np.int64),
                np.stack([r.positions for r in group]),
                np.array(angles),
                np.array(energies) * scale,
            )
            group, start = [], index + 1
    if group:
        raise DataError(
            path, f"have a multiple of {points} records", f"{len(group)} left over", at=f"record {start}"
        )


def _from_json(path: Path, scale: float) -> Iterator[Profile]:
    try:
        table = json.loads(path.read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(path, "be JSON", e) from None
    if not isinstance(table, dict):
        raise DataError(path, "be an object of profiles by name", type(table).__name__)
    for name, row in table.items():
        try:
            profile = np.array(row["dft_energy_profile"], np.float64)
            positions = np.array(row["conformer_coordinates"], np.float64)
            numbers = np.array([NUMBERS[s] for s in row["atom_symbols"]], np.int64)
        except (KeyError, ValueError, TypeError) as e:
            raise DataError(
                path, "have profile, coordinates and symbols", repr(e), at=f"profile {name!r}"
            ) from None
        if profile.shape != (len(positions), 2) or positions.shape != (len(positions), len(numbers), 3):
            raise DataError(
                path,
                "have one (angle, energy) per conformer",
                f"{profile.shape}, {positions.shape}",
                at=f"profile {name!r}",
            )
        yield Profile(name, numbers, positions, profile[:, 0], profile[:, 1] * scale)


def read_torsions(
    path: str | os.PathLike[str],
    *,
    energy_unit: str = "kcal/mol",
    points: int = POINTS,
    energy_tag: str = "Energy",
    angle_tag: str = "TORSION_ANGLE",
) -> Iterator[Profile]:
    """Yield torsion profiles from a file, one at a time.

    Parameters
    ----------
    path : path
        An SDF file in which each run of ``points`` records is one profile, as the published
        ``TorsionNet500_qm_opt_geometries.sdf``; or a JSON object of profiles by name with
        ``atom_symbols``, ``conformer_coordinates`` (Å) and ``dft_energy_profile`` (pairs of degrees and
        energy).
    energy_unit : str
        ``"kcal/mol"``, ``"hartree"`` or ``"eV"``: neither format states it.
    points : int
        Records per profile in an SDF.
    energy_tag, angle_tag : str
        Data items of an SDF record that hold energy and angle.

    Raises
    ------
    ValueError
        For an unknown ``energy_unit``.
    FileNotFoundError
        If there is no such file.
    DataError
        Naming file, record and data item.
    """
    if energy_unit not in UNITS:
        raise ValueError(f"energy_unit must be one of {sorted(UNITS)}, got {energy_unit!r}")
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing file, got {str(path)!r}")
    if path.suffix == ".json":
        yield from _from_json(path, UNITS[energy_unit])
    else:
        yield from _from_sdf(path, UNITS[energy_unit], points, energy_tag, angle_tag)


def read_torsionnet500(path: str | os.PathLike[str], *, energy_unit: str = "kcal/mol") -> list[Profile]:
    """Return the 500 profiles of 24 angles each; ``DataError`` if there are more or fewer."""
    profiles = list(read_torsions(path, energy_unit=energy_unit))
    short = [p.name for p in profiles if len(p.energies) != POINTS]
    if len(profiles) != PROFILES or short:
        raise DataError(
            path,
            f"have {PROFILES} profiles of {POINTS} angles",
            f"{len(profiles)}, of other lengths: {short[:5]}",
        )
    return profiles


def barrier_height(energies: ArrayLike) -> float:
    """Return highest minus lowest energy along a profile, in the unit given.

    Raises
    ------
    ValueError
        If there are not at least two finite energies (K,).

    Examples
    --------
    >>> barrier_height([0.5, 0.1, 0.25])
    0.4
    """
    values = np.asarray(energies, np.float64)
    if values.ndim != 1 or len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"energies must be at least two finite values (K,), got shape {values.shape}")
    return float(values.max() - values.min())


class BarrierErrors(NamedTuple):
    """Errors of predicted profiles.

    Attributes
    ----------
    mae, rmse : float
        Of the barrier heights over profiles, eV.
    above_1_kcal : int
        Profiles whose barrier is off by more than 1 kcal/mol.
    profile_mae : float
        Mean over profiles of the mean absolute error of the energies relative to the reference minimum, eV.
    profiles : int
        Number of profiles.
    """

    mae: float
    rmse: float
    above_1_kcal: int
    profile_mae: float
    profiles: int


def barrier_errors(reference: Iterable[ArrayLike], predicted: Iterable[ArrayLike]) -> BarrierErrors:
    """Compare predicted profiles with reference ones, both eV.

    The barrier height is max − min along each profile, whether or not both extremes fall on the same angles.

    Parameters
    ----------
    reference, predicted : iterables of (K,) array_like
        Energies along each profile, eV, in the same order.

    Raises
    ------
    ValueError
        If there are no profiles, not as many predicted ones, or any two differ in length or have no
        :func:`barrier_height`.

    Examples
    --------
    >>> e = barrier_errors([[0.0, 0.3], [0.0, 0.1]], [[5.0, 5.2], [1.0, 1.1]])
    >>> round(e.mae, 6), e.above_1_kcal
    (0.05, 1)
    """
    pairs: Sequence[tuple[ArrayLike, ArrayLike]] = list(zip(reference, predicted, strict=True))
    if not pairs:
        raise ValueError("reference must be at least one profile, got none")
    errors, along = [], []
    for a, b in pairs:
        x, y = np.asarray(a, np.float64), np.asarray(b, np.float64)
        if x.shape != y.shape:
            raise ValueError(f"predicted must have the reference's shape {x.shape}, got {y.shape}")
        errors.append(barrier_height(y) - barrier_height(x))
        low = int(x.argmin())
        along.append(np.abs((y - y[low]) - (x - x[low])).mean())
    e = np.array(errors)
    above = int((np.abs(e) > KCAL).sum())
    return BarrierErrors(
        float(np.abs(e).mean()), float(np.sqrt((e**2).mean())), above, float(np.mean(along)), len(e)
    )
