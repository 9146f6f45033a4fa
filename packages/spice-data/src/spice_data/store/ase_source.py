"""Frames of extended XYZ files and of any other file that ASE reads, as blocks for a store."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from spice_data.errors import DataError
from spice_data.read.atoms import Labels
from spice_data.read.frames import FrameReader, Reader
from spice_data.records import Block, Frame
from spice_data.store.layout import Units
from spice_data.store.statistics import Statistics

BLOCK_FRAMES = 64


class AseSource:
    """Yield the frames of files that ASE reads, in Å, eV and eV/Å, in one pass.

    Parameters
    ----------
    paths : sequence of path
        The files, one after another.
    labels : Labels
        Keys and units of the labels.
    format, index, workers : str, str, int
        ASE's format, slice of frames and parsing processes for every file; see :func:`spice_data.read_frames`.
    reader : callable, optional
        Yields the structures of a file in place of ASE.

    Attributes
    ----------
    done, total : int
        Bytes read of all bytes.
    """

    units = Units()

    def __init__(
        self,
        paths: Sequence[str | os.PathLike[str]],
        labels: Labels,
        format: str | None,
        index: str,
        workers: int,
        reader: Reader | None = None,
    ) -> None:
        self.readers = [FrameReader(path, labels, format, index, workers, reader) for path in paths]
        self.labels, self.path = labels, Path(paths[0])
        stats = [reader.path.stat() for reader in self.readers]
        named = [
            f"{r.path.resolve()} {s.st_size} {s.st_mtime_ns}"
            for r, s in zip(self.readers, stats, strict=True)
        ]
        self.identity = repr((named, labels, format, index))
        self.total, self.done = sum(s.st_size for s in stats), 0

    @property
    def provenance(self) -> dict[str, Any]:
        """Number of frames of each file, the size of all, and the keys of labels and other data in them."""
        files = {str(reader.path): reader.count for reader in self.readers}
        keys = sorted(set().union(*(reader.keys for reader in self.readers)))
        return {"files": files, "bytes": self.total, "labels": asdict(self.labels), "keys": keys}

    def _frames(self, skip: int) -> Iterator[Frame]:
        before = 0
        for reader in self.readers:
            for frame in reader.read(skip):
                self.done = before + reader.position
                yield frame
            skip = max(0, skip - reader.count)
            before += reader.path.stat().st_size
        self.done = self.total

    def blocks(self, skip: int) -> Iterator[Block]:
        """Yield the frames but the first ``skip``, up to 64 of one molecule at a time."""
        for _, run in itertools.groupby(self._frames(skip), key=_molecule):
            while block := list(itertools.islice(run, BLOCK_FRAMES)):
                yield _block(block)

    def check(self, statistics: Statistics) -> None:
        """Raise ``DataError`` if no frame has a label that was asked for."""
        for name in self.labels.asked:
            if statistics.labels[name] == 0:
                found = sorted(set().union(*(reader.keys for reader in self.readers)))
                key = getattr(self.labels, name)
                raise DataError(self.path, f"have the label {key!r} in at least one frame", f"only {found}")


def _molecule(frame: Frame) -> tuple[object, ...]:
    return frame.name, frame.subset, frame.smiles, frame.charge, frame.numbers.tobytes()


def _block(frames: list[Frame]) -> Block:
    f = frames[0]
    return Block(
        f.name,
        f.subset,
        f.smiles,
        f.charge,
        f.numbers,
        np.stack([f.positions for f in frames]),
        np.stack([f.forces for f in frames]),
        np.array([f.energy for f in frames]),
        np.array([f.formation_energy for f in frames]),
        np.array([f.source_frame for f in frames]),
        np.stack([f.cell for f in frames]),
        np.stack([f.stress for f in frames]),
        np.stack([f.pbc for f in frames]),
        np.array([f.weight for f in frames]),
    )
