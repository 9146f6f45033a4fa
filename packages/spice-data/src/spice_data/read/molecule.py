"""One molecule of a SPICE file: metadata, and arrays read on request."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.read import charges

Floats = NDArray[np.floating]


class Field(NamedTuple):
    """One numeric dataset, located and checked but not read.

    Attributes
    ----------
    shape : tuple of int
        As stored.
    dtype : str
        As stored, in NumPy's notation.
    offset : int or None
        Byte of the file at which its rows start, when it is contiguous; otherwise HDF5 has to read it.
    unit : str
        Its ``units`` attribute.
    scale : float
        Factor from ``unit`` to Å, eV or eV/Å.
    """

    shape: tuple[int, ...]
    dtype: str
    offset: int | None
    unit: str
    scale: float


class Reader(Protocol):
    """Protocol of the file a molecule is read from: :class:`spice_data.SpiceFile` is one."""

    path: Path

    def read_rows(self, group: str, dataset: str, at: Field, start: int, stop: int) -> Floats:
        """Return rows ``start:stop`` of a located dataset."""
        ...

    def read_optional(self, group: str, dataset: str) -> NDArray[np.generic] | None:
        """Return the whole of a dataset as stored, or ``None`` where the group has none."""
        ...


@dataclass(frozen=True, eq=False)
class Molecule:
    """One group of a SPICE file: a molecule or complex and its conformations, read on request.

    Attributes
    ----------
    file : Reader
        The file it is read from.
    name : str
        Name of the group: a label only. It is neither a SMILES nor unique up to letter case.
    subset : str
        The subset it belongs to; empty when a geometry-only file does not say.
    smiles : str
        SMILES with map numbers, the only source of charges.
    numbers : (N,) int64
        Atomic numbers.
    n_frames : int
        Number of conformations M; 0 for an empty group.
    fields : dict of str to Field
        The numeric datasets, by name.
    """

    file: Reader = field(repr=False)
    name: str
    subset: str
    smiles: str
    numbers: NDArray[np.int64]
    n_frames: int
    fields: dict[str, Field] = field(repr=False)

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @cached_property
    def formal_charges(self) -> tuple[int, ...]:
        """Formal charge of each atom written in the SMILES; ``DataError`` where that cannot be read."""
        try:
            return charges.formal_charges(self.smiles)
        except ValueError as e:
            raise DataError(self.path, "be a valid SMILES", e, self.name, "smiles") from None

    @property
    def charge(self) -> int:
        """Total charge: the sum of the SMILES' formal charges."""
        return sum(self.formal_charges)

    @property
    def n_atoms(self) -> int:
        """Number of atoms N."""
        return len(self.numbers)

    def raw(self, name: str, start: int = 0, stop: int | None = None) -> Floats:
        """Return rows ``start:stop`` of dataset ``name`` as stored: native units and dtype.

        Raises
        ------
        DataError
            If the file has no such dataset, cannot be read there, or has values that are not finite.
        """
        if name not in self.fields:
            raise DataError(self.path, "be in the file", "nothing", self.name, name)
        first, last, _ = slice(start, stop).indices(self.n_frames)
        if self.n_frames == 0:
            shape = (0, self.n_atoms, 3) if name in ("conformations", "dft_total_gradient") else (0,)
            return np.empty(shape, self.fields[name].dtype)
        values = self.file.read_rows(self.name, name, self.fields[name], first, max(first, last))
        if not np.isfinite(values).all():
            frame = first + int(np.argwhere(~np.isfinite(values))[0][0])
            raise DataError(self.path, "be finite", f"NaN or infinity in frame {frame}", self.name, name)
        return values

    def optional(self, name: str) -> NDArray[np.generic] | None:
        """Return the whole of any other dataset of the group, as stored; ``None`` where the file has none.

        SPICE's ``mbis_*`` and ``*_indices`` are missing where their calculation did not converge.
        """
        return self.file.read_optional(self.name, name)

    def _scaled(self, name: str, start: int, stop: int | None) -> NDArray[np.float64]:
        return np.multiply(self.raw(name, start, stop), self.fields[name].scale, dtype=np.float64)

    def positions(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return positions of frames ``start:stop``, (M, N, 3) float64 Å."""
        return self._scaled("conformations", start, stop)

    def energies(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return total energies ``dft_total_energy``, (M,) float64 eV."""
        return self._scaled("dft_total_energy", start, stop)

    def formation_energies(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return energies of formation from isolated atoms, (M,) float64 eV."""
        return self._scaled("formation_energy", start, stop)

    def forces(self, start: int = 0, stop: int | None = None) -> NDArray[np.float64]:
        """Return forces, minus ``dft_total_gradient``, (M, N, 3) float64 eV/Å."""
        return -self._scaled("dft_total_gradient", start, stop)
