"""Conversion to a store: sizes first, then the data, resumable, and renamed into place when whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from spice_data.atomic import check_target, exclusive, sync_directory, write_text
from spice_data.errors import DataError
from spice_data.hdf5 import SpiceFile
from spice_data.layout import FORMAT, FRAME, MOLECULE, VERSION, Column, Totals, columns_of, create
from spice_data.select import Selection
from spice_data.sources import Block, Source, SpiceSource, Units
from spice_data.statistics import Statistics
from spice_data.store import Store
from spice_data.units import ENERGY, GRADIENT
from spice_data.xyz import SUFFIXES
from spice_data.xyzsource import XyzSource

CHECKPOINT_BYTES = 256 << 20

Progress = Callable[[int, int], None]


class _Writer:
    """Appends blocks to a partial store, keeping checksums and statistics, and remembers how far it got."""

    def __init__(
        self, part: Path, columns: dict[str, Column], units: Units, subsets: tuple[str, ...]
    ) -> None:
        self.columns, self.units = columns, units
        self.subset_ids = {name: i for i, name in enumerate(subsets)}
        self.done = dict.fromkeys(columns, 0)
        self.checksums = dict.fromkeys(columns, 0)
        self.statistics = Statistics()
        self.fd = os.open(part, os.O_RDWR)

    def state(self) -> dict[str, object]:
        return {"done": self.done, "checksums": self.checksums, "statistics": self.statistics.to_json()}

    def restore(self, state: dict) -> None:
        self.done, self.checksums = dict(state["done"]), dict(state["checksums"])
        self.statistics = Statistics.from_json(state["statistics"])

    def _append(self, name: str, rows: NDArray) -> int:
        column = self.columns[name]
        data = np.ascontiguousarray(rows, column.dtype).reshape(-1).view(np.uint8).data
        position = column.offset + self.done[name] * column.row_bytes
        self.checksums[name] = zlib.crc32(data, self.checksums[name])
        written = 0
        while written < len(data):
            written += os.pwrite(self.fd, data[written:], position + written)
        self.done[name] += len(rows)
        return len(data)

    def append(self, block: Block, all_frames: int) -> int:
        """Write ``block`` of a molecule that has ``all_frames`` in all; the number of bytes."""
        m, n = len(block.frames), len(block.numbers)
        rows = np.zeros(m, FRAME)
        rows["start"] = self.done["positions"] + n * np.arange(m)
        rows["energy"], rows["formation_energy"] = block.energies, block.formation_energies
        rows["atoms"], rows["source_frame"] = n, block.frames
        rows["molecule"] = self.done["molecules"] - (not block.first)
        rows["subset"] = self.subset_ids[block.subset]
        size = 0
        if block.first:
            name, smiles = block.name.encode(), block.smiles.encode()
            row = (self.done["text"], self.done["frames"], all_frames, len(name), len(smiles), block.charge)
            size += self._append("molecules", np.array([row], MOLECULE))
            size += self._append("text", np.frombuffer(name + smiles, np.uint8))
        size += self._append("positions", block.positions.reshape(-1, 3))
        size += self._append("forces", block.forces.reshape(-1, 3))
        size += self._append("atomic_numbers", np.tile(block.numbers.astype(np.uint8), m))
        size += self._append("frames", rows)
        per_energy, per_force = ENERGY[self.units.energy], GRADIENT[self.units.force]
        formation = np.where(np.isnan(block.formation_energies), block.energies, block.formation_energies)
        self.statistics.update(
            block.subset,
            block.numbers,
            block.energies * per_energy,
            formation * per_energy / n,
            block.forces.astype(np.float64) * per_force,
            block.first,
        )
        return size

    def close(self) -> None:
        os.close(self.fd)


def _reserve(part: Path, path: Path, size: int) -> None:
    """Claim ``size`` bytes for ``part``, so that a full disk is met before the work, not in the middle."""
    if sys.platform != "linux":
        return
    fd = os.open(part, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        os.posix_fallocate(fd, 0, size)
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
            return  # a file system that cannot reserve: writing will tell
        part.unlink()
        raise OSError(
            e.errno, f"no room for a store of {size} bytes: {os.strerror(e.errno)}", str(path)
        ) from None
    finally:
        os.close(fd)


def _plan(source: Source) -> tuple[Totals, tuple[str, ...], list[int]]:
    frames = atoms = text = 0
    counts: list[int] = []
    subsets: dict[str, None] = {}
    for size in source.sizes():
        frames += size.n_frames
        atoms += size.n_frames * size.n_atoms
        text += len(size.name.encode()) + len(size.smiles.encode())
        counts.append(size.n_frames)
        subsets[size.subset] = None
    if frames == 0:
        raise DataError(str(source.provenance["file"]), "at least one frame to convert", "none")
    return Totals(frames, atoms, len(counts), text), tuple(sorted(subsets)), counts


def _made_from(source: Source) -> str:
    return hashlib.sha256(repr((VERSION, source.identity)).encode()).hexdigest()


def _is_made(path: Path, source: Source) -> bool:
    """Whether ``path`` is a whole store made from ``source`` as it is now."""
    try:
        with h5py.File(path, "r") as file:
            return bool(json.loads(file["metadata"][()])["made_from"] == _made_from(source))
    except (OSError, KeyError, ValueError):
        return False


def _finish(part: Path, writer: _Writer, source: Source, subsets: tuple[str, ...]) -> None:
    os.fsync(writer.fd)
    with h5py.File(part, "r+") as file:
        metadata = {
            "subsets": subsets,
            "statistics": writer.statistics.to_json(),
            "checksums": writer.checksums,
            "provenance": source.provenance,
            "made_from": _made_from(source),
        }
        if "metadata" in file:
            del file["metadata"]
        file["metadata"] = json.dumps(metadata)
        file.attrs["format"], file.attrs["format_version"] = FORMAT, VERSION
        file.flush()
    fd = os.open(part, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _write(source: Source, path: Path, progress: Progress | None) -> None:
    part, journal = path.with_name(f".{path.name}.part"), path.with_name(f".{path.name}.journal")
    totals, subsets, counts = _plan(source)
    plan = hashlib.sha256(
        repr((VERSION, source.identity, totals, subsets, source.units)).encode()
    ).hexdigest()
    state = None
    if part.exists() and journal.exists():
        try:
            saved = json.loads(journal.read_text("utf-8"))
            state = saved["state"] if saved["plan"] == plan else None
            with h5py.File(part, "r") as file:
                columns = columns_of(file)
        except (OSError, RuntimeError, ValueError, KeyError):
            state = None
    if state is None:
        journal.unlink(missing_ok=True)
        part.unlink(missing_ok=True)
        _reserve(part, path, totals.bytes(source.units.dtype))
        columns = create(part, totals, source.units.dtype, source.units[:3])
    _reserve(part, path, part.stat().st_size)
    writer = _Writer(part, columns, source.units, subsets)
    try:
        if state is not None:
            writer.restore(state)
        index, pending = writer.done["molecules"], 0
        for block in source.blocks(skip=index):
            pending += writer.append(block, counts[index])
            if not block.last:
                continue
            index += 1
            if pending >= CHECKPOINT_BYTES:
                os.fsync(writer.fd)
                write_text(journal, json.dumps({"plan": plan, "state": writer.state()}))
                pending = 0
            if progress:
                progress(writer.done["frames"], totals.frames)
        if writer.done["frames"] != totals.frames:
            raise DataError(path, f"{totals.frames} frames from the source", str(writer.done["frames"]))
        _finish(part, writer, source, subsets)
    finally:
        writer.close()
    os.replace(part, path)
    sync_directory(path.parent)
    journal.unlink(missing_ok=True)


def convert(
    source: SpiceFile | Selection | str | os.PathLike[str],
    path: str | os.PathLike[str],
    *,
    file: SpiceFile | None = None,
    overwrite: bool = False,
    wait: bool = False,
    progress: Progress | None = None,
) -> Store:
    """Convert ``source`` to a training store at ``path``.

    The values are stored bit for bit as the source has them (SPICE: float32 bohr, float64 hartree); units are
    applied when frames are read. An interrupted conversion leaves nothing at ``path``; the next call with the
    same source and selection continues from the last checkpoint (every 256 MiB), any other starts again.

    Parameters
    ----------
    source : SpiceFile, Selection or path
        A file in SPICE's layout, a selection from one, or an extended XYZ file (name ending in .xyz or
        .extxyz).
    path : path
        The store to write.
    file : SpiceFile, optional
        With a selection: the open file it was made from, where its path alone does not say how to open it (the
        SPICE test set). By default the selection's path is opened.
    overwrite : bool
        Replace an existing file.
    wait : bool
        Wait when another process is writing the same store, instead of raising, and return what it made from
        the same source and selection. The same store that is already there is returned too, unless
        ``overwrite`` asks for another.
    progress : callable, optional
        Called with (frames done, frames).

    Returns
    -------
    Store
        Open for reading.

    Raises
    ------
    FileExistsError
        When ``path`` exists and ``overwrite`` is not set, or is the source itself.
    BlockingIOError
        When another process is writing it and ``wait`` is not set.
    DataError
        When the source is defective; the message names file, group and dataset.
    OSError
        When the disk is full.

    Examples
    --------
    >>> import tempfile
    >>> from spice_data import convert, example_path
    >>> with tempfile.TemporaryDirectory() as folder, convert(example_path(), folder + "/e.store") as store:
    ...     len(store), store.elements
    (1022, ('H', 'C', 'N', 'O', 'F', 'S', 'Cl'))
    """
    path = Path(path)
    if isinstance(source, Selection) and file is not None:
        return _convert(SpiceSource(file, source), path, overwrite, wait, progress)
    if isinstance(source, Selection):
        with SpiceFile(source.path, source.labels) as file:
            return _convert(SpiceSource(file, source), path, overwrite, wait, progress)
    if isinstance(source, SpiceFile):
        return _convert(SpiceSource(source), path, overwrite, wait, progress)
    if os.fspath(source).endswith(SUFFIXES):
        return _convert(XyzSource(source), path, overwrite, wait, progress)
    with SpiceFile(source) as file:
        return _convert(SpiceSource(file), path, overwrite, wait, progress)


def _convert(source: Source, path: Path, overwrite: bool, wait: bool, progress: Progress | None) -> Store:
    try:
        if not wait:
            check_target(path, overwrite, source.path)
        with exclusive(path, wait) as waited:
            if not (wait and (waited or not overwrite) and _is_made(path, source)):
                check_target(path, overwrite, source.path)
                _write(source, path, progress)
    finally:
        source.close()
    return Store(path)
