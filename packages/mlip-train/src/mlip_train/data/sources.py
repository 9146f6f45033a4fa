"""Labeled frames of sources: SPICE stores and HDF5 through spice-data, everything else through ASE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from mlip_train.config.checks import check_source, is_spice
from mlip_train.config.data import SourceConfig
from mlip_train.data import ase_files
from mlip_train.data.frame import DataError, Frame
from mlip_train.data.spice import read_spice, spice_numbers
from mlip_train.data.take import chosen

__all__ = ["DataError", "Frame", "Reader", "read"]


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
            return {int(z) for numbers in spice_numbers(source) for z in numbers}
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
        yield from read_spice(source)
        return
    frames = ase_files.frames_of(path)
    if source.take is None and source.shuffle is None:
        for i, atoms in enumerate(frames):
            yield ase_files.from_atoms(atoms, source, i)
        return
    listed = list(frames)
    for i in chosen(len(listed), source):
        yield ase_files.from_atoms(listed[i], source, i)
