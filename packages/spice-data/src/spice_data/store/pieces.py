"""Columns of a store under construction: buffered rows, written piece by piece, restorable from a checkpoint."""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spice_data.files import sync
from spice_data.store.layout import PAGE, Units, dtypes

ALIGNED = {"alignment_threshold": 1, "alignment_interval": PAGE}
SLACK = 64 * PAGE


class Pieces:
    """Append rows to the columns of the HDF5 file ``path``, which exists from the first :meth:`flush` on.

    Attributes
    ----------
    rows : dict of str to int
        Rows of each column, buffered ones included.
    bytes : int
        Size of the buffer.
    """

    def __init__(self, path: Path, units: Units) -> None:
        self.path, self._dtypes = path, dtypes(units)
        self.rows = dict.fromkeys(self._dtypes, 0)
        self.checksums = dict.fromkeys(self._dtypes, 0)
        self.written: list[dict[str, list[int]]] = []
        self._empty()

    def _empty(self) -> None:
        self._buffer: dict[str, list[NDArray[Any]]] = {name: [] for name in self._dtypes}
        self.bytes = 0

    def state(self) -> dict[str, Any]:
        """Return what :meth:`restore` needs; the buffer must be empty."""
        return {"rows": self.rows, "checksums": self.checksums, "pieces": self.written}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from ``state``; ``ValueError`` or ``OSError`` if the file does not have its pieces."""
        self.rows, self.checksums, self.written = state["rows"], state["checksums"], state["pieces"]
        with h5py.File(self.path, "r+") as file:
            for name in [name for name in file if int(name) >= len(self.written)]:
                del file[name]
            for k, piece in enumerate(self.written):
                for name, (offset, rows) in piece.items():
                    found = file[f"{k}/{name}"] if rows else None
                    if found is not None and (found.id.get_offset(), len(found)) != (offset, rows):
                        raise ValueError(f"piece {k} of {name}")

    def add(self, name: str, rows: NDArray[Any]) -> None:
        """Buffer rows of one column."""
        self._buffer[name].append(rows)
        self.rows[name] += len(rows)
        self.bytes += rows.nbytes

    def flush(self, without: tuple[str, ...] = ()) -> None:
        """Write the buffer as one more piece of every column but those in ``without``, and sync it to disk."""
        self._reserve(self.bytes)
        with h5py.File(self.path, "r+" if self.written else "w", **ALIGNED) as file:
            piece = self._write(file.create_group(str(len(self.written))), without)
        sync(self.path)
        self.written.append(piece)
        self._empty()

    def _write(self, group: h5py.Group, without: tuple[str, ...]) -> dict[str, list[int]]:
        piece = {}
        for name, parts in self._buffer.items():
            if not parts or name in without:
                piece[name] = [0, 0]
                continue
            dtype, row = self._dtypes[name]
            data = np.concatenate(parts).astype(dtype, copy=False).reshape(-1, *row)
            parts.clear()
            self.checksums[name] = zlib.crc32(data.reshape(-1).view(np.uint8).data, self.checksums[name])
            dataset = group.create_dataset(name, data=data)
            piece[name] = [int(dataset.id.get_offset() or 0), len(data)]
        return piece

    def _reserve(self, size: int) -> None:
        """Raise ``OSError`` if the file cannot grow by ``size`` bytes: HDF5 crashes when it meets a full disk."""
        fd = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            end = os.fstat(fd).st_size
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, end, size + SLACK)
        except OSError as e:
            if e.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
                os.ftruncate(fd, end)
                message = f"{os.strerror(e.errno)}: no space for {size} more bytes of a store"
                raise OSError(e.errno, message, str(self.path)) from None
        finally:
            os.close(fd)

    def finish(self, metadata: str, attributes: dict[str, Any]) -> None:
        """Write what makes the file a store, and sync it to disk."""
        self._reserve(len(metadata))
        with h5py.File(self.path, "r+", **ALIGNED) as file:
            file["metadata"] = metadata
            file.attrs.update(attributes)
        sync(self.path)
