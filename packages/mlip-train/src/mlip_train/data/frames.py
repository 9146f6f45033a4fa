"""Counts and statistics of frames, one row per frame; coordinates and labels stay in the stores."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from ase.data import atomic_numbers
from numpy.typing import NDArray

from mlip_train.data.sources import Source
from spice_data import DataError, Frame

Array = NDArray[Any]
ROWS: dict[str, str] = {
    "atom_count": "i8",
    "edge_count": "i8",
    "energy": "f8",
    "weight": "f8",
    "force_squares": "f8",
    "force_net": "f8",
    "force_max": "f8",
    "stress_max": "f8",
    "tension": "f8",
    "volume": "f8",
    "work": "f8",
    "subset": "i4",
    "source": "i4",
    "row": "i8",
    "group": "u8",
    "geometry": "u8",
    "labels": "u4",
}
"""Columns of one number per frame; NaN where a label is absent.

``force_squares``, ``force_net`` and ``force_max`` are the sum of squares, the largest component of the sum and the
largest component (eV/Å); ``stress_max`` and ``tension`` the largest component and a third of the trace (eV/Å³);
``volume`` is in Å³ (NaN without three periodic axes); ``work`` is −½ Σ (F + F′) · Δx from the frame before (eV), NaN
unless that has the same atoms within 0.5 Å; ``group``, ``geometry`` and ``labels`` are hashes of the name and
of the bytes."""


class Edges(NamedTuple):
    """Cached neighbor lists: first edge of each frame (F + 1,), and per edge (E,) and (E, 3) arrays."""

    start: NDArray[np.int64]
    center: Array
    neighbor: Array
    shifts: Array


class Labels(NamedTuple):
    """Sums of loss weights of each frame: energy, force components, stress components, (F,) each."""

    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


@dataclass(frozen=True)
class FrameTable:
    """Frames of sources by their counts and statistics.

    Attributes
    ----------
    arrays : dict
        Columns of ``ROWS``, and ``composition`` (F, T) int32, the atoms of each type; possibly mapped from files.
    sources : tuple of Source
        What ``source`` indexes into; ``row`` is the frame in its store.
    subsets, type_names : tuple of str
        What ``subset`` and types index into.
    cutoffs : Tensor, (T, T) float64
        Å.
    edges : Edges or None
        Neighbor lists, where they are cached.
    """

    arrays: dict[str, Array]
    sources: tuple[Source, ...]
    subsets: tuple[str, ...]
    type_names: tuple[str, ...]
    cutoffs: torch.Tensor
    edges: Edges | None = None

    def __len__(self) -> int:
        return len(self.arrays["row"])

    @property
    def files(self) -> tuple[str, ...]:
        """Paths of the sources."""
        return tuple(source.config.path for source in self.sources)

    def where(self, frame: int) -> str:
        """File and place in it, for messages."""
        source = self.sources[int(self.arrays["source"][frame])]
        return ", ".join(source.where(int(self.arrays["row"][frame])))

    def error(self, frame: int, message: str) -> DataError:
        """Return the error of a frame."""
        return self.sources[int(self.arrays["source"][frame])].error(int(self.arrays["row"][frame]), message)

    def frame(self, row: int) -> Frame:
        """Read a frame from its store."""
        return self.sources[int(self.arrays["source"][row])].store[int(self.arrays["row"][row])]

    @property
    def source_counts(self) -> list[int]:
        """Number of frames of each source."""
        return np.bincount(self.arrays["source"], minlength=len(self.sources)).tolist()  # type: ignore[no-any-return]

    def digest(self) -> str:
        """Hash of frames, labels and weights, by which a checkpoint knows its data; names do not enter."""
        found = hashlib.sha256(json.dumps(self.type_names).encode())
        for name in ("atom_count", "energy", "weight", "subset", "composition", "geometry", "labels"):
            found.update(np.ascontiguousarray(self.arrays[name]).data)
        return found.hexdigest()

    @property
    def label_weights(self) -> Labels:
        """Weight of each frame in each term of the loss; 0 where the label is missing."""
        a, weight = self.arrays, np.asarray(self.arrays["weight"])
        return Labels(
            weight * np.isfinite(a["energy"]),
            3.0 * weight * np.isfinite(a["force_squares"]) * self.atom_counts,
            9.0 * weight * np.isfinite(a["stress_max"]),
        )

    @property
    def isolated(self) -> NDArray[np.bool_]:
        """Which frames are one atom without neighbors, (F,)."""
        mask: NDArray[np.bool_] = (self.atom_counts == 1) & (self.edge_counts == 0)
        return mask

    @property
    def atom_counts(self) -> NDArray[np.int64]:
        """Atoms of each frame, (F,)."""
        return self.arrays["atom_count"]

    @property
    def edge_counts(self) -> NDArray[np.int64]:
        """Edges of each frame, (F,)."""
        return self.arrays["edge_count"]


def type_lookup(type_names: tuple[str, ...]) -> NDArray[np.int64]:
    """Return the type of each atomic number, (128,); −1 for elements that are none."""
    lookup = np.full(128, -1, dtype=np.int64)
    for number, name in enumerate(type_names):
        lookup[atomic_numbers[name]] = number
    return lookup
