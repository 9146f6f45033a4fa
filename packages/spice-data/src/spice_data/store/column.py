"""One column of a store: rows in contiguous pieces of the file, read with ``pread``."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import pairwise
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.rawfile import RawFile

GAP = 16


class Column:
    """Rows of one dtype and shape, numbered over all pieces.

    Parameters
    ----------
    file : RawFile
        The store's file.
    name : str
        Name in error messages.
    dtype, shape : dtype, tuple of int
        Of one row.
    pieces : sequence of (int, int)
        Byte offset and number of rows of each piece; a piece without rows is absent.
    counts : sequence of int, optional
        Rows that each piece accounts for, absent ones included; by default those that it has.
    """

    def __init__(
        self,
        file: RawFile,
        name: str,
        dtype: np.dtype,
        shape: tuple[int, ...],
        pieces: Sequence[Sequence[int]],
        counts: Sequence[int] | None = None,
    ) -> None:
        self.file, self.name, self.dtype, self.shape = file, name, dtype, shape
        self.row_bytes = dtype.itemsize * prod(shape)
        self._first = [0]
        for rows in counts or [rows for _, rows in pieces]:
            self._first.append(self._first[-1] + rows)
        self._present = [rows > 0 for _, rows in pieces]
        # byte of row 0 if the whole column lay where the piece does
        self._base = [p[0] - first * self.row_bytes for p, first in zip(pieces, self._first, strict=False)]
        self.rows = self._first.pop()
        self.size = sum(rows for _, rows in pieces) * self.row_bytes

    def present(self, row: int) -> bool:
        """Return whether the piece of a row is in the file."""
        return self._present[bisect_right(self._first, row) - 1]

    def bytes(self, start: int, count: int) -> bytes:
        """Return rows ``start:start + count`` of one piece as stored."""
        base = self._base[bisect_right(self._first, start) - 1]
        try:
            return self.file.read_at(base + start * self.row_bytes, count * self.row_bytes)
        except EOFError as e:
            raise DataError(self.file.path, f"have {self.rows} rows", e, dataset=self.name) from None

    def read(self, start: int, count: int) -> NDArray[Any]:
        """Return rows ``start:start + count`` of one piece, read-only."""
        return np.frombuffer(self.bytes(start, count), self.dtype).reshape(count, *self.shape)

    def ranges(self, size: int) -> Iterator[tuple[int, int]]:
        """Yield ranges of rows of at most ``size`` bytes that cover all pieces in the file."""
        step = max(1, size // self.row_bytes)
        for present, first, end in zip(
            self._present, self._first, [*self._first[1:], self.rows], strict=True
        ):
            for start in range(first, end, step) if present else ():
                yield start, min(start + step, end)

    def take(
        self, wanted: NDArray[np.int64], order: NDArray[np.int64], absent: NDArray[Any] | None = None
    ) -> NDArray[Any]:
        """Return rows ``wanted`` (``order`` sorts them); rows of absent pieces are ``absent``."""
        out = np.empty((len(wanted), *self.shape), self.dtype)
        if len(wanted) == 0:
            return out
        if not self.size:
            out[:] = absent
            return out
        ordered = wanted[order]
        piece = np.searchsorted(self._first, ordered, "right")
        breaks = np.flatnonzero((np.diff(ordered) > GAP) | (np.diff(piece) > 0)) + 1
        for a, b in pairwise([0, *breaks.tolist(), len(ordered)]):
            places = ordered[a:b]
            first = int(places[0])
            if self.present(first):
                out[order[a:b]] = self.read(first, int(places[-1]) - first + 1)[places - first]
            else:
                out[order[a:b]] = absent
        return out

    def gather(
        self, starts: NDArray[np.int64], offsets: NDArray[np.int64], order: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Return the rows of several frames: from ``starts``, to ``offsets``, read in ``order``."""
        out = np.empty((int(offsets[-1]), *self.shape), self.dtype)
        if out.size == 0:
            return out
        view = out.reshape(-1).view(np.uint8).data
        places = (offsets * self.row_bytes).tolist()
        base = np.array(self._base)[np.searchsorted(self._first, starts, "right") - 1]
        at, fd = (base + starts * self.row_bytes).tolist(), self.file.fd
        try:
            for i in order.tolist():
                start, stop = places[i], places[i + 1]
                data = os.pread(fd, stop - start, at[i])
                view[start:stop] = (
                    data if len(data) == stop - start else self.file.read_at(at[i], stop - start)
                )
        except EOFError as e:
            raise DataError(self.file.path, f"have {self.rows} rows", e, dataset=self.name) from None
        return out
