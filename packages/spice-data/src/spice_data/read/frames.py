"""Reading files through ASE, one frame at a time."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from spice_data.errors import DataError
from spice_data.read.atoms import Labels, found_keys, from_ase
from spice_data.read.xyz import iterate_xyz, slice_of
from spice_data.records import Frame

if TYPE_CHECKING:
    from ase import Atoms

XYZ_SUFFIXES = (".xyz", ".extxyz")
COMPRESSED = (".gz", ".bz2", ".xz")


def is_xyz(path: str | os.PathLike[str]) -> bool:
    """Return whether the name is that of an extended XYZ file, compressed or not."""
    name = os.fspath(path).lower()
    for suffix in COMPRESSED:
        name = name.removesuffix(suffix)
    return name.endswith(XYZ_SUFFIXES)


class FrameReader:
    """Iterate over the frames of one file; see :func:`read_frames`.

    Attributes
    ----------
    position : int
        Bytes of the file that have been read, roughly; 0 where ASE opens the file itself.
    keys : set of str
        Keys of labels and other data found so far.
    """

    def __init__(
        self, path: str | os.PathLike[str], labels: Labels, format: str | None = None, index: str = ":"
    ) -> None:
        self.path, self.labels, self.format, self.index = Path(path), labels, format, index
        if not self.path.exists():
            raise FileNotFoundError(f"path must be an existing file, got {str(self.path)!r}")
        slice_of(index)
        self.position = 0
        self.keys: set[str] = set()

    def __iter__(self) -> Iterator[Frame]:
        subset = self.path.name.split(".")[0]
        i = -1
        for i, atoms in self._atoms():
            self.keys |= found_keys(atoms)
            try:
                yield from_ase(atoms, self.labels, subset)
            except ValueError as e:
                raise DataError.inside(self.path, f"frame {i}", e) from None
        if i < 0:
            raise DataError(self.path, f"have at least one frame in {self.index!r}", "none")

    def _format(self) -> str:
        """Return ASE's name of the format; extended XYZ is never left to ASE, which ends at a blank line."""
        from ase.io.formats import UnknownFileTypeError, filetype

        if self.format or is_xyz(self.path):
            return self.format or "extxyz"
        try:
            return str(filetype(str(self.path)))
        except UnknownFileTypeError as e:
            raise DataError(self.path, "be of a format that ASE reads", e or "an unknown one") from None

    def _atoms(self) -> Iterator[tuple[int, Atoms]]:
        if self._format() in ("extxyz", "xyz"):
            for i, atoms, position in iterate_xyz(self.path, self.index):
                self.position = position
                yield i, atoms
            return
        from ase.io import iread

        step = slice_of(self.index).step or 1
        i = slice_of(self.index).start or 0
        frames = iread(self.path, self.index, self.format)
        while True:
            try:
                found: Atoms | None = next(frames, None)
            except Exception as e:  # ASE's readers raise anything
                received = f"{type(e).__name__}: {e}"
                raise DataError(self.path, "be readable by ASE", received, at=f"frame {i}") from None
            if found is None:
                return
            yield i, found
            i += step


def read_frames(
    path: str | os.PathLike[str], labels: Labels | None = None, *, format: str | None = None, index: str = ":"
) -> Iterator[Frame]:
    """Yield the frames of a file that ASE reads, one at a time (extra ``spice-data[ase]``).

    Extended XYZ is read here frame by frame, so that blank lines between frames are passed over; ASE ends there.

    Parameters
    ----------
    path : path
        Extended XYZ (compressed or not), or any format of ``ase.io``.
    labels : Labels, optional
        Keys and units of the labels.
    format : str, optional
        ASE's name of the format; by default from the name of the file.
    index : str
        A slice ``start:stop:step`` of the frames, without negative numbers.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        Naming file and frame: for a defective or truncated frame, or a missing or contradictory label.
    """
    return iter(FrameReader(path, labels or Labels(), format, index))
