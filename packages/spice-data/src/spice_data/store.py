"""The training store: random access to frames of a file of any size, without loading or mapping it."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import struct
import zlib
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from spice_data.elements import NUMBERS
from spice_data.errors import DataError
from spice_data.layout import FORMAT, FRAME, MOLECULE, VERSION, columns_of
from spice_data.rawfile import RawFile
from spice_data.records import Batch, Frame, MoleculeInfo
from spice_data.statistics import Statistics
from spice_data.units import ENERGY, GRADIENT, LENGTH

READ_BYTES = 4 << 20
_UNPACK = struct.Struct("<qddiiii").unpack


class Store(RawFile, Sequence[Frame]):
    """A training store made by :func:`spice_data.convert`, open for reading.

    Frames are read with ``pread`` when asked for: memory does not grow with the file or with use. A store may
    be used after a fork, and may be sent to a spawned process (it opens its file again there).

    Parameters
    ----------
    path : path
        The file.

    Attributes
    ----------
    subsets : tuple of str
        Names of the subsets.
    elements : tuple of str
        Elements present, by atomic number.
    statistics : Statistics
        Gathered during conversion.
    provenance : dict
        The source file, and what each filter removed.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    DataError
        When it is not a store, or is truncated.

    Examples
    --------
    >>> import tempfile
    >>> from spice_data import convert, example_path
    >>> with tempfile.TemporaryDirectory() as folder, convert(example_path(), folder + "/e.store") as store:
    ...     frame = store[0]
    ...     frame.positions.shape, frame.name, store.batch([0, 5, 9]).offsets
    ((11, 3), '900000001', array([ 0, 11, 22, 33]))
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        try:
            with h5py.File(self.path, "r") as file:
                attributes = dict(file.attrs)
                received = (attributes.get("format"), attributes.get("format_version"))
                if received != (FORMAT, VERSION):
                    raise DataError(self.path, f"format {FORMAT!r} version {VERSION}", str(received))
                self._columns = columns_of(file)
                metadata = json.loads(file["metadata"][()])
                units = (
                    file["positions"].attrs["units"],
                    attributes["energy_units"],
                    file["forces"].attrs["units"],
                )
        except OSError as e:
            raise DataError(self.path, "a complete store", str(e)) from None
        self._length, self._energy, self._force = LENGTH[units[0]], ENERGY[units[1]], GRADIENT[units[2]]
        self.subsets: tuple[str, ...] = tuple(metadata["subsets"])
        self.statistics = Statistics.from_json(metadata["statistics"])
        self.elements: tuple[str, ...] = tuple(self.statistics.elements)
        self.provenance: dict[str, Any] = metadata["provenance"]
        self._checksums: dict[str, int] = metadata["checksums"]
        self._frames = self._columns["frames"].rows
        self._info = lru_cache(maxsize=4096)(self._read_info)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return (Store, (self.path,))

    def __len__(self) -> int:
        """Number of frames."""
        return self._frames

    @property
    def digest(self) -> str:
        """Hash of the contents (through their checksums), by which a split knows its store."""
        rows = {name: column.rows for name, column in self._columns.items()}
        text = json.dumps([rows, self._checksums, self.subsets], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _read(self, name: str, start: int, count: int) -> bytes:
        column = self._columns[name]
        try:
            return self.read_at(column.offset + start * column.row_bytes, count * column.row_bytes)
        except EOFError as e:
            raise DataError(self.path, f"{column.rows} rows", str(e), dataset=name) from None

    def _rows(self, name: str, start: int, count: int) -> NDArray[Any]:
        column = self._columns[name]
        return np.frombuffer(self._read(name, start, count), column.dtype).reshape(count, *column.row)

    def _read_info(self, molecule: int) -> MoleculeInfo:
        row = np.frombuffer(self._read("molecules", molecule, 1), MOLECULE)[0]
        text = self._read("text", int(row["text"]), int(row["name_bytes"]) + int(row["smiles_bytes"]))
        name, smiles = text[: row["name_bytes"]].decode(), text[row["name_bytes"] :].decode()
        return MoleculeInfo(name, smiles, int(row["charge"]), int(row["first_frame"]), int(row["frames"]))

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return self._columns["molecules"].rows

    def molecule(self, index: int) -> MoleculeInfo:
        """Name, SMILES, charge and frames of molecule ``index``."""
        if not 0 <= index < self.n_molecules:
            raise IndexError(f"index: required a molecule from 0 to {self.n_molecules - 1}, got {index}")
        return self._info(index)

    def __getitem__(self, index: Any) -> Any:
        """Frame ``index`` (negative counts from the end); a slice gives a list of frames."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i = operator.index(index)
        if not -self._frames <= i < self._frames:
            raise IndexError(f"index: required a frame from {-self._frames} to {self._frames - 1}, got {i}")
        start, energy, formation, n, molecule, source_frame, subset = _UNPACK(
            self._read("frames", i % self._frames, 1)
        )
        positions = np.multiply(self._rows("positions", start, n), self._length, dtype=np.float64)
        forces = np.multiply(self._rows("forces", start, n), self._force, dtype=np.float64)
        numbers = self._rows("atomic_numbers", start, n).astype(np.int64)
        info = self._info(molecule)
        return Frame(
            positions,
            numbers,
            energy * self._energy,
            forces,
            formation * self._energy,
            self.subsets[subset],
            info.name,
            molecule,
            source_frame,
            info.smiles,
            info.charge,
        )

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def frames(self) -> Iterator[NDArray[Any]]:
        """The table of frames (dtype ``layout.FRAME``) in pieces of bounded size."""
        step = READ_BYTES // FRAME.itemsize
        for start in range(0, len(self), step):
            yield self._rows("frames", start, min(step, len(self) - start))

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> Batch:
        """Frames ``indices``, in that order, in one set of arrays; neighboring frames are read together.

        Raises
        ------
        TypeError
            When the indices are no integers: a boolean mask goes through ``np.flatnonzero`` first.
        IndexError
            For an index outside 0 … len − 1.
        """
        given = np.asarray(indices)
        if given.dtype.kind not in "iu" and given.size:
            raise TypeError(f"indices: required integers, got {given.dtype} of shape {given.shape}")
        wanted = given.astype(np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(
                f"indices: required frames from 0 to {len(self) - 1}, got {wanted.min()}…{wanted.max()}"
            )
        order = np.argsort(wanted, kind="stable")
        table = np.empty(len(wanted), FRAME)
        for a, b in _neighbors(wanted[order]):
            places = wanted[order[a:b]]
            first, last = int(places[0]), int(places[-1])
            table[order[a:b]] = self._rows("frames", first, last - first + 1)[places - first]
        offsets = np.concatenate(([0], np.cumsum(table["atoms"], dtype=np.int64)))
        positions = self._gather("positions", table, offsets, order)
        forces = self._gather("forces", table, offsets, order)
        return Batch(
            np.multiply(positions, self._length, dtype=np.float64),
            self._gather("atomic_numbers", table, offsets, order).astype(np.int64),
            offsets,
            table["energy"] * self._energy,
            np.multiply(forces, self._force, dtype=np.float64),
            table["formation_energy"] * self._energy,
            table["subset"].astype(np.int64),
            table["molecule"].astype(np.int64),
        )

    def _gather(
        self, name: str, table: NDArray[Any], offsets: NDArray[np.int64], order: NDArray[np.int64]
    ) -> NDArray[Any]:
        """Rows of the atom array ``name`` of the frames in ``table``, read in ``order`` to their places."""
        column = self._columns[name]
        out = np.empty((int(offsets[-1]), *column.row), column.dtype)
        if out.size == 0:
            return out
        view = out.reshape(-1).view(np.uint8).data
        places = (offsets * column.row_bytes).tolist()
        at = (column.offset + table["start"] * column.row_bytes).tolist()
        for i in order.tolist():
            start, stop = places[i], places[i + 1]
            data = os.pread(self._fd, stop - start, at[i])
            if len(data) < stop - start:
                data = self._read(name, int(table["start"][i]), int(table["atoms"][i]))
            view[start:stop] = data
        return out

    def verify(self) -> None:
        """Read everything and compare with the checksums of conversion.

        Raises
        ------
        DataError
            Naming the dataset that differs.
        """
        for name, column in self._columns.items():
            crc, step = 0, max(1, READ_BYTES // column.row_bytes)
            for start in range(0, column.rows, step):
                crc = zlib.crc32(self._read(name, start, min(step, column.rows - start)), crc)
            if crc != self._checksums[name]:
                expected = f"CRC-32 {self._checksums[name]:08x}"
                raise DataError(self.path, expected, f"{crc:08x}", dataset=name)

    def types(self, elements: Sequence[str]) -> NDArray[np.int64]:
        """Table from atomic number to index in ``elements``; −1 for others.

        Raises
        ------
        ValueError
            When ``elements`` lacks one of the store's.
        """
        missing = [e for e in self.elements if e not in elements]
        if missing:
            raise ValueError(
                f"elements: required all of {self.elements}, got {tuple(elements)} without {missing}"
            )
        table = np.full(len(NUMBERS) + 1, -1, np.int64)
        table[[NUMBERS[e] for e in elements]] = np.arange(len(elements))
        return table


def _neighbors(ordered: NDArray[np.int64], gap: int = 16) -> Iterator[tuple[int, int]]:
    """Ranges of ``ordered`` whose neighbors lie within ``gap`` of each other."""
    if len(ordered) == 0:
        return
    cuts = np.flatnonzero(np.diff(ordered) > gap) + 1
    edges = [0, *cuts.tolist(), len(ordered)]
    yield from pairwise(edges)
