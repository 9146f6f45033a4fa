"""Labeled frames from SPICE files and stores, through spice-data."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np

from mlip_train.config.data import SourceConfig
from mlip_train.data.frame import Floats, Frame
from mlip_train.data.take import chosen


def _spice(source: SourceConfig) -> Any:
    try:
        import spice_data
    except ImportError:
        raise ImportError(
            f"data must be of a kind whose reader is installed (pip install 'mlip-train[spice]'), got {source.path!r}"
        ) from None
    return spice_data


def read_spice(source: SourceConfig) -> Iterator[Frame]:
    """Yield the frames of a SPICE file or a store that a source selects.

    Raises
    ------
    ImportError
        Without spice-data.
    spice_data.DataError
        For a value of a SPICE file that is not finite; labels that a frame of a store lacks are NaN.
    """
    spice_data = _spice(source)
    if source.path.endswith(".store"):
        with spice_data.Store(source.path) as store:
            for i in _stored(spice_data, store, source):
                f = store[i]
                frame = _spice_frame(source, f.subset, i, f.numbers, f.positions, f.energy, f.forces)
                weight = source.weight * f.weight
                yield frame._replace(cell=f.cell, pbc=f.pbc, stress=f.stress, weight=weight)
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


def spice_numbers(source: SourceConfig) -> Iterator[Any]:
    """Atomic numbers of the molecules (of a store: of the frames) that :func:`read_spice` reads."""
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
    return [int(listed[k]) for k in chosen(len(listed), source)]


def _conformations(file: Any, source: SourceConfig) -> list[tuple[int, Any, int]]:
    """Return file index, molecule (without arrays) and conformation of the selected frames."""
    at: list[tuple[int, Any, int]] = []
    first = 0
    for molecule in file:
        charged = source.charge is not None and molecule.charge != source.charge
        if molecule.subset not in source.exclude and not charged:
            at += [(first + k, molecule, k) for k in range(molecule.n_frames)]
        first += molecule.n_frames
    return [at[i] for i in chosen(len(at), source)]


def _spice_frame(
    source: SourceConfig,
    subset: str,
    index: int,
    numbers: Any,
    positions: Floats,
    energy: float,
    forces: Floats,
) -> Frame:
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
