"""An extended XYZ file as what a store is made from: runs of frames of one molecule."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from spice_data.elements import SYMBOLS
from spice_data.errors import DataError
from spice_data.sources import Block, Size, Units
from spice_data.xyz import XyzFrame, read_xyz

BLOCK_FRAMES = 64


class _Identity(NamedTuple):
    """What the frames of one molecule share."""

    name: str
    subset: str
    smiles: str
    charge: int
    numbers: tuple[int, ...]


class _Row(NamedTuple):
    """One frame of the file, with the numbers of its comment line; no ``source_frame`` where it gives none."""

    identity: _Identity
    source_frame: int | None
    formation_energy: float
    frame: XyzFrame


class XyzSource:
    """An extended XYZ file as the source of a store.

    Consecutive frames of equal name, subset, SMILES, charge and atoms are one molecule.

    Parameters
    ----------
    path : path
        The file. Frames without a ``name`` are named by their composition; the charge is 0 without ``charge``.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    """

    units = Units("angstrom", "eV", "eV/angstrom", np.dtype("f8"))

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path: required an existing file, got {str(self.path)!r}")

    @property
    def identity(self) -> str:
        """Path, size and time of change."""
        stat = self.path.stat()
        return f"{self.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"

    @property
    def provenance(self) -> dict[str, object]:
        """The file and its size."""
        return {"file": self.path.name, "bytes": self.path.stat().st_size, "empty_groups": 0, "removed": []}

    def _row(self, i: int, frame: XyzFrame) -> _Row:
        """Frame ``i``; ``DataError`` naming it where its comment line has no number for one."""
        info = frame.info

        def whole(key: str) -> int | None:
            value = number(key)
            if value is not None and not value.is_integer():
                raise DataError(self.path, "a whole number", repr(info[key]), f"frame {i}", key)
            return None if value is None else int(value)

        def number(key: str) -> float | None:
            try:
                return float(info[key]) if key in info else None
            except ValueError:
                raise DataError(self.path, "a number", repr(info[key]), f"frame {i}", key) from None

        formation, name, numbers = number("formation_energy"), _name(frame), tuple(frame.numbers.tolist())
        identity = _Identity(
            name, info.get("subset", ""), info.get("smiles", ""), whole("charge") or 0, numbers
        )
        return _Row(identity, whole("source_frame"), np.nan if formation is None else formation, frame)

    def _molecules(self) -> Iterator[tuple[_Identity, Iterator[_Row]]]:
        """Runs of frames of one molecule."""
        rows = (self._row(i, frame) for i, frame in enumerate(read_xyz(self.path)))
        return itertools.groupby(rows, key=lambda row: row.identity)

    def sizes(self) -> Iterator[Size]:
        """Sizes of the molecules."""
        for molecule, rows in self._molecules():
            count = sum(1 for _ in rows)
            yield Size(molecule.name, molecule.subset, molecule.smiles, len(molecule.numbers), count)

    def blocks(self, skip: int) -> Iterator[Block]:
        """The frames, 64 of a molecule at a time."""
        for molecule, rows in itertools.islice(self._molecules(), skip, None):
            done, block = 0, list(itertools.islice(rows, BLOCK_FRAMES))
            while block:
                following = list(itertools.islice(rows, BLOCK_FRAMES))
                given = [row.source_frame for row in block]
                yield Block(
                    *molecule[:4],
                    np.array(molecule.numbers, np.int64),
                    np.array([done + k if at is None else at for k, at in enumerate(given)]),
                    np.stack([row.frame.positions for row in block]),
                    np.array([row.frame.energy for row in block]),
                    np.array([row.formation_energy for row in block]),
                    np.stack([row.frame.forces for row in block]),
                    done == 0,
                    not following,
                )
                done, block = done + len(block), following

    def close(self) -> None:
        """Nothing is held between walks."""


def _name(frame: XyzFrame) -> str:
    counts = np.bincount(frame.numbers)
    formula = "".join(f"{SYMBOLS[z]}{counts[z]}" for z in np.flatnonzero(counts))
    return frame.info.get("name", formula)
