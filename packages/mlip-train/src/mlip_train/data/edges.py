"""Neighbor lists of batches of frames, and counts, statistics and checks of every frame."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

import localgraph
from mlip_train.data.frames import Array
from spice_data import Batch as Frames

CLOSEST = 1e-3
"""Shortest distance of two atoms, Å: at zero, forces are not defined."""
STEP = 0.5
"""Largest displacement, Å, between steps of a trajectory."""
ATOMS = 1 << 14
"""Most atoms of a neighbor search over several frames, to bound its memory."""


class Lists(NamedTuple):
    """Neighbor lists of several frames, atoms numbered through: centers and neighbors (E,) and shifts (E, 3)."""

    center: Array
    neighbor: Array
    shifts: Array


class FrameError(ValueError):
    """A frame that cannot be trained on.

    Attributes
    ----------
    frame : int
        Its place among the frames of a batch.
    """

    def __init__(self, frame: int, message: str):
        super().__init__(message)
        self.frame = frame


def neighbor_lists(frames: Frames, types: NDArray[np.int64], cutoffs: torch.Tensor) -> Lists:
    """Return the neighbor lists of frames.

    Raises
    ------
    FrameError
        For a cell that does not span the periodic axes of its frame, or atoms too far outside of it.
    """
    found = [_search(frames, types, cutoffs, a, b) for a, b in _groups(frames.offsets)]
    if len(found) == 1:
        return found[0]
    none = np.zeros(0, np.int64)
    lists = [Lists(none, none, np.zeros((0, 3), np.int32)), *found]
    return Lists(*(np.concatenate(parts) for parts in zip(*lists, strict=True)))


def _groups(offsets: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
    """Yield ranges of frames of at most ``ATOMS`` atoms, or one frame."""
    a, count = 0, len(offsets) - 1
    while a < count:
        b = max(int(np.searchsorted(offsets, offsets[a] + ATOMS, "right")) - 1, a + 1)
        yield a, b
        a = b


def _search(frames: Frames, types: NDArray[np.int64], cutoffs: torch.Tensor, a: int, b: int) -> Lists:
    start, end = int(frames.offsets[a]), int(frames.offsets[b])
    frame = np.repeat(np.arange(b - a), np.diff(frames.offsets[a : b + 1]))
    pbc = frames.pbc[a:b]
    positions = torch.from_numpy(frames.positions[start:end])
    cells = torch.from_numpy(frames.cells[a:b]) if pbc.any() else None
    one = bool((cutoffs == cutoffs[0, 0]).all())
    try:
        graph = localgraph.neighbors(
            positions,
            float(cutoffs[0, 0]) if one else cutoffs,
            cells,
            torch.from_numpy(pbc),
            types=None if one else torch.from_numpy(types[start:end]),
            batch=torch.from_numpy(frame),
        )
    except ValueError as e:
        if b - a == 1:
            raise FrameError(a, str(e)) from None
        for i in range(a, b):  # alone, to find which one
            _search(frames, types, cutoffs, i, i + 1)
        raise
    index = graph.edge_index.numpy() + start
    return Lists(index[0], index[1], graph.shifts.numpy())


def measure(
    frames: Frames,
    rows: NDArray[np.int64],
    lookup: NDArray[np.int64],
    names: tuple[str, ...],
    cutoffs: torch.Tensor,
    keep: bool,
) -> tuple[dict[str, Array], Lists | None]:
    """Return the columns of a table that frames alone determine, and their neighbor lists if they are to be kept.

    ``rows`` are the frames' places in their store: consecutive ones may be steps of a trajectory.

    Raises
    ------
    FrameError
        For an element that is no type of the model, a cell that does not span its periodic axes, and atoms on top
        of each other.
    """
    types = lookup[frames.numbers]
    if (types < 0).any():
        atom = int(np.argmin(types))
        raise FrameError(
            int(np.searchsorted(frames.offsets, atom, "right")) - 1,
            f"key 'numbers' must be elements of the model {list(names)}, got atomic number {frames.numbers[atom]} "
            "(model.add_elements gives a model that training starts from more of them)",
        )
    count = len(frames.energies)
    edges, kept = np.zeros(count, np.int64), []
    for a, b in _groups(frames.offsets):
        lists = _search(frames, types, cutoffs, a, b)
        _check_distances(frames, lists)
        places = np.searchsorted(lists.center, frames.offsets[a : b + 1])
        edges[a:b] = np.diff(places)
        kept += [lists] if keep else []
    columns = _statistics(frames, types, len(names)) | {"edge_count": edges, "work": _works(frames, rows)}
    return columns, Lists(*(np.concatenate(parts) for parts in zip(*kept, strict=True))) if kept else None


def _check_distances(frames: Frames, lists: Lists) -> None:
    """Raise ``FrameError`` for atoms on top of each other."""
    vectors = frames.positions[lists.neighbor] - frames.positions[lists.center]
    shifted = np.flatnonzero(lists.shifts.any(1))
    frame = np.searchsorted(frames.offsets, lists.center[shifted], "right") - 1
    vectors[shifted] += np.einsum("ei,eij->ej", lists.shifts[shifted], frames.cells[frame])
    short = np.flatnonzero(np.einsum("ei,ei->e", vectors, vectors) < CLOSEST * CLOSEST)
    if len(short):
        i, j = int(lists.center[short[0]]), int(lists.neighbor[short[0]])
        place = int(np.searchsorted(frames.offsets, i, "right")) - 1
        first = int(frames.offsets[place])
        raise FrameError(
            place,
            f"key 'positions' must keep atoms at least {CLOSEST} Å apart, got atoms {i - first} and {j - first} closer",
        )


def _statistics(frames: Frames, types: NDArray[np.int64], num_types: int) -> dict[str, Array]:
    count, starts = len(frames.energies), frames.offsets[:-1]
    atoms = np.diff(frames.offsets)
    frame = np.repeat(np.arange(count), atoms)
    composition = np.bincount(frame * num_types + types, minlength=count * num_types)
    forces = frames.forces
    full = np.where(frames.pbc.all(1), 1.0, np.nan)
    columns: dict[str, Any] = {
        "atom_count": atoms,
        "energy": frames.energies,
        "composition": composition.reshape(count, num_types),
        "force_squares": np.add.reduceat((forces * forces).sum(1), starts),
        "force_net": np.abs(np.add.reduceat(forces, starts)).max(1),
        "force_max": np.maximum.reduceat(np.abs(forces).max(1), starts),
        "stress_max": full * np.abs(frames.stresses).max((1, 2), initial=0.0),
        "tension": full * np.trace(frames.stresses, axis1=1, axis2=2) / 3,
        "volume": full * np.abs(np.linalg.det(frames.cells)),
    }
    hashes = [_hashes(frames, i) for i in range(count)]
    return columns | {"geometry": [g for g, _ in hashes], "labels": [h for _, h in hashes]}


def _works(frames: Frames, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return −½ Σ (F + F′) · Δx of each frame from the one before, eV; NaN where that is no step before it."""
    works = np.full(len(rows), np.nan)
    for i in np.flatnonzero(np.diff(rows) == 1) + 1:
        a, b, c = (int(start) for start in frames.offsets[i - 1 : i + 2])
        if b - a != c - b or not np.array_equal(frames.numbers[a:b], frames.numbers[b:c]):
            continue
        moved = frames.positions[b:c] - frames.positions[a:b]
        if np.array_equal(frames.cells[i - 1], frames.cells[i]) and np.abs(moved).max() < STEP:
            works[i] = -0.5 * ((frames.forces[a:b] + frames.forces[b:c]) * moved).sum()
    return works


def _hashes(frames: Frames, i: int) -> tuple[int, int]:
    """Return hashes of elements, positions and cell, and of forces and stress."""
    atoms = slice(int(frames.offsets[i]), int(frames.offsets[i + 1]))
    geometry = hashlib.blake2b(frames.positions[atoms].tobytes(), digest_size=8)
    geometry.update(frames.numbers[atoms].tobytes() + frames.cells[i].tobytes() + frames.pbc[i].tobytes())
    labels = zlib.crc32(frames.forces[atoms].tobytes(), zlib.crc32(frames.stresses[i].tobytes()))
    return int.from_bytes(geometry.digest(), "little"), labels
