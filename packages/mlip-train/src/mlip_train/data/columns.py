"""Columns of a table in files: written in pieces with a journal, from which an interrupted writer continues."""

from __future__ import annotations

import json
import os
import shutil
import warnings
import zlib
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
from numpy.typing import NDArray

from localgraph import atomic_write

Layout = dict[str, tuple[str, tuple[int, ...]]]
"""Dtype and shape of a row of each column."""
BLOCK = 1 << 24
CHECKPOINT = 64
"""Pieces between two journals."""


class DamagedTable(Exception):
    """Cached columns that are not what was written."""


class ColumnWriter:
    """Write columns piece by piece; the folder appears under its name when all are on disk.

    Parameters
    ----------
    folder : Path
        Where; only one process may write it.
    layout : Layout
        Columns.

    Attributes
    ----------
    chunks : int
        Pieces written so far, those of an interrupted writer among them.
    rows : dict of str to int
        Rows of each column.
    """

    def __init__(self, folder: Path, layout: Layout):
        self.folder, self.layout = folder, layout
        self.part = folder.with_name(f".{folder.name}.part")
        self.chunks = 0
        self.rows, self.sums = dict.fromkeys(layout, 0), dict.fromkeys(layout, 0)
        self.subsets: dict[str, int] = {}
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.part.mkdir(exist_ok=True)
        try:
            head = json.loads((self.part / "table.json").read_text())
            sizes = {name: head["rows"][name] * _row_bytes(self.layout[name]) for name in self.layout}
            if all((self.part / name).stat().st_size >= size for name, size in sizes.items()):
                self.chunks, self.rows, self.sums = head["chunks"], head["rows"], head["crc32"]
                self.subsets = {name: i for i, name in enumerate(head["subsets"])}
        except (OSError, ValueError, KeyError, TypeError):
            pass  # no journal: from the start
        self._files: dict[str, BinaryIO] = {}
        for name in self.layout:
            file = self._stack.enter_context((self.part / name).open("ab"))
            file.truncate(self.rows[name] * _row_bytes(self.layout[name]))
            self._files[name] = file
        return self

    def add(self, columns: dict[str, Any], subsets: list[str]) -> None:
        """Append one piece of every column, and the subset of each of its frames."""
        columns["subset"] = [self.subsets.setdefault(s, len(self.subsets)) for s in subsets]
        for name, (kind, shape) in self.layout.items():
            array = np.ascontiguousarray(columns[name], dtype=kind).reshape(-1, *shape)
            data = array.tobytes()
            self._files[name].write(data)
            self.rows[name] += len(array)
            self.sums[name] = zlib.crc32(data, self.sums[name])
        self.chunks += 1
        if self.chunks % CHECKPOINT == 0:
            self._journal()

    def _journal(self) -> None:
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        head = {"chunks": self.chunks, "rows": self.rows, "crc32": self.sums, "subsets": list(self.subsets)}
        with atomic_write(self.part / "table.json") as file:
            file.write(json.dumps(head).encode())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._stack:
            if error is None:
                self._journal()
        if error is None:
            os.replace(self.part, self.folder)
        elif isinstance(error, Exception):  # of the data, not an interruption
            shutil.rmtree(self.part, ignore_errors=True)


def _row_bytes(row: tuple[str, tuple[int, ...]]) -> int:
    kind, shape = row
    return int(np.dtype(kind).itemsize * np.prod(shape))


def open_columns(folder: Path, layout: Layout) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]]:
    """Map columns into memory after comparing sizes and checksums; return them and the names of subsets.

    Raises
    ------
    DamagedTable
        For a file that is missing, or is not what was written.
    """
    try:
        head = json.loads((folder / "table.json").read_text())
        rows, sums = head["rows"], head["crc32"]
        arrays = {name: _column(folder / name, row, rows[name], sums[name]) for name, row in layout.items()}
        return arrays, tuple(head["subsets"])
    except (ValueError, KeyError, TypeError, OSError) as e:
        raise DamagedTable(str(e)) from None


def open_cached(folder: Path, layout: Layout) -> tuple[dict[str, NDArray[Any]], tuple[str, ...]] | None:
    """Open columns if they are there, as :func:`open_columns`; damaged ones are removed."""
    if not folder.exists():
        return None
    try:
        return open_columns(folder, layout)
    except DamagedTable as e:
        warnings.warn(f"{folder}: {e}; the cached frames are built again", stacklevel=4)
        shutil.rmtree(folder)
        return None


def _column(path: Path, row: tuple[str, tuple[int, ...]], rows: int, checksum: int) -> NDArray[Any]:
    full, size = (rows, *row[1]), rows * _row_bytes(row)
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} must have {size} bytes, got {path.stat().st_size}")
    if not size:
        return np.zeros(full, row[0])
    array = np.memmap(path, row[0], "r", shape=full)
    flat, found = array.reshape(-1).view(np.uint8), 0
    for start in range(0, size, BLOCK):
        found = zlib.crc32(flat[start : start + BLOCK].data, found)
    if found != checksum:
        raise ValueError(f"{path.name} must have the checksum {checksum}, got {found}")
    return array


def remove_leftovers(cache: Path) -> None:
    """Remove unfinished columns of processes that were killed; no other process may use the cache."""
    for folder in cache.glob(".*.part"):
        if folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
