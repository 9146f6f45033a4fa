"""Frames with neighbor lists as flat memory-mapped arrays."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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

    def digest(self) -> str:
        """Hash of frames, labels and weights, by which a checkpoint knows its data; paths do not enter."""
        found = hashlib.sha256(json.dumps([self.subsets, self.type_names]).encode())
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


def open_table(folder: str | os.PathLike[str]) -> FrameTable:
    """Map a table that :func:`build_table` wrote."""
    folder = Path(folder)
    head = json.loads((folder / "table.json").read_text())
    arrays: dict[str, Array] = {}
    for name, (kind, shape) in LAYOUT.items():
        rows = head["rows"][name]
        full = (rows, *shape)
        arrays[name] = np.memmap(folder / name, kind, "r", shape=full) if rows else np.zeros(full, kind)
    starts = [
        np.concatenate([[0], np.cumsum(arrays[k], dtype=np.int64)]) for k in ("atom_count", "edge_count")
    ]
    return FrameTable(
        arrays, starts[0], starts[1], tuple(head["subsets"]), tuple(head["files"]), tuple(head["type_names"])
    )
