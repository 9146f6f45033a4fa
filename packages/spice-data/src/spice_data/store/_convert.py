"""Conversion of SPICE files, extended XYZ and other ASE inputs to a store, by streaming."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import h5py

from spice_data.read.atoms import Labels
from spice_data.read.frames import Reader
from spice_data.read.spice import SpiceFile
from spice_data.records import Block
from spice_data.selection._select import Selection
from spice_data.store.ase_source import AseSource
from spice_data.store.layout import Units
from spice_data.store.reader import Store
from spice_data.store.spice_source import SpiceSource
from spice_data.store.statistics import Statistics
from spice_data.store.writer import StoreWriter

SPICE_SUFFIXES = (".hdf5", ".h5")


class Source(Protocol):
    """Frames to convert: read in one pass, the same every time."""

    path: Path
    identity: str
    units: Units
    done: int
    total: int

    @property
    def provenance(self) -> dict[str, Any]:
        """Plain data about the origin of the frames, complete after the pass."""
        ...

    def blocks(self, skip: int) -> Iterator[Block]:
        """Yield the frames but the first ``skip``."""
        ...

    def check(self, statistics: Statistics) -> None:
        """Raise ``DataError`` if what was written cannot be what was asked for."""
        ...


def _source(
    source: SpiceFile | Selection | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    file: SpiceFile | None,
    labels: Labels | None,
    format: str | None,
    index: str,
    workers: int,
    reader: Reader | None,
    stack: ExitStack,
) -> Source:
    """Return the frames of ``source``; what is opened for it is closed by ``stack``."""
    selection = source if isinstance(source, Selection) else None
    opened: SpiceFile | None = None
    paths: list[str | os.PathLike[str]] = []
    if isinstance(source, Selection):
        opened = file or stack.enter_context(SpiceFile(source.path, source.labels))
    elif isinstance(source, SpiceFile):
        opened = source
    elif isinstance(source, (str, os.PathLike)):
        spice = os.fspath(source).endswith(SPICE_SUFFIXES) or h5py.is_hdf5(source)
        if spice and format is None and reader is None:
            opened = stack.enter_context(SpiceFile(source))
        else:
            paths = [source]
    else:
        paths = list(source)
    if opened is None:
        return AseSource(paths, labels or Labels(), format, index, workers, reader)
    if (labels, format, index) != (None, None, ":"):
        raise ValueError(
            f"labels, format and index must be left out for a SPICE file, got {labels}, {format}, {index!r}"
        )
    return SpiceSource(opened, selection)


def convert(
    source: SpiceFile | Selection | str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    path: str | os.PathLike[str],
    *,
    file: SpiceFile | None = None,
    labels: Labels | None = None,
    format: str | None = None,
    index: str = ":",
    workers: int = 0,
    reader: Reader | None = None,
    overwrite: bool = False,
    wait: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Store:
    """Convert ``source`` to a store at ``path``, in one pass and bounded memory.

    Values are stored bit for bit as a SPICE file has them (float32 bohr, float64 hartree), others in float64 Å and
    eV; units are applied when frames are read. An interrupted conversion leaves nothing at ``path``; the next call with
    the same source continues from the last checkpoint (every 64 MiB), any other starts again.

    Parameters
    ----------
    source : SpiceFile, Selection, path or sequence of path
        A file in SPICE's layout (name ending in .hdf5 or .h5), a selection from one, or one or several files that ASE
        reads, extended XYZ among them (extra ``spice-data[ase]``).
    path : path
        The store to write.
    file : SpiceFile, optional
        With a selection: the open file it was made from, where its path alone does not say how to open it (the
        SPICE test set). By default the selection's path is opened.
    labels, format, index, workers : Labels, str, str, int
        For files that ASE reads; see :func:`spice_data.read_frames`.
    reader : callable, optional
        Given the path of a file, yields its structures as ASE's Atoms: for formats that ASE does not read.
    overwrite : bool
        Replace an existing file.
    wait : bool
        Wait if another process is writing the same store, instead of raising, and return what it made from
        the same source and selection. The same store that is already there is returned too, unless
        ``overwrite`` asks for another.
    progress : callable, optional
        Called with (done, total): groups of a SPICE file, bytes of other files.

    Returns
    -------
    Store
        Open for reading.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is not set, or is the source itself.
    BlockingIOError
        If another process is writing it and ``wait`` is not set.
    DataError
        If the source is defective; the message names file, group or frame, and dataset or key.
    OSError
        If the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from spice_data import convert, example_path
    >>> with tempfile.TemporaryDirectory() as folder, convert(example_path(), folder + "/e.store") as store:
    ...     len(store), store.elements
    (1022, ('H', 'C', 'N', 'O', 'F', 'S', 'Cl'))
    """
    with ExitStack() as stack:
        frames = _source(source, file, labels, format, index, workers, reader, stack)
        writer = StoreWriter(
            path,
            units=frames.units,
            identity=frames.identity,
            overwrite=overwrite,
            wait=wait,
            source=frames.path,
        )
        with writer:
            for block in frames.blocks(writer.frames) if not writer.complete else ():
                writer.write(block)
                if progress:
                    progress(frames.done, frames.total)
            if not writer.complete:
                if progress:
                    progress(frames.total, frames.total)
                frames.check(writer.statistics)
                writer.provenance = frames.provenance
    return Store(path)
