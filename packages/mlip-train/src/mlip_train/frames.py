"""Labelled frames from files: SPICE stores and HDF5 through spice-data, everything else through ASE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import ase.io
import numpy as np
from ase import Atoms
from ase.stress import voigt_6_to_full_3x3_stress
from numpy.typing import NDArray

from mlip_train.config import SourceConfig

Floats = NDArray[np.float64]
SPICE_SUFFIXES = (".hdf5", ".h5", ".store")


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
        if Path(source.path).suffix.lower() in SPICE_SUFFIXES:
            return {int(z) for numbers in _spice_numbers(source) for z in numbers}
        self._parsed[source] = frames = list(read(source))
        return {int(z) for frame in frames for z in frame.numbers}

    def frames(self, source: SourceConfig) -> Iterator[Frame]:
        """See :func:`read`."""
        parsed = self._parsed.pop(source, None)
        return read(source) if parsed is None else iter(parsed)


def read(source: SourceConfig) -> Iterator[Frame]:
    """The frames of one source, in file order, or shuffled and sliced as it says.

    Raises
    ------
    FileNotFoundError, DataError
        If the file is missing, or a label is NaN, infinite or of a wrong shape.
    """
    path = Path(source.path)
    if not path.exists():
        raise FileNotFoundError(f"data: required an existing file, got {source.path!r}")
    if path.suffix.lower() in SPICE_SUFFIXES:
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
        raise DataError(f"{path}: required a file ASE reads, got {type(e).__name__}: {e}") from None
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
            raise ValueError(f"take: required a slice such as ':100' or '100:', got {source.take!r}")
        order = order[slice(*parts)]
    return [int(i) for i in order]


def _find(atoms: Atoms, key: str, where: str) -> Any:
    results = atoms.calc.results if atoms.calc is not None else {}
    for place in (atoms.info, atoms.arrays, results):
        if key in place:
            value = np.asarray(place[key], dtype=np.float64)
            if not np.isfinite(value).all():
                bad = (
                    int(np.argwhere(~np.isfinite(value.reshape(len(value), -1)).all(1))[0, 0])
                    if value.ndim
                    else 0
                )
                raise DataError(
                    f"{where}, key {key!r}: required finite labels, got {value[bad] if value.ndim else value}"
                )
            return value
    return None


def _from_atoms(atoms: Atoms, source: SourceConfig, index: int) -> Frame:
    where = f"{source.path}, frame {index}"
    n = len(atoms)
    positions = np.asarray(atoms.positions, dtype=np.float64)
    if not np.isfinite(positions).all():
        raise DataError(f"{where}, key 'positions': required finite positions")
    energy = _find(atoms, source.energy, where)
    forces = _find(atoms, source.forces, where)
    if forces is not None and forces.shape != (n, 3):
        raise DataError(f"{where}, key {source.forces!r}: required shape {(n, 3)}, got {forces.shape}")
    weight = _find(atoms, "config_weight", where)
    named = source.subset or Path(source.path).stem
    return Frame(
        numbers=atoms.numbers.astype(np.int64),
        positions=positions,
        forces=np.full((n, 3), np.nan) if forces is None else forces * source.force_scale,
        cell=np.asarray(atoms.cell.array, dtype=np.float64),
        pbc=np.asarray(atoms.pbc, dtype=bool),
        energy=float("nan") if energy is None else float(energy) * source.energy_scale,
        stress=_stress(atoms, source, where),
        weight=source.weight * (1.0 if weight is None else float(weight)),
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
        raise DataError(f"{where}, key {key!r}: required 6 or 9 numbers, got {value.size}")
    value = value.reshape(3, 3) * (source.energy_scale if key == source.virial else 1.0)
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
        for i, f in _stored_frames(spice_data, source):
            yield _spice_frame(source, f.subset, i, f.numbers, f.positions, f.energy, f.forces)
        return
    with spice_data.open(source.path) as file:
        for i, name, k in _conformations(file, source):
            m = file[name]
            x, e, f = m.positions(k, k + 1)[0], float(m.energies(k, k + 1)[0]), m.forces(k, k + 1)[0]
            yield _spice_frame(source, m.subset, i, m.numbers, x, e, f)


def _stored_frames(spice_data: Any, source: SourceConfig) -> Iterator[tuple[int, Any]]:
    """Index and frame of what the source takes from its store."""
    with spice_data.Store(source.path) as store:
        for i in _stored(spice_data, store, source):
            frame = store[i]
            if frame.subset not in source.exclude:
                yield i, frame


def _spice_numbers(source: SourceConfig) -> Iterator[Any]:
    """Atomic numbers of the molecules (of a store: of the frames) that :func:`_read_spice` reads."""
    spice_data = _spice(source)
    if source.path.endswith(".store"):
        for _, frame in _stored_frames(spice_data, source):
            yield frame.numbers
        return
    with spice_data.open(source.path) as file:
        for name in dict.fromkeys(name for _, name, _ in _conformations(file, source)):
            yield file[name].numbers


def _stored(spice_data: Any, store: Any, source: SourceConfig) -> list[int]:
    listed = _listed(spice_data, store, source)
    return [int(listed[k]) for k in _chosen(len(listed), source)]


def _conformations(file: Any, source: SourceConfig) -> list[tuple[int, str, int]]:
    """Number in the file, molecule and conformation of the frames chosen."""
    at: list[tuple[str, int]] = []
    for molecule in file:
        if molecule.subset in source.exclude or (
            source.charge is not None and molecule.charge != source.charge
        ):
            continue
        at += [(molecule.name, k) for k in range(molecule.n_frames)]
    return [(i, *at[i]) for i in _chosen(len(at), source)]


def _listed(spice_data: Any, store: Any, source: SourceConfig) -> NDArray[np.int64]:
    """The frames of a store that a source names: one part of a split, or all."""
    if source.split is None and source.part is None:
        return np.arange(len(store))
    if source.split is None or source.part is None:
        raise ValueError(f"split, part: required both or neither, got {source.split!r} and {source.part!r}")
    parts = spice_data.Split.load(source.split, store)
    return {"train": parts.train, "val": parts.val, "test": parts.test}[source.part]


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
            raise DataError(f"{source.path}, frame {index}, key {key!r}: required finite values")
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
