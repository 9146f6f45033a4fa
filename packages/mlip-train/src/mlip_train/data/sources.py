"""Labelled frames from files: SPICE stores and HDF5 through spice-data, everything else through ASE."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from mlip_train.config.checks import check_source, is_spice
from mlip_train.config.data import SourceConfig

Floats = NDArray[np.float64]


class DataError(ValueError):
    """Something in a data file that cannot be trained on; the message names file, frame index and key."""


class Frame(NamedTuple):
    """One labelled configuration; a label that is absent is NaN throughout.

    Attributes
    ----------
    numbers : (N,) int64
        Atomic numbers.
    positions, forces : (N, 3) float64
        Å and eV/Å.
    cell : (3, 3) float64
        Rows are lattice vectors, Å; zero where there is none.
    pbc : (3,) bool
        Periodic axes.
    energy : float
        eV.
    stress : (3, 3) float64
        eV/Å³, positive under tension.
    weight : float
        Weight in the loss.
    subset, file, number : str, str, int
        Name for metrics, and where the frame is from.
    """

    numbers: NDArray[np.int64]
    positions: Floats
    forces: Floats
    cell: Floats
    pbc: NDArray[np.bool_]
    energy: float
    stress: Floats
    weight: float
    subset: str
    file: str
    number: int


class Reader:
    """Reads sources; a file that has to be parsed whole to learn its elements is parsed once.

    SPICE files and stores are streamed: their elements are read without their coordinates. The frames of any other
    file are kept between :meth:`elements` and the first :meth:`frames` after it.
    """

    def __init__(self) -> None:
        self._parsed: dict[SourceConfig, list[Frame]] = {}

    def elements(self, source: SourceConfig) -> set[int]:
        """Atomic numbers that occur in a source."""
        if is_spice(source.path):
            return {int(z) for numbers in _spice_numbers(source) for z in numbers}
        self._parsed[source] = frames = list(read(source))
        return {int(z) for frame in frames for z in frame.numbers}

    def frames(self, source: SourceConfig) -> Iterator[Frame]:
        """See :func:`read`."""
        parsed = self._parsed.pop(source, None)
        return read(source) if parsed is None else iter(parsed)


def read(source: SourceConfig) -> Iterator[Frame]:
    """Return the frames of one source, in file order or shuffled and sliced.

    Raises
    ------
    FileNotFoundError, DataError
        If the file is missing, or a label is NaN, infinite or of a wrong shape, or a weight negative.
    ValueError
        For an option that does not apply to the kind of file.
    """
    check_source(source, "source")
    path = Path(source.path)
    if not path.exists():
        raise FileNotFoundError(f"data must be an existing file, got {source.path!r}")
    if is_spice(source.path):
        yield from _read_spice(source)
        return
    frames = _read_ase(path)
    for i in _chosen(len(frames), source):
        yield _from_atoms(frames[i], source, i)


def _read_ase(path: Path) -> list[Atoms]:
    try:
        if path.suffix.lower() in (".xyz", ".extxyz"):
            with path.open() as file:
                frames = ase.io.read(file, index=":", format="extxyz")
        else:
            frames = ase.io.read(path, index=":")
    except Exception as e:
        raise DataError(f"{path} must be readable by ASE, got {type(e).__name__}: {e}") from None
    return frames if isinstance(frames, list) else [frames]


def _chosen(count: int, source: SourceConfig) -> list[int]:
    order = np.arange(count)
    if source.shuffle is not None:
        np.random.default_rng(source.shuffle).shuffle(order)
    if source.take is not None:
        try:
            parts = [int(p) if p.strip() else None for p in source.take.split(":")]
        except ValueError:
            parts = []
        if not 1 < len(parts) < 4:
            raise ValueError(f"take must be a slice such as ':100' or '100:', got {source.take!r}")
        order = order[slice(*parts)]
    return [int(i) for i in order]


def _find(atoms: Atoms, key: str | None, where: str) -> Any:
    if key is None:
        return None
    results = atoms.calc.results if atoms.calc is not None else {}
    for place in (atoms.info, atoms.arrays, results):
        if key in place:
            try:
                value = np.asarray(place[key], dtype=np.float64)
            except (TypeError, ValueError):
                raise DataError(f"{where}, key {key!r} must be numeric, got {place[key]!r}") from None
            if not np.isfinite(value).all():
                bad = (
                    int(np.argwhere(~np.isfinite(value.reshape(len(value), -1)).all(1))[0, 0])
                    if value.ndim
                    else 0
                )
                raise DataError(
                    f"{where}, key {key!r} must be finite, got {value[bad] if value.ndim else value}"
                )
            return value
    return None


def _one(atoms: Atoms, key: str | None, where: str) -> float | None:
    value = _find(atoms, key, where)
    if value is not None and value.size != 1:
        raise DataError(f"{where}, key {key!r} must be one number, got {value.size}")
    return None if value is None else float(value.reshape(()))


def _from_atoms(atoms: Atoms, source: SourceConfig, index: int) -> Frame:
    where = f"{source.path}, frame {index}"
    n = len(atoms)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise DataError(f"{where}, key 'positions' must be finite")
    energy = _one(atoms, source.energy, where)
    forces = _find(atoms, source.forces, where)
    if forces is not None and forces.shape != (n, 3):
        raise DataError(f"{where}, key {source.forces!r} must have shape {(n, 3)}, got {forces.shape}")
    weight = _one(atoms, "config_weight", where)
    if weight is not None and weight < 0:
        raise DataError(f"{where}, key 'config_weight' must be a non-negative number, got {weight}")
    named = source.subset or Path(source.path).stem
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=positions,
        forces=np.full((n, 3), np.nan) if forces is None else forces * source.force_scale,
        cell=np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        energy=float("nan") if energy is None else energy * source.energy_scale,
        stress=_stress(atoms, source, where),
        weight=source.weight * (1.0 if weight is None else weight),
        subset=named,
        file=source.path,
        number=index,
    )


def _stress(atoms: Atoms, source: SourceConfig, where: str) -> Floats:
    stress, virial = _find(atoms, source.stress, where), _find(atoms, source.virial, where)
    if (stress is None and virial is None) or not atoms.pbc.all():
        return np.full((3, 3), np.nan)
    key, value = (source.stress, stress) if stress is not None else (source.virial, virial)
    if value.size == 6:
        value = voigt_6_to_full_3x3_stress(value.reshape(6))
    if value.size != 9:
        raise DataError(f"{where}, key {key!r} must have 6 or 9 numbers, got {value.size}")
    value = value.reshape(3, 3) * (source.energy_scale if key == source.virial else source.stress_scale)
    value = 0.5 * (value + value.T)
    return value if key == source.stress else -value / atoms.get_volume()


def _spice(source: SourceConfig) -> Any:
    try:
        import spice_data
    except ImportError:
        raise ImportError(
            f"data: required spice-data to read {source.path!r} (pip install 'mlip-train[spice]')"
        ) from None
    return spice_data


def _read_spice(source: SourceConfig) -> Iterator[Frame]:
    spice_data = _spice(source)
    if source.path.endswith(".store"):
        with spice_data.Store(source.path) as store:
            for i in _stored(spice_data, store, source):
                f = store[i]
                yield _spice_frame(source, f.subset, i, f.numbers, f.positions, f.energy, f.forces)
        return
    with spice_data.open(source.path) as file:
        for m, taken in itertools.groupby(_conformations(file, source), lambda c: c[1]):
            at = [(i, k) for i, _, k in taken]
            first, end = min(k for _, k in at), max(k for _, k in at) + 1
            x, e, f = m.positions(first, end), m.energies(first, end), m.forces(first, end)
            for i, k in at:
                yield _spice_frame(
                    source, m.subset, i, m.numbers, x[k - first], float(e[k - first]), f[k - first]
                )


def _spice_numbers(source: SourceConfig) -> Iterator[Any]:
    """Atomic numbers of the molecules (of a store: of the frames) that :func:`_read_spice` reads."""
    spice_data = _spice(source)
    if source.path.endswith(".store"):
        with spice_data.Store(source.path) as store:
            for i in _stored(spice_data, store, source):
                yield store[i].numbers
        return
    with spice_data.open(source.path) as file:
        for molecule in dict.fromkeys(molecule for _, molecule, _ in _conformations(file, source)):
            yield molecule.numbers


def _stored(spice_data: Any, store: Any, source: SourceConfig) -> list[int]:
    """Return the frames that a source selects from a store."""
    listed = np.arange(len(store))
    if source.split is not None:
        parts = spice_data.Split.load(source.split, store)
        listed = {"train": parts.train, "val": parts.val, "test": parts.test}[str(source.part)]
    if source.charge is not None or source.exclude:
        columns = np.concatenate([rows[["molecule", "subset"]] for rows in store.frames()])[listed]
        kept = ~np.isin(
            columns["subset"], [store.subsets.index(n) for n in source.exclude if n in store.subsets]
        )
        if source.charge is not None:
            found, place = np.unique(columns["molecule"], return_inverse=True)
            kept &= np.array([store.molecule(int(m)).charge == source.charge for m in found], bool)[place]
        listed = listed[kept]
    return [int(listed[k]) for k in _chosen(len(listed), source)]


def _conformations(file: Any, source: SourceConfig) -> list[tuple[int, Any, int]]:
    """Return file index, molecule (without arrays) and conformation of the selected frames."""
    at: list[tuple[int, Any, int]] = []
    first = 0
    for molecule in file:
        charged = source.charge is not None and molecule.charge != source.charge
        if molecule.subset not in source.exclude and not charged:
            at += [(first + k, molecule, k) for k in range(molecule.n_frames)]
        first += molecule.n_frames
    return [at[i] for i in _chosen(len(at), source)]


def _spice_frame(
    source: SourceConfig,
    subset: str,
    index: int,
    numbers: Any,
    positions: Floats,
    energy: float,
    forces: Floats,
) -> Frame:
    for key, value in (("positions", positions), ("energy", energy), ("forces", forces)):
        if not np.isfinite(value).all():
            raise DataError(f"{source.path}, frame {index}, key {key!r} must be finite")
    return Frame(
        numbers=np.asarray(numbers, dtype=np.int64),
        positions=np.asarray(positions, dtype=np.float64),
        forces=np.asarray(forces, dtype=np.float64),
        cell=np.zeros((3, 3)),
        pbc=np.zeros(3, dtype=bool),
        energy=float(energy),
        stress=np.full((3, 3), np.nan),
        weight=source.weight,
        subset=source.subset or subset,
        file=source.path,
        number=index,
    )
