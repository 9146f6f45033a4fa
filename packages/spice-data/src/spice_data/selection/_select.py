"""Selection of frames by filters applied in order, with the count that each removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.files import read_json, write_json
from spice_data.read.molecule import Molecule
from spice_data.read.spice import SpiceFile
from spice_data.selection.filters import Filter, Subsets

FORMAT = "spice-data-selection"


class Removed(NamedTuple):
    """Frames that one filter removed, and molecules of which it left none."""

    filter: str
    frames: int
    molecules: int


Runs = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Selection:
    """Frames that passed the filters, and the count of those that did not.

    Attributes
    ----------
    path : Path
        The file selected from.
    size : int
        Its size in bytes, by which another file is recognized.
    groups, frames : int
        Groups and frames in the file.
    empty : tuple of str
        Groups without frames; they are left out.
    removed : tuple of Removed
        One per filter, in the order applied; a frame counts for the first filter that rejects it.
    kept : dict of str to runs
        Ranges ``(start, stop)`` of kept frames of each molecule, in the file's order.
    labels : bool
        Whether the file was opened with energies and gradients.
    """

    path: Path
    size: int
    groups: int
    frames: int
    empty: tuple[str, ...]
    removed: tuple[Removed, ...]
    kept: dict[str, Runs]
    labels: bool = True

    @property
    def n_frames(self) -> int:
        """Number of kept frames."""
        return sum(stop - start for runs in self.kept.values() for start, stop in runs)

    @property
    def n_molecules(self) -> int:
        """Number of molecules with a kept frame."""
        return len(self.kept)

    def table(self) -> str:
        """Return the counts as text, one line per filter."""
        rows = [("in the file", self.frames, self.groups), ("- empty groups", 0, len(self.empty))]
        rows += [(f"- {r.filter}", r.frames, r.molecules) for r in self.removed]
        rows += [("kept", self.n_frames, self.n_molecules)]
        width = max(len(r[0]) for r in rows)
        lines = [f"{'':{width}}  {'frames':>10}  {'molecules':>10}"]
        return "\n".join(lines + [f"{label:{width}}  {f:>10,}  {m:>10,}" for label, f, m in rows])

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the selection as JSON, atomically.

        Raises
        ------
        FileExistsError
            If ``path`` is an existing file other than a selection.
        """
        data = vars(self) | {"path": str(self.path), "removed": [r._asdict() for r in self.removed]}
        write_json(path, FORMAT, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Selection:
        """Read a selection; ``DataError`` if the file is not one or lacks a field."""

        def build(data: dict[str, Any]) -> Selection:
            kept = {name: tuple((int(a), int(b)) for a, b in runs) for name, runs in data["kept"].items()}
            counts = data["size"], data["groups"], data["frames"]
            removed = tuple(Removed(**r) for r in data["removed"])
            return cls(Path(data["path"]), *counts, tuple(data["empty"]), removed, kept, data["labels"])

        return read_json(path, FORMAT, build)


def _runs(mask: NDArray[np.bool_]) -> Runs:
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.astype(np.int8), [0]))))
    return tuple((int(a), int(b)) for a, b in edges.reshape(-1, 2))


def _answer(accept: Filter, molecule: Molecule) -> NDArray[np.bool_]:
    """Return the answer of a filter for a molecule, () or (M,)."""
    answer = np.asarray(accept(molecule))
    if answer.dtype != bool or answer.shape not in ((), (molecule.n_frames,)):
        required = f"True, False or a mask of bools ({molecule.n_frames},)"
        received = f"{answer.dtype} of shape {answer.shape}"
        raise ValueError(
            f"filter {accept.name!r} must return {required}, got {received} for group {molecule.name!r}"
        )
    return answer


def select(
    file: SpiceFile | str | os.PathLike[str],
    *filters: Filter,
    progress: Callable[[int, int], None] | None = None,
) -> Selection:
    """Apply ``filters`` in order to every frame of ``file``, group by group in bounded memory.

    Parameters
    ----------
    file : SpiceFile or path
        The file to select from.
    *filters : Filter
        Those of :mod:`spice_data.selection`, or any callables with a ``name``.
    progress : callable, optional
        Called with (groups done, groups).

    Raises
    ------
    DataError
        For a defective group, or a subset pattern that matches nothing in the file.
    ValueError
        If a filter returns neither ``True``, ``False`` nor a boolean mask of the frames.

    Examples
    --------
    >>> from spice_data import example_path, select
    >>> from spice_data.selection import Elements, Neutral
    >>> selection = select(example_path(), Neutral(), Elements(("H", "C", "N", "O")))
    >>> selection.frames, [(r.filter, r.frames) for r in selection.removed]
    (1022, [('neutral', 102), ('elements H C N O', 90)])
    """
    if not isinstance(file, SpiceFile):
        with SpiceFile(file) as opened:
            return select(opened, *filters, progress=progress)
    frames, empty = 0, []
    lost_frames, lost_molecules = [0] * len(filters), [0] * len(filters)
    kept: dict[str, Runs] = {}
    subsets: set[str] = set()
    total = len(file)
    for done, molecule in enumerate(file, 1):
        subsets.add(molecule.subset)
        frames += molecule.n_frames
        mask = np.ones(molecule.n_frames, bool)
        if molecule.n_frames == 0:
            empty.append(molecule.name)
        for i, accept in enumerate(filters):
            if not mask.any():
                break
            after = mask & _answer(accept, molecule)
            lost_frames[i] += int(mask.sum() - after.sum())
            lost_molecules[i] += not after.any()
            mask = after
        if mask.any():
            kept[molecule.name] = _runs(mask)
        if progress:
            progress(done, total)
    for accept in filters:
        for pattern in accept.patterns if isinstance(accept, Subsets) else ():
            if not any(fnmatchcase(s, pattern) for s in subsets):
                raise DataError(
                    file.path, f"have a subset that matches {pattern!r}", f"only {sorted(subsets)}"
                )
    removed = tuple(Removed(f.name, lost_frames[i], lost_molecules[i]) for i, f in enumerate(filters))
    size = file.path.stat().st_size
    return Selection(file.path, size, total, frames, tuple(empty), removed, kept, file.labels)
