"""Neighbor search on the CPU: vesin finds each pair once, a counting sort orders both directions by center."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.sparse  # type: ignore[import-untyped]
import torch
from torch import Tensor
from vesin import NeighborList

from localgraph._graph import Graph
from localgraph.search.arguments import Structures

Ints = npt.NDArray[Any]

TABLE = 1 << 12
"""Largest lookup table of shifts, to fit a core's cache."""

AT_ONCE = 1 << 16
"""Codes looked up per chunk: NumPy copies them to its own index type."""


MOST_CELLS = 1e5
"""Most cells that vesin lays over a structure; beyond, it makes larger ones."""


def possible(structures: Structures, cutoff: float) -> bool:
    """Return whether vesin can lay its cells over these structures.

    Above 10⁵ cells vesin (seen in 0.6.2) makes fewer in proportion, n_a = (10⁵ n_a² / n_b n_c)^⅓, and
    where the smallest of these is below one it divides by zero and ends the process: cells of one cutoff
    over 10 × 10⁵ × 10⁵ Å, say.
    """
    return not bool(_too_thin(*_cells(structures, cutoff)))


def suits(structures: Structures, cutoff: float) -> bool:
    """Return whether vesin is :func:`possible` and not much slower than the cell list in torch.

    Vesin's time grows with its cells, filled or not, and with the square of the atoms in one where it had to make
    them larger: where atoms are few and far between, and where one has left the others behind.
    """
    cells, total = _cells(structures, cutoff)
    atoms = torch.bincount(structures.batch, minlength=total.shape[0])
    empty = total.clamp_max(MOST_CELLS).sum() > 8000 + 70 * atoms.sum()
    coarse = ((total > MOST_CELLS) & (total > atoms)).any()
    return not bool(_too_thin(cells, total) | empty | coarse)


def _too_thin(cells: Tensor, total: Tensor) -> Tensor:
    """Return whether a structure would be left with less than one cell along an axis."""
    smallest = cells.amin(1) * (MOST_CELLS / total) ** (1 / 3)
    return ((total > 0.5 * MOST_CELLS) & (smallest < 2.0)).any()


def _cells(structures: Structures, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return the cells (B, 3) of one cutoff along each axis, and how many that makes (B,)."""
    cells = (structures.extent / cutoff).floor().clamp_min(1.0)
    return cells, cells.prod(1)


def search(structures: Structures, cutoff: float) -> Graph:
    """Find all edges below ``cutoff`` (Å); in one center, first those vesin reports from it, in its order."""
    counts = torch.bincount(structures.batch, minlength=structures.cells.shape[0]).tolist()
    finder = NeighborList(cutoff=cutoff, full_list=False, n_threads=torch.get_num_threads())
    positions, (cells, periodic) = structures.positions.contiguous().numpy(), boxes(structures, cutoff)
    ends, shifts, start = [], [], 0
    for count, cell, pbc in zip(counts, cells.numpy(), periodic.numpy(), strict=True):
        if count:
            last = start + count == positions.shape[0]
            # vesin's own memory is read in place where nothing overwrites it before we are done
            p, s = finder.compute(positions[start : start + count], cell, pbc, "PS", copy=not last)
            both = np.empty((2, len(p)), dtype=np.int32)
            np.add(p[:, 0], start, out=both[0], casting="unsafe")
            np.add(p[:, 1], start, out=both[1], casting="unsafe")
            ends.append(both)
            shifts.append(s)
        start += count
    if not ends:
        ends, shifts = [np.zeros((2, 0), dtype=np.int32)], [np.zeros((0, 3), dtype=np.int32)]
    first = ends[0] if len(ends) == 1 else np.concatenate(ends, 1)
    code, base = _pack(shifts[0] if len(shifts) == 1 else np.concatenate(shifts))
    del finder, ends, shifts  # each step below frees what it has read: the peak is about twice the result
    matrix = _both_directions(first, code, start)
    del first, code
    offsets = matrix.indptr.astype(np.int64)
    edge_index = np.empty((2, len(matrix.data)), dtype=np.int64)
    edge_index[0] = np.repeat(np.arange(start, dtype=np.int32), np.diff(offsets))
    edge_index[1] = matrix.indices
    return Graph(*(torch.from_numpy(a) for a in (edge_index, _unpack(matrix.data, base), offsets)))


def boxes(structures: Structures, cutoff: float) -> tuple[Tensor, Tensor]:
    """Return cells (B, 3, 3) and periodic axes (B, 3) that give vesin the same pairs, with the same shifts.

    Where some axes are open and some periodic, vesin (seen in 0.6.2) takes up to 30 times as long as with none or
    all of them (a wire of 30,000 atoms), and 10⁴ times where atoms are few and far between. So such structures are
    made periodic: with a period longer than their extent by more than the cutoff no image is within reach, and the
    shifts along it are zero.
    """
    mixed = (structures.pbc.any(1) & ~structures.pbc.all(1))[:, None]
    period = (structures.extent + cutoff) * 1.001
    scale = torch.where(mixed & ~structures.pbc, period, 1.0)
    return structures.cells * scale[:, :, None], structures.pbc | mixed


def _both_directions(ends: Ints, code: Ints, num_atoms: int) -> scipy.sparse.csr_array:
    """Build compressed rows, one per center, of pairs (2, P) that are given once, with their codes (P,)."""
    codes = np.concatenate([code, code])
    np.negative(code, out=codes[len(code) :])
    places = np.concatenate([ends[0], ends[1]]), np.concatenate([ends[1], ends[0]])
    # coordinate form to compressed rows is a stable counting sort by row; a pair may occur in several
    # images, so the entries of one place must not be added up: "canonical" says that there is nothing to add
    matrix = scipy.sparse.coo_array((codes, places), shape=(num_atoms, num_atoms))
    matrix.has_canonical_format = True
    return matrix.tocsr()


def _pack(shifts: Ints) -> tuple[Ints, int]:
    """Pack shifts (P, 3) as one number each, and the base of its three digits, which run from −m to m."""
    most = max(int(shifts.max()), -int(shifts.min())) if len(shifts) else 0
    base = 2 * most + 1
    code: Any = shifts[:, 0].astype(np.int32 if base**3 < 1 << 31 else np.int64)
    for axis in (1, 2):
        code *= base
        code += shifts[:, axis]
    return code, base


def _unpack(code: Ints, base: int) -> Ints:
    """Return the shifts (E, 3) int32 of codes (E,): looked up where the table of all codes is small."""
    number = base**3
    if number > min(TABLE, len(code)):
        return _digits(code, base)
    every = np.arange(number)
    every[number // 2 + 1 :] -= number  # a negative code counts from the table's end
    table, shifts = _digits(every, base), np.empty((len(code), 3), dtype=np.int32)
    for start in range(0, len(code), AT_ONCE):  # "wrap" writes in place, and knows negative places too
        part = slice(start, start + AT_ONCE)
        table.take(code[part], axis=0, out=shifts[part], mode="wrap")
    return shifts


def _digits(code: Ints, base: int) -> Ints:
    """Return the three digits (E, 3) int32 of codes (E,), each from −base//2 to base//2."""
    digits = np.empty((len(code), 3), dtype=np.int32)
    for axis in (2, 1, 0):
        digits[:, axis] = digit = (code + base // 2) % base - base // 2
        code = (code - digit) // base
    return digits
