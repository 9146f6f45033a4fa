"""What a store is made from: something that walks its molecules twice, for their sizes and their frames."""

from __future__ import annotations

import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.hdf5 import SpiceFile
from spice_data.molecule import Field, Molecule
from spice_data.select import Runs, Selection

BLOCK_BYTES = 16 << 20


class Units(NamedTuple):
    """Names of the units (``spice_data.units``) and the dtype in which a source hands out its numbers."""

    length: str
    energy: str
    force: str
    dtype: np.dtype


class Block(NamedTuple):
    """Some frames of one molecule, in the source's units.

    Attributes
    ----------
    name, subset, smiles : str
        Of the molecule.
    charge : int
        Its total charge.
    numbers : (N,) int64
        Atomic numbers.
    frames : (M,) int64
        Index of each frame in the source's molecule.
    positions, forces : (M, N, 3)
        Forces are minus the gradient.
    energies, formation_energies : (M,) float64
        The latter NaN where the source has none.
    first, last : bool
        Whether this is the molecule's first and last block.
    """

    name: str
    subset: str
    smiles: str
    charge: int
    numbers: NDArray[np.int64]
    frames: NDArray[np.int64]
    positions: NDArray[np.floating]
    energies: NDArray[np.float64]
    formation_energies: NDArray[np.float64]
    forces: NDArray[np.floating]
    first: bool
    last: bool


class Size(NamedTuple):
    """What a molecule will take in a store."""

    name: str
    subset: str
    smiles: str
    n_atoms: int
    n_frames: int


class Source(Protocol):
    """A dataset that can be converted to a store."""

    @property
    def path(self) -> Path:
        """The file it is read from."""
        ...

    @property
    def identity(self) -> str:
        """Text that changes when the data would: a conversion is resumed only from an equal identity."""
        ...

    @property
    def provenance(self) -> dict[str, object]:
        """Plain data that says where the frames come from."""
        ...

    @property
    def units(self) -> Units:
        """Units and dtype of the blocks; known after :meth:`sizes` has been walked."""
        ...

    def sizes(self) -> Iterator[Size]:
        """The molecules' sizes, in order; molecules without frames are not listed."""
        ...

    def blocks(self, skip: int) -> Iterator[Block]:
        """The frames, molecule after molecule in the same order, without the first ``skip`` molecules.

        Called after :meth:`sizes` has been walked.
        """
        ...

    def close(self) -> None:
        """Release what walking has claimed; not the file the source was given."""
        ...


def frame_ranges(runs: Runs, n_atoms: int, itemsize: int) -> Iterator[tuple[int, int]]:
    """``runs`` of frames cut into ranges of bounded size in memory."""
    step = max(1, BLOCK_BYTES // (6 * itemsize * n_atoms))
    for start, stop in runs:
        for a in range(start, stop, step):
            yield a, min(a + step, stop)


class SpiceSource:
    """Frames of a SPICE file: all of them, or those of a selection.

    Parameters
    ----------
    file : SpiceFile
        Open for reading.
    selection : Selection, optional
        What to take; by default every frame.

    Raises
    ------
    ValueError
        When the file was opened without energies and gradients.
    DataError
        When the selection was made from a file of another size, or the groups disagree about units.
    """

    def __init__(self, file: SpiceFile, selection: Selection | None = None) -> None:
        if not file.labels:
            raise ValueError("file: required one opened with energies and gradients, got labels=False")
        self.file, self.selection = file, selection
        self.size = file.path.stat().st_size
        if selection is not None and selection.size != self.size:
            raise DataError(
                file.path,
                f"the {selection.size} bytes that the selection was made from",
                f"{self.size} bytes",
            )
        self.empty: list[str] = []
        self._units: Units | None = None
        self._plan: IO[str] | None = None

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.file.path

    @property
    def identity(self) -> str:
        """Path, size, time of change, and the selection."""
        stat = self.file.path.stat()
        text = f"{self.file.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if self.selection is not None:
            text += hashlib.sha256(repr(list(self.selection.kept.items())).encode()).hexdigest()
        return text

    @property
    def provenance(self) -> dict[str, object]:
        """File, its size, groups without frames, and what each filter removed."""
        removed = [r._asdict() for r in self.selection.removed] if self.selection else []
        empty = len(self.selection.empty) if self.selection else len(self.empty)
        return {"file": self.file.path.name, "bytes": self.size, "empty_groups": empty, "removed": removed}

    @property
    def units(self) -> Units:
        """Units of the first group, which all the others share."""
        return self._units or Units("bohr", "hartree", "hartree/bohr", np.dtype("f4"))

    def _walk(self) -> Iterator[tuple[Molecule, Runs]]:
        """Every molecule with frames, and which of them are taken; ``empty`` lists those without."""
        self.empty = []
        wanted = None if self.selection is None else self.selection.kept
        for name in self.file.names() if wanted is None else wanted:
            molecule = self.file[name]
            if molecule.n_frames == 0:
                self.empty.append(name)
                continue
            runs = ((0, molecule.n_frames),) if wanted is None else wanted[name]
            if runs[-1][1] > molecule.n_frames:
                raise DataError(
                    self.file.path, f"frame {runs[-1][1] - 1}", f"{molecule.n_frames} frames", name
                )
            yield molecule, runs

    def _check(self, molecule: Molecule) -> None:
        x, e, g = (molecule.fields[k] for k in ("conformations", "dft_total_energy", "dft_total_gradient"))
        dtype = np.dtype("f4") if np.result_type(x.dtype, g.dtype).itemsize <= 4 else np.dtype("f8")
        units = Units(x.unit, e.unit, g.unit, dtype)
        self._units = self._units or units
        for key, unit, first in (
            ("conformations", x.unit, self._units.length),
            ("dft_total_energy", e.unit, self._units.energy),
            ("dft_total_gradient", g.unit, self._units.force),
            ("formation_energy", self._formation(molecule, e.unit), self._units.energy),
        ):
            if unit != first:
                raise DataError(
                    self.file.path, f"the other groups' units {first!r}", repr(unit), molecule.name, key
                )
        if dtype.itemsize > self._units.dtype.itemsize:
            received = f"{x.dtype} and {g.dtype}"
            raise DataError(
                self.file.path, "the other groups' dtype", received, molecule.name, "conformations"
            )

    @staticmethod
    def _formation(molecule: Molecule, otherwise: str) -> str:
        return (
            molecule.fields["formation_energy"].unit if "formation_energy" in molecule.fields else otherwise
        )

    def sizes(self) -> Iterator[Size]:
        """Sizes of the molecules that have frames; ``empty`` lists the others afterwards.

        What the walk finds, charges and where each dataset lies, goes to a temporary file that ``blocks`` reads from:
        the HDF5 structure is walked once, in memory that does not grow.
        """
        self._plan = tempfile.TemporaryFile("w+", encoding="utf-8")
        for molecule, runs in self._walk():
            self._check(molecule)
            m = molecule
            row = (m.name, m.subset, m.smiles, m.charge, m.numbers.tolist(), m.n_frames, runs, m.fields)
            self._plan.write(json.dumps(row) + "\n")
            yield Size(m.name, m.subset, m.smiles, m.n_atoms, sum(b - a for a, b in runs))

    def _planned(self, skip: int) -> Iterator[tuple[Molecule, int, Runs]]:
        if self._plan is None:
            raise RuntimeError("sizes() has to be walked before blocks()")
        self._plan.seek(0)
        for line in itertools.islice(self._plan, skip, None):
            name, subset, smiles, charge, numbers, frames, runs, fields = json.loads(line)
            located = {k: Field(tuple(f[0]), *f[1:]) for k, f in fields.items()}
            molecule = Molecule(self.file, name, subset, smiles, np.array(numbers, np.int64), frames, located)
            yield molecule, charge, tuple((a, b) for a, b in runs)

    def blocks(self, skip: int) -> Iterator[Block]:
        """The frames, in native units."""
        dtype = self.units.dtype
        for molecule, charge, runs in self._planned(skip):
            ranges = list(frame_ranges(runs, molecule.n_atoms, dtype.itemsize))
            for i, (start, stop) in enumerate(ranges):
                formation = np.full(stop - start, np.nan)
                if "formation_energy" in molecule.fields:
                    formation = molecule.raw("formation_energy", start, stop).astype(np.float64)
                yield Block(
                    molecule.name,
                    molecule.subset,
                    molecule.smiles,
                    charge,
                    molecule.numbers,
                    np.arange(start, stop),
                    molecule.raw("conformations", start, stop).astype(dtype, copy=False),
                    molecule.raw("dft_total_energy", start, stop).astype(np.float64),
                    formation,
                    -molecule.raw("dft_total_gradient", start, stop).astype(dtype, copy=False),
                    i == 0,
                    i == len(ranges) - 1,
                )

    def close(self) -> None:
        """Drop the temporary file."""
        if self._plan is not None:
            self._plan.close()
            self._plan = None
