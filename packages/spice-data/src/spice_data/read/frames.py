"""Reading files through ASE, one frame at a time."""

from __future__ import annotations

import collections
import importlib.util
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING

from spice_data.errors import DataError
from spice_data.read.atoms import Labels, found_keys, from_ase
from spice_data.read.npz import npz_frames
from spice_data.read.xyz import Text, parse, slice_of, texts
from spice_data.records import Frame

if TYPE_CHECKING:
    from ase import Atoms

XYZ_SUFFIXES = (".xyz", ".extxyz")
COMPRESSED = (".gz", ".bz2", ".xz")
DATABASES = (".db", ".aselmdb")
CHUNK, AHEAD = 64, 3


def is_xyz(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of an extended XYZ file, compressed or not."""
    return _uncompressed(path).lower().endswith(XYZ_SUFFIXES)


def _uncompressed(path: str | os.PathLike[str]) -> str:
    name = os.fspath(path)
    return name.removesuffix(next((s for s in COMPRESSED if name.endswith(s)), ""))


Reader = Callable[[Path], Iterator["Atoms"]]
"""Yields the structures of a file."""
Job = tuple[Path, Labels, str, list[Text]]


class FrameReader:
    """Read the frames of one file; see :func:`read_frames`.

    Attributes
    ----------
    position : int
        Bytes of the file that have been read, roughly; 0 where ASE opens the file itself.
    count : int
        Frames read or passed over so far.
    keys : set of str
        Keys of labels and other data found so far.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        labels: Labels,
        format: str | None = None,
        index: str = ":",
        workers: int = 0,
        reader: Reader | None = None,
    ) -> None:
        self.path, self.labels, self.format, self.index = Path(path), labels, format, index
        self.reader = reader
        self.workers, self.subset = workers, Path(_uncompressed(path)).stem
        if not self.path.exists():
            raise FileNotFoundError(f"path must be an existing file, got {str(self.path)!r}")
        if workers < 0:
            raise ValueError(f"workers must be 0 or more, got {workers}")
        if importlib.util.find_spec("ase") is None:
            raise ImportError(f"ase must be installed to read {str(path)!r}: pip install 'spice-data[ase]'")
        slice_of(index)
        self.position = self.count = 0
        self.keys: set[str] = set()

    def read(self, skip: int = 0) -> Iterator[Frame]:
        """Yield the frames but the first ``skip``, which are not parsed."""
        self.count = 0
        for frame in self._xyz(skip) if self._format() in ("extxyz", "xyz") else self._ase(skip):
            self.count += 1
            yield frame
        if not self.count:
            raise DataError(self.path, f"have at least one frame in {self.index!r}", "none")

    def _format(self) -> str:
        """Return ASE's name of the format; extended XYZ is never left to ASE, which ends at a blank line."""
        from ase.io.formats import UnknownFileTypeError, filetype

        if self.reader:
            return "given"
        if self.format or is_xyz(self.path):
            return self.format or "extxyz"
        if self.path.suffix in (*DATABASES, ".npz"):
            return "npz" if self.path.suffix == ".npz" else "db"
        try:
            return str(filetype(str(self.path)))
        except UnknownFileTypeError as e:
            raise DataError(self.path, "be of a format that ASE reads", e or "an unknown one") from None

    def _xyz(self, skip: int) -> Iterator[Frame]:
        frames = texts(self.path, self.index)
        self.count = sum(1 for _ in itertools.islice(frames, skip))
        chunks = iter(lambda: list(itertools.islice(frames, CHUNK if self.workers else 1)), [])
        for parsed, keys, position in self._parsed((self.path, self.labels, self.subset, c) for c in chunks):
            self.keys, self.position = self.keys | keys, position
            yield from parsed

    def _parsed(self, jobs: Iterable[Job]) -> Iterator[tuple[list[Frame], set[str], int]]:
        """Parse chunks in order, here or in workers."""
        if self.workers == 0:
            yield from map(_parse, jobs)
            return
        pending: collections.deque[Future[tuple[list[Frame], set[str], int]]] = collections.deque()
        with ProcessPoolExecutor(self.workers, multiprocessing.get_context("spawn")) as pool:
            try:
                for job in jobs:
                    pending.append(pool.submit(_parse, job))
                    if len(pending) > AHEAD * self.workers:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            except BrokenProcessPool:
                guard = 'must be 0 unless the script runs under if __name__ == "__main__":'
                raise ValueError(f"workers {guard}, got a worker that died (or memory ran out)") from None

    def _ase(self, skip: int) -> Iterator[Frame]:
        for i, atoms in self._structures():
            if self.count < skip:
                self.count += 1
                continue
            self.keys |= found_keys(atoms)
            yield _frame(self.path, self.labels, self.subset, i, atoms)

    def _structures(self) -> Iterator[tuple[int, Atoms]]:
        """Yield place and structure of what is no extended XYZ."""
        from ase.io import iread

        wanted = slice_of(self.index)
        frames: Iterator[Atoms]
        readers: dict[str, Reader | None] = {"db": _rows, "npz": npz_frames, "given": self.reader}
        if reader := readers.get(self._format()):
            frames = itertools.islice(reader(self.path), wanted.start, wanted.stop, wanted.step)
        else:
            frames = iread(self.path, self.index, self.format)
        for i in itertools.count(wanted.start or 0, wanted.step or 1):
            try:
                atoms: Atoms | None = next(frames, None)
            except DataError:
                raise
            except Exception as e:  # ASE's readers raise anything
                received = f"{type(e).__name__}: {e}"
                raise DataError(self.path, "be readable by ASE", received, at=f"frame {i}") from None
            if atoms is None:
                return
            yield i, atoms

    def atoms(self) -> Iterator[Atoms]:
        """Yield structures with everything that the file says of them, whatever labels they have."""
        if self._format() in ("extxyz", "xyz"):
            return (parse(self.path, text) for text in texts(self.path, self.index))
        return (atoms for _, atoms in self._structures())


def _rows(path: Path) -> Iterator[Atoms]:
    """Yield the rows of an ASE database with their key-value pairs and data in info, where ASE's reader drops them."""
    from ase.db import connect

    with connect(path, serial=True) as database:
        for row in database.select():
            atoms: Atoms = row.toatoms()
            atoms.info.update({**row.data, **row.key_value_pairs})
            yield atoms


def _frame(path: Path, labels: Labels, subset: str, i: int, atoms: Atoms) -> Frame:
    try:
        return from_ase(atoms, labels, subset)
    except ValueError as e:
        raise DataError.inside(path, f"frame {i}", e) from None


def _parse(job: Job) -> tuple[list[Frame], set[str], int]:
    """Return the frames of a chunk, the keys found and the bytes read by its end."""
    path, labels, subset, chunk = job
    frames, keys = [], set()
    for text in chunk:
        atoms = parse(path, text)
        keys |= found_keys(atoms)
        frames.append(_frame(path, labels, subset, text.frame, atoms))
    return frames, keys, chunk[-1].position


def read_frames(
    path: str | os.PathLike[str],
    labels: Labels | None = None,
    *,
    format: str | None = None,
    index: str = ":",
    workers: int = 0,
) -> Iterator[Frame]:
    """Yield the frames of a file that ASE reads, one at a time (extra ``spice-data[ase]``).

    Extended XYZ is read here frame by frame, so that blank lines between frames are passed over; ASE ends there.

    Parameters
    ----------
    path : path
        Extended XYZ (compressed or not), a NumPy archive (.npz, as of MD17), an ASE database with labels as results,
        key-value pairs or data (.db, and .aselmdb with the package ase-db-backends), or any format of ``ase.io``.
    labels : Labels, optional
        Keys and units of the labels.
    format : str, optional
        ASE's name of the format; by default from the name of the file.
    index : str
        A slice ``start:stop:step`` of the frames, without negative numbers.
    workers : int
        Processes that parse extended XYZ; 0 parses in this one.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        Naming file and frame: for a defective or truncated frame, or a missing or contradictory label.
    """
    return FrameReader(path, labels or Labels(), format, index, workers).read()


def read_atoms(
    path: str | os.PathLike[str], *, format: str | None = None, index: str = ":"
) -> Iterator[Atoms]:
    """Yield the ASE structures of a file with everything that it says of them, as :func:`read_frames` reads it.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        Naming file and frame, for a defective or truncated one.
    """
    return FrameReader(path, Labels(), format, index).atoms()
