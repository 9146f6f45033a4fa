"""Frames with neighbor lists as flat memory-mapped arrays, written with sizes and checksums."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
BLOCK = 1 << 24
LAYOUT: dict[str, tuple[str, tuple[int, ...]]] = {
    "atom_count": ("i8", ()),
    "edge_count": ("i8", ()),
    "energy": ("f8", ()),
    "cell": ("f8", (3, 3)),
    "stress": ("f8", (3, 3)),
    "weight": ("f8", ()),
    "subset": ("i4", ()),
    "file": ("i4", ()),
    "index": ("i8", ()),
    "types": ("i2", ()),
    "positions": ("f8", (3,)),
    "forces": ("f8", (3,)),
    "center": ("i4", ()),
    "neighbor": ("i4", ()),
    "shifts": ("i2", (3,)),
}


@dataclass(frozen=True)
class FrameTable:
    """Frames as flat arrays, possibly mapped from files.

    Attributes
    ----------
    arrays : dict
        See ``LAYOUT``: per frame (F, ...), per atom (A, ...) and per edge (E, ...) arrays. Missing labels are NaN.
    atom_start, edge_start : (F + 1,) int64
        Rows of frame f are ``start[f]:start[f + 1]``.
    subsets, files, type_names : tuple of str
        What ``subset``, ``file`` and ``types`` index into.
    """

    arrays: dict[str, Array]
    atom_start: NDArray[np.int64]
    edge_start: NDArray[np.int64]
    subsets: tuple[str, ...]
    files: tuple[str, ...]
    type_names: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.atom_start) - 1

    def where(self, frame: int) -> str:
        """File and frame index, for messages."""
        return f"{self.files[self.arrays['file'][frame]]}, frame {int(self.arrays['index'][frame])}"

    @property
    def source_counts(self) -> list[int]:
        """Number of frames of each source, in the order of ``files``."""
        return np.bincount(self.arrays["file"], minlength=len(self.files)).tolist()  # type: ignore[no-any-return]

    def digest(self) -> str:
        """Hash of frames, labels and weights, by which a checkpoint knows its data; names do not enter."""
        found = hashlib.sha256(json.dumps(self.type_names).encode())
        for name in (
            "atom_count",
            "energy",
            "cell",
            "stress",
            "weight",
            "subset",
            "types",
            "positions",
            "forces",
        ):
            found.update(np.ascontiguousarray(self.arrays[name]).data)
        return found.hexdigest()

    @property
    def isolated(self) -> NDArray[np.bool_]:
        """Which frames are one atom without neighbors, (F,)."""
        mask: NDArray[np.bool_] = (self.atom_counts == 1) & (self.edge_counts == 0)
        return mask

    @property
    def atom_counts(self) -> NDArray[np.int64]:
        """Atoms of each frame, (F,)."""
        return np.diff(self.atom_start)

    @property
    def edge_counts(self) -> NDArray[np.int64]:
        """Edges of each frame, (F,)."""
        return np.diff(self.edge_start)


class DamagedTable(Exception):
    """A cached table that is not what was written."""


def write_table(
    folder: Path, chunks: Iterable[tuple[dict[str, Any], list[str]]], files: list[str], names: tuple[str, ...]
) -> None:
    """Write a table; it appears under its name only when it is complete and on disk.

    Parameters
    ----------
    folder : Path
        Where; what is there already is replaced.
    chunks : iterable of (dict, list of str)
        Columns (see ``LAYOUT``) and the subset of each frame.
    files : list of str
        What the column ``file`` indexes into.
    names : tuple of str
        Type names.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}."))
    subsets: dict[str, int] = {}
    rows, sums = dict.fromkeys(LAYOUT, 0), dict.fromkeys(LAYOUT, 0)
    try:
        with contextlib.ExitStack() as opened:
            handles = {name: opened.enter_context((part / name).open("wb")) for name in LAYOUT}
            for columns, frame_subsets in chunks:
                columns["subset"] = [subsets.setdefault(s, len(subsets)) for s in frame_subsets]
                for name, (kind, shape) in LAYOUT.items():
                    array = np.ascontiguousarray(columns[name], dtype=kind).reshape(-1, *shape)
                    data = array.tobytes()
                    handles[name].write(data)
                    rows[name] += len(array)
                    sums[name] = zlib.crc32(data, sums[name])
            for handle in handles.values():
                handle.flush()
                os.fsync(handle.fileno())
        head = {
            "rows": rows,
            "crc32": sums,
            "subsets": list(subsets),
            "files": files,
            "type_names": list(names),
        }
        with (part / "table.json").open("w") as file:
            file.write(json.dumps(head))
            file.flush()
            os.fsync(file.fileno())
        with contextlib.suppress(OSError):  # another process was faster; its table is the same
            os.replace(part, folder)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def open_table(folder: str | os.PathLike[str]) -> FrameTable:
    """Map a table into memory after comparing sizes and checksums.

    Raises
    ------
    DamagedTable
        For a file that is missing, or is not what was written.
    """
    folder = Path(folder)
    try:
        head = json.loads((folder / "table.json").read_text())
        rows, sums = head["rows"], head["crc32"]
        arrays = {name: _column(folder / name, rows[name], sums[name]) for name in LAYOUT}
    except (ValueError, KeyError, TypeError, OSError) as e:
        raise DamagedTable(str(e)) from None
    starts = [
        np.concatenate([[0], np.cumsum(arrays[k], dtype=np.int64)]) for k in ("atom_count", "edge_count")
    ]
    return FrameTable(
        arrays, starts[0], starts[1], tuple(head["subsets"]), tuple(head["files"]), tuple(head["type_names"])
    )


def _column(path: Path, rows: int, checksum: int) -> Array:
    kind, shape = LAYOUT[path.name]
    full = (rows, *shape)
    size = int(np.prod(full)) * np.dtype(kind).itemsize
    if path.stat().st_size != size:
        raise ValueError(f"{path.name} must have {size} bytes, got {path.stat().st_size}")
    if not size:
        return np.zeros(full, kind)
    array = np.memmap(path, kind, "r", shape=full)
    flat, found = array.reshape(-1).view(np.uint8), 0
    for start in range(0, size, BLOCK):
        found = zlib.crc32(flat[start : start + BLOCK].data, found)
    if found != checksum:
        raise ValueError(f"{path.name} must have the checksum {checksum}, got {found}")
    return array


def remove_leftovers(cache: Path) -> None:
    """Remove unfinished tables of processes that were killed; no other process may use the cache."""
    for folder in cache.glob(".*.*"):
        shutil.rmtree(folder, ignore_errors=True)
