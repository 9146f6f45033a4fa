"""Reader of SPICE's HDF5 layout, one group at a time, with every field checked."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import h5py
import numpy as np
from h5py import h5a, h5d, h5g, h5s, h5t
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.rawfile import RawFile
from spice_data.read import charges
from spice_data.read.molecule import Field, Floats, Molecule
from spice_data.units import ENERGY, GRADIENT, LENGTH

SubsetOf = Callable[[str, int, str], str]
_TEXT = h5py.string_dtype("utf-8")
_TEXT_ID = h5t.py_create(_TEXT)
_POSITIONS, _ENERGY, _GRADIENT = "conformations", "dft_total_energy", "dft_total_gradient"
_FORMATION = "formation_energy"


class SpiceFile(RawFile):
    """Read a file in SPICE's layout; a context manager and a collection of :class:`Molecule`.

    Parameters
    ----------
    path : path
        The HDF5 file.
    labels : bool
        Whether energies and gradients are required. With ``False`` a file of SMILES and conformations is
        enough, and missing atomic numbers are taken from the SMILES' map numbers.
    subset_of : callable, optional
        Names the subset of a group that lacks the dataset ``subset``, from (name, number of atoms, SMILES);
        without it such a group is an error.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    DataError
        If the file is not HDF5 or is truncated; later, for a defective group and dataset.
    """

    def __init__(
        self, path: str | os.PathLike[str], labels: bool = True, subset_of: SubsetOf | None = None
    ) -> None:
        super().__init__(path)
        self.labels, self.subset_of = labels, subset_of
        self._dtypes: dict[str, tuple[h5t.TypeID, np.dtype]] = {}
        try:
            self._file = h5py.File(self.path, "r")
        except OSError as e:
            super().close()
            truncated = "truncated" in str(e)
            size = self.path.stat().st_size
            raise DataError(
                self.path,
                "be a complete HDF5 file" if truncated else "be an HDF5 file",
                f"{size} bytes ({e})" if truncated else f"another kind of {size} bytes ({e})",
            ) from None

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        super().close()
        if "_file" in self.__dict__:
            self._file.close()

    def __len__(self) -> int:
        """Return the number of groups, empty ones included."""
        return len(self._file)

    def names(self) -> Iterator[str]:
        """Yield the names of the groups, in the file's order (by name)."""
        yield from self._file

    def __iter__(self) -> Iterator[Molecule]:
        """Yield every molecule in turn, empty groups (``n_frames == 0``) included."""
        for name in self.names():
            yield self[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._file

    def __getitem__(self, name: str) -> Molecule:
        """Return the molecule of group ``name``, its fields checked; ``KeyError`` if there is none."""
        try:
            group = h5g.open(self._file.id, name.encode())
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as e:
            if name not in self._file:
                raise KeyError(f"group must be one of {str(self.path)!r}, got {name!r}") from None
            raise DataError(self.path, "be a group", e, name) from None
        try:
            return self._molecule(name, group)
        except (OSError, RuntimeError) as e:
            raise DataError(self.path, "be readable", e, name) from None

    def read_rows(self, group: str, dataset: str, at: Field, start: int, stop: int) -> Floats:
        """Return rows ``start:stop`` of a located dataset; ``DataError`` if they cannot be read."""
        if at.offset is None:
            try:
                values: Floats = self._file[group][dataset][start:stop]
            except (OSError, RuntimeError, KeyError) as e:
                raise DataError(self.path, "be readable", e, group, dataset) from None
            return values
        dtype, shape = np.dtype(at.dtype), (stop - start, *at.shape[1:])
        row = dtype.itemsize * int(np.prod(at.shape[1:], dtype=np.int64))
        try:
            data = self.read_at(at.offset + start * row, (stop - start) * row)
        except EOFError as e:
            raise DataError(self.path, "be readable", e, group, dataset) from None
        return np.frombuffer(data, dtype).reshape(shape)

    def read_optional(self, group: str, dataset: str) -> NDArray[np.generic] | None:
        """Return the whole of a dataset as stored, or ``None`` where the group has none."""
        try:
            found = self._file[group].get(dataset)
            return None if found is None else np.asarray(found[()])
        except (OSError, RuntimeError, TypeError) as e:
            raise DataError(self.path, "be readable", e, group, dataset) from None

    def _find(self, name: str, group: h5g.GroupID, key: str) -> h5d.DatasetID | None:
        """Return dataset ``key`` of an open group; ``None`` where there is none."""
        try:
            return h5d.open(group, key.encode())
        except (KeyError, TypeError, ValueError, OSError, RuntimeError) as e:
            if key.encode() not in group:
                return None
            raise DataError(self.path, "be a dataset", e, name, key) from None

    def _dataset(self, name: str, group: h5g.GroupID, key: str) -> h5d.DatasetID:
        dataset = self._find(name, group, key)
        if dataset is None:
            raise DataError(self.path, "be in the file", "nothing", name, key)
        return dataset

    def _dtype(self, key: str, dataset: h5d.DatasetID) -> np.dtype:
        """Return the dtype of a dataset; cached by name, as long as the HDF5 types are equal."""
        kind = dataset.get_type()
        known = self._dtypes.get(key)
        if known is None or known[0] != kind:
            self._dtypes[key] = known = (kind, dataset.dtype)
        return known[1]

    def _text(self, name: str, key: str, dataset: h5d.DatasetID) -> str:
        kind, shape = dataset.get_type(), dataset.shape
        if shape != (1,) or not isinstance(kind, h5t.TypeStringID):
            raise DataError(self.path, "be one string, shape (1,)", f"{dataset.dtype} {shape}", name, key)
        variable = kind.is_variable_str()
        out: NDArray[Any] = np.empty(1, _TEXT if variable else dataset.dtype)
        dataset.read(h5s.ALL, h5s.ALL, out, _TEXT_ID if variable else None)
        try:
            return str(out[0].decode() if isinstance(out[0], bytes) else out[0])
        except UnicodeDecodeError as e:
            raise DataError(self.path, "be UTF-8 text", e, name, key) from None

    def _numbers(self, name: str, group: h5g.GroupID, smiles: str) -> NDArray[np.int64]:
        key = "atomic_numbers"
        dataset = self._find(name, group, key)
        if dataset is None and not self.labels:
            try:
                mapped = charges.mapped_numbers(smiles)
            except ValueError as e:
                raise DataError(self.path, "be a valid SMILES", e, name, "smiles") from None
            if mapped is None:
                raise DataError(self.path, "be in the file, or the SMILES be mapped", repr(smiles), name, key)
            return np.array(mapped, np.int64)
        if dataset is None:
            raise DataError(self.path, "be in the file", "nothing", name, key)
        shape, dtype = dataset.shape, self._dtype(key, dataset)
        if len(shape) != 1 or dtype.kind not in "iu" or shape[0] == 0:
            raise DataError(self.path, "be integers of shape (N,)", f"{dtype} {shape}", name, key)
        at = Field(shape, dtype.str, dataset.get_offset(), "", 1.0)
        numbers = self.read_rows(name, key, at, 0, shape[0]).astype(np.int64)
        if numbers.min() < 1 or numbers.max() > 103:
            raise DataError(self.path, "be from 1 to 103", numbers.tolist(), name, key)
        return numbers

    def _unit(self, dataset: h5d.DatasetID) -> object:
        """Return the attribute ``units``, usually text; ``None`` where there is none."""
        try:
            attribute = h5a.open(dataset, b"units")
        except KeyError:
            return None
        kind = attribute.get_type()
        variable = isinstance(kind, h5t.TypeStringID) and kind.is_variable_str()
        value = np.empty(attribute.shape, _TEXT if variable else attribute.dtype)
        attribute.read(value, _TEXT_ID if variable else None)
        unit = value.reshape(-1)[0] if value.size == 1 else value
        return unit.decode() if isinstance(unit, bytes) else unit

    def _field(
        self,
        name: str,
        key: str,
        dataset: h5d.DatasetID,
        shape: tuple[int, ...],
        wanted: tuple[int, ...],
        units: dict[str, float],
    ) -> Field:
        dtype = self._dtype(key, dataset)
        empty = wanted[0] == 0 and shape == (0,)
        if (shape != wanted and not empty) or dtype.kind != "f":
            raise DataError(self.path, f"be floats of shape {wanted}", f"{dtype} {shape}", name, key)
        unit = self._unit(dataset)
        if not isinstance(unit, str) or unit not in units:
            received = "none" if unit is None else repr(unit)
            raise DataError(
                self.path, f"have the attribute 'units', one of {sorted(units)}", received, name, key
            )
        return Field(shape, dtype.str, dataset.get_offset(), unit, units[unit])

    def _molecule(self, name: str, group: h5g.GroupID) -> Molecule:
        smiles = self._text(name, "smiles", self._dataset(name, group, "smiles"))
        numbers = self._numbers(name, group, smiles)
        subset = self._subset(name, group, smiles, len(numbers))
        dataset = self._dataset(name, group, _POSITIONS)
        shape = dataset.shape
        frames = shape[0] if shape else 0
        cube, row = (frames, len(numbers), 3), (frames,)
        fields = {_POSITIONS: self._field(name, _POSITIONS, dataset, shape, cube, LENGTH)}
        for key, wanted, units, required in (
            (_ENERGY, row, ENERGY, self.labels),
            (_GRADIENT, cube, GRADIENT, self.labels),
            (_FORMATION, row, ENERGY, False),
        ):
            dataset = (self._dataset if required else self._find)(name, group, key)
            if dataset is not None:
                fields[key] = self._field(name, key, dataset, dataset.shape, wanted, units)
        return Molecule(self, name, subset, smiles, numbers, frames, fields)

    def _subset(self, name: str, group: h5g.GroupID, smiles: str, n_atoms: int) -> str:
        dataset = self._find(name, group, "subset")
        if dataset is not None:
            return self._text(name, "subset", dataset)
        if self.subset_of is not None:
            return self.subset_of(name, n_atoms, smiles)
        if self.labels:
            raise DataError(self.path, "be in the file", "nothing", name, "subset")
        return ""


def open(path: str | os.PathLike[str], labels: bool = True) -> SpiceFile:
    """Open a file in SPICE's layout for reading: ``SpiceFile(path, labels)``.

    Examples
    --------
    >>> from spice_data import example_path
    >>> with open(example_path()) as file:
    ...     ethane = file["cc"]
    ...     ethane.smiles[:8], ethane.positions().shape
    ('[C:1]([C', (10, 8, 3))
    """
    return SpiceFile(path, labels)
