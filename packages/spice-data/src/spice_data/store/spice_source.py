"""Frames of a SPICE file, or of a selection from one, as blocks for a store."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import numpy as np

from spice_data.errors import DataError
from spice_data.read.molecule import Molecule
from spice_data.read.spice import SpiceFile
from spice_data.records import Block
from spice_data.selection._select import Runs, Selection
from spice_data.store.layout import Units
from spice_data.store.statistics import Statistics

BLOCK_BYTES = 16 << 20


class SpiceSource:
    """Yield the frames of a SPICE file in its own units, molecule after molecule, in one pass.

    Parameters
    ----------
    file : SpiceFile
        Open for reading.
    selection : Selection, optional
        Frames to take; by default every frame.

    Attributes
    ----------
    done, total : int
        Groups read, of all.

    Raises
    ------
    ValueError
        If the file was opened without energies and gradients.
    DataError
        If the selection was made from a file of another size, has no frame, or the groups disagree about units.
    """

    def __init__(self, file: SpiceFile, selection: Selection | None = None) -> None:
        if not file.labels:
            raise ValueError("file must be opened with energies and gradients, got labels=False")
        self.file, self.selection, self.path = file, selection, file.path
        stat = file.path.stat()
        if selection is not None and selection.size != stat.st_size:
            required = f"have the {selection.size} bytes that the selection was made from"
            raise DataError(file.path, required, f"{stat.st_size} bytes")
        self.identity = f"{file.path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
        if selection is not None:
            self.identity += hashlib.sha256(repr(list(selection.kept.items())).encode()).hexdigest()
        self.size = stat.st_size
        self.done, self.total = 0, len(file if selection is None else selection.kept)
        self.empty = 0 if selection is None else len(selection.empty)
        first = next(self._walk(), None)
        if first is None:
            raise DataError(file.path, "have at least one frame to convert", "none")
        self.units = _units(first[0])

    @property
    def provenance(self) -> dict[str, object]:
        """File, its size, groups without frames, and the frames that each filter removed."""
        removed = [r._asdict() for r in self.selection.removed] if self.selection else []
        return {"file": self.path.name, "bytes": self.size, "empty_groups": self.empty, "removed": removed}

    def _walk(self) -> Iterator[tuple[Molecule, Runs]]:
        """Yield the molecules with frames, and the frames taken; count the others."""
        if self.selection is not None:
            for name, runs in self.selection.kept.items():
                molecule = self.file[name]
                if runs[-1][1] > molecule.n_frames:
                    received = f"{molecule.n_frames} frames"
                    raise DataError(self.path, f"have frame {runs[-1][1] - 1}", received, name)
                yield molecule, runs
            return
        self.empty = 0
        for molecule in self.file:
            if molecule.n_frames:
                yield molecule, ((0, molecule.n_frames),)
            else:
                self.empty += 1

    def _check(self, molecule: Molecule) -> None:
        """Raise ``DataError`` if the units or dtypes of a molecule are not those of the first one."""
        expected, fields = self.units, molecule.fields
        for key, unit in (
            ("conformations", expected.length),
            ("dft_total_energy", expected.energy),
            ("dft_total_gradient", expected.force),
            ("formation_energy", expected.energy),
        ):
            if key in fields and fields[key].unit != unit:
                required = f"have the other groups' units {unit!r}"
                raise DataError(self.path, required, repr(fields[key].unit), molecule.name, key)
        for key in ("conformations", "dft_total_gradient"):
            if np.dtype(fields[key].dtype).itemsize > np.dtype(expected.dtype).itemsize:
                required, name = f"have the other groups' dtype {expected.dtype}", molecule.name
                raise DataError(self.path, required, fields[key].dtype, name, key)

    def blocks(self, skip: int) -> Iterator[Block]:
        """Yield the frames but the first ``skip``."""
        self.done = 0
        for molecule, runs in self._walk():
            self._check(molecule)
            for start, stop in _ranges(runs, molecule.n_atoms):
                if skip < stop - start:
                    yield self._block(molecule, start + skip, stop)
                skip = max(0, skip - (stop - start))
            self.done += 1

    def check(self, statistics: Statistics) -> None:
        """Pass: every frame of a SPICE file has its labels."""

    def _block(self, molecule: Molecule, start: int, stop: int) -> Block:
        dtype = self.units.dtype
        formation = np.full(stop - start, np.nan)
        if "formation_energy" in molecule.fields:
            formation = molecule.raw("formation_energy", start, stop).astype(np.float64)
        return Block(
            molecule.name,
            molecule.subset,
            molecule.smiles,
            molecule.charge,
            molecule.numbers,
            molecule.raw("conformations", start, stop).astype(dtype, copy=False),
            -molecule.raw("dft_total_gradient", start, stop).astype(dtype, copy=False),
            molecule.raw("dft_total_energy", start, stop).astype(np.float64),
            formation,
            np.arange(start, stop),
        )


def _units(molecule: Molecule) -> Units:
    x, e, g = (molecule.fields[k] for k in ("conformations", "dft_total_energy", "dft_total_gradient"))
    size = max(4, np.dtype(x.dtype).itemsize, np.dtype(g.dtype).itemsize)
    return Units(x.unit, e.unit, g.unit, f"f{size}")


def _ranges(runs: Runs, n_atoms: int) -> Iterator[tuple[int, int]]:
    """Yield ``runs`` of frames in ranges of bounded size in memory."""
    step = max(1, BLOCK_BYTES // (24 * n_atoms))
    for start, stop in runs:
        for a in range(start, stop, step):
            yield a, min(a + step, stop)
