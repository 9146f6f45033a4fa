"""Random access to the frames of a store, without loading or memory-mapping it."""

from __future__ import annotations

import hashlib
import json
import operator
import os
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, SupportsIndex, overload

import h5py
import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.rawfile import RawFile
from spice_data.records import APERIODIC, NO_CELL, NO_STRESS, Batch, Frame, MoleculeInfo
from spice_data.store.column import Column
from spice_data.store.layout import CELL, FORMAT, VERSION, Units, dtypes
from spice_data.store.shuffle import permuted
from spice_data.store.statistics import Statistics
from spice_data.units import ENERGY, GRADIENT, LENGTH

READ_BYTES = 4 << 20
ABSENT = np.array((NO_CELL, NO_STRESS, APERIODIC), CELL)
_UNPACK = struct.Struct("<qdddiiii").unpack


class Store(RawFile, Sequence[Frame]):
    """Read a store made by :func:`spice_data.convert` or :class:`spice_data.StoreWriter`.

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
        The source file, and the frames that each filter removed.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        If it is not a store, or is truncated.

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
                    raise DataError(self.path, f"have format {FORMAT!r} version {VERSION}", received)
                metadata = json.loads(file["metadata"][()])
                dtype = file["0/positions"].dtype.str
        except OSError as e:
            raise DataError(self.path, "be a complete store", e) from None
        length, energy, force = (str(attributes[f"{k}_units"]) for k in ("length", "energy", "force"))
        units = Units(length, energy, force, dtype)
        self._scales = LENGTH[units.length], ENERGY[units.energy], GRADIENT[units.force]
        self.subsets: tuple[str, ...] = tuple(metadata["subsets"])
        self.statistics = Statistics.from_json(metadata["statistics"])
        self.elements: tuple[str, ...] = tuple(self.statistics.elements)
        self.provenance: dict[str, Any] = metadata["provenance"]
        self._checksums: dict[str, int] = metadata["checksums"]
        counts = [piece["frames"][1] for piece in metadata["pieces"]]
        self._columns = {
            name: Column(
                self, name, *row, [p[name] for p in metadata["pieces"]], counts if name == "cells" else None
            )
            for name, row in dtypes(units).items()
        }
        self._info = lru_cache(maxsize=4096)(self._read_info)

    def __reduce__(self) -> tuple[type[Store], tuple[Path]]:
        return (Store, (self.path,))

    def __len__(self) -> int:
        """Return the number of frames."""
        return self._columns["frames"].rows

    @property
    def digest(self) -> str:
        """Hash of the contents (through their checksums); a split names its store by it."""
        rows = {name: column.rows for name, column in self._columns.items()}
        text = json.dumps([rows, self._checksums, self.subsets], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _read_info(self, molecule: int) -> MoleculeInfo:
        row = self._columns["molecules"].read(molecule, 1)[0]
        text = self._columns["text"].read(int(row["text"]), int(row["name_bytes"]) + int(row["smiles_bytes"]))
        name, smiles = bytes(text[: row["name_bytes"]]).decode(), bytes(text[row["name_bytes"] :]).decode()
        return MoleculeInfo(name, smiles, int(row["charge"]), int(row["first_frame"]), int(row["frames"]))

    @property
    def n_molecules(self) -> int:
        """Number of molecules."""
        return self._columns["molecules"].rows

    def molecule(self, index: int) -> MoleculeInfo:
        """Return name, SMILES, charge and frames of molecule ``index``."""
        if not 0 <= index < self.n_molecules:
            raise IndexError(f"index must be a molecule from 0 to {self.n_molecules - 1}, got {index}")
        return self._info(index)

    @overload
    def __getitem__(self, index: SupportsIndex) -> Frame: ...

    @overload
    def __getitem__(self, index: slice) -> list[Frame]: ...

    def __getitem__(self, index: SupportsIndex | slice) -> Frame | list[Frame]:
        """Return frame ``index`` (negative counts from the end); a slice gives a list of frames."""
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        i, count = operator.index(index), len(self)
        if not -count <= i < count:
            raise IndexError(f"index must be a frame from {-count} to {count - 1}, got {i}")
        columns, (length, per_energy, per_force) = self._columns, self._scales
        start, energy, formation, weight, n, molecule, source_frame, subset = _UNPACK(
            columns["frames"].bytes(i % count, 1)
        )
        cell, pbc, stress = self._cell(i % count)
        info = self._info(molecule)
        return Frame(
            np.multiply(columns["positions"].read(start, n), length, dtype=np.float64),
            columns["atomic_numbers"].read(start, n).astype(np.int64),
            energy * per_energy,
            np.multiply(columns["forces"].read(start, n), per_force, dtype=np.float64),
            formation * per_energy,
            self.subsets[subset],
            info.name,
            molecule,
            source_frame,
            info.smiles,
            info.charge,
            cell,
            pbc,
            stress,
            weight,
        )

    def _cell(self, i: int) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
        cells = self._columns["cells"]
        if not cells.size or not cells.present(i):
            return NO_CELL.copy(), APERIODIC.copy(), NO_STRESS.copy()
        row = cells.read(i, 1)[0].copy()
        return row["cell"], row["pbc"], row["stress"]

    def __iter__(self) -> Iterator[Frame]:
        return (self[i] for i in range(len(self)))

    def frames(self) -> Iterator[NDArray[Any]]:
        """Yield the table of frames (dtype ``layout.FRAME``) in pieces of bounded size."""
        for start, stop in self._columns["frames"].ranges(READ_BYTES):
            yield self._columns["frames"].read(start, stop - start)

    def batch(self, indices: Sequence[int] | NDArray[np.integer]) -> Batch:
        """Return frames ``indices``, in that order, in one set of arrays; adjacent frames are read together.

        Raises
        ------
        TypeError
            If the indices are no integers: a boolean mask goes through ``np.flatnonzero`` first.
        IndexError
            For an index outside 0 … len − 1.
        """
        given = np.asarray(indices)
        if given.dtype.kind not in "iu" and given.size:
            raise TypeError(f"indices must be integers, got {given.dtype} of shape {given.shape}")
        wanted = given.astype(np.int64).reshape(-1)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            raise IndexError(
                f"indices must be frames from 0 to {len(self) - 1}, got {wanted.min()}…{wanted.max()}"
            )
        columns, (length, per_energy, per_force) = self._columns, self._scales
        order = np.argsort(wanted, kind="stable")
        table = columns["frames"].take(wanted, order)
        offsets = np.concatenate(([0], np.cumsum(table["atoms"], dtype=np.int64)))
        rows = (table["start"], offsets, order)
        cells = columns["cells"].take(wanted, order, ABSENT)
        return Batch(
            np.multiply(columns["positions"].gather(*rows), length, dtype=np.float64),
            columns["atomic_numbers"].gather(*rows).astype(np.int64),
            offsets,
            table["energy"] * per_energy,
            np.multiply(columns["forces"].gather(*rows), per_force, dtype=np.float64),
            table["formation_energy"] * per_energy,
            table["subset"].astype(np.int64),
            table["molecule"].astype(np.int64),
            cells["cell"].copy(),
            cells["stress"].copy(),
            cells["pbc"].copy(),
            table["weight"].copy(),
        )

    def shard(self, index: int, count: int, *, seed: int | None = None) -> NDArray[np.int64]:
        """Return the frames of shard ``index`` of ``count``: every frame is in exactly one shard.

        Parameters
        ----------
        index, count : int
            Rank and number of processes.
        seed : int, optional
            Shuffle all frames first, the same on every rank and platform. Without it, the shards are contiguous.

        Returns
        -------
        (F / count,) int64
            Frame indices; the lengths of the shards differ by one at most, and no frame is repeated to even them out.
            Memory is that of the shard, whatever the size of the store.

        Examples
        --------
        >>> import tempfile
        >>> from spice_data import convert, example_path
        >>> with tempfile.TemporaryDirectory() as folder, convert(example_path(), folder + "/e.store") as store:
        ...     shards = [store.shard(i, 3, seed=7) for i in range(3)]
        >>> [len(s) for s in shards], len(set(np.concatenate(shards).tolist()))
        ([341, 341, 340], 1022)
        """
        if not 0 <= index < count:
            raise ValueError(f"index must be from 0 to count - 1 = {count - 1}, got {index}")
        n = len(self)
        if seed is None:
            return np.arange(n * index // count, n * (index + 1) // count, dtype=np.int64)
        return permuted(np.arange(index, n, count, dtype=np.int64), n, seed)

    def verify(self, progress: Callable[[int, int], None] | None = None) -> None:
        """Read everything and compare with the checksums of conversion.

        Parameters
        ----------
        progress : callable, optional
            Called with (bytes done, bytes).

        Raises
        ------
        DataError
            Naming the dataset that differs.
        """
        total, done = sum(column.size for column in self._columns.values()), 0
        for name, column in self._columns.items():
            crc = 0
            for start, stop in column.ranges(READ_BYTES):
                data = column.bytes(start, stop - start)
                crc, done = zlib.crc32(data, crc), done + len(data)
                if progress:
                    progress(done, total)
            if crc != self._checksums[name]:
                expected = f"have the CRC-32 {self._checksums[name]:08x}"
                raise DataError(self.path, expected, f"{crc:08x}", dataset=name)
