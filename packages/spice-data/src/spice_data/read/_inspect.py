"""Contents and defects of a file in SPICE's layout: every group is checked and counted."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from spice_data.elements import SYMBOLS
from spice_data.errors import DataError
from spice_data.read import charges
from spice_data.read.molecule import Molecule
from spice_data.read.spice import SpiceFile
from spice_data.selection.filters import blocks


@dataclass
class SubsetInfo:
    """Counts of one subset: groups, conformations, sizes of molecules, charged groups, elements."""

    groups: int = 0
    frames: int = 0
    smallest: int = 1 << 30
    largest: int = 0
    charged: int = 0
    elements: set[int] = field(default_factory=set)


@dataclass
class Report:
    """Contents and defects of a file.

    Attributes
    ----------
    groups, frames : int
        Counts.
    subsets : dict of str to SubsetInfo
        By subset.
    empty : list of str
        Groups without conformations.
    without_formation_energy : int
        Groups that lack the optional ``formation_energy``.
    colliding : list of tuple
        Groups of names that are the same up to letter case.
    problems : list of str
        Messages of the defects; each names file, group and dataset.
    """

    groups: int = 0
    frames: int = 0
    subsets: dict[str, SubsetInfo] = field(default_factory=dict)
    empty: list[str] = field(default_factory=list)
    without_formation_energy: int = 0
    colliding: list[tuple[str, ...]] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def add(self, molecule: Molecule, charged: bool) -> None:
        """Count a group without defects."""
        self.frames += molecule.n_frames
        subset = self.subsets.setdefault(molecule.subset, SubsetInfo())
        subset.groups += 1
        subset.frames += molecule.n_frames
        subset.smallest = min(subset.smallest, molecule.n_atoms)
        subset.largest = max(subset.largest, molecule.n_atoms)
        subset.charged += charged
        subset.elements.update(molecule.numbers.tolist())
        self.without_formation_energy += "formation_energy" not in molecule.fields
        if molecule.n_frames == 0:
            self.empty.append(molecule.name)

    def table(self) -> str:
        """Return the report as text."""
        lines = [f"{self.groups:,} groups, {self.frames:,} conformations"]
        width = max([len(s) for s in self.subsets] + [6])
        header = f"{'subset':{width}}  {'groups':>8} {'frames':>10} {'charged':>8}  {'atoms':>7}  elements"
        lines.append(header)
        for name, s in sorted(self.subsets.items()):
            elements = " ".join(SYMBOLS[z] for z in sorted(s.elements))
            atoms = f"{s.smallest}–{s.largest}"
            lines.append(
                f"{name:{width}}  {s.groups:8,} {s.frames:10,} {s.charged:8,}  {atoms:>7}  {elements}"
            )
        lines.append(f"empty groups: {len(self.empty)}" + "".join(f" {n!r}" for n in self.empty[:5]))
        lines.append(f"groups without formation_energy: {self.without_formation_energy}")
        lines.append(f"names that differ only in case: {self.colliding or 'none'}")
        lines += [f"PROBLEM {p}" for p in self.problems]
        return "\n".join(lines)


def _check_values(molecule: Molecule) -> None:
    """Read everything of ``molecule`` once; ``DataError`` where it is not what it should be."""
    for name in molecule.fields:
        for start, stop in blocks(molecule):
            molecule.raw(name, start, stop)
    mapped = charges.mapped_numbers(molecule.smiles)
    if mapped is not None and not np.array_equal(mapped, molecule.numbers):
        raise DataError(
            molecule.path,
            f"have the atoms of the SMILES, {list(mapped)}",
            str(molecule.numbers.tolist()),
            molecule.name,
            "atomic_numbers",
        )


def inspect(
    file: SpiceFile | str | os.PathLike[str],
    *,
    values: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> Report:
    """Check every group of ``file``.

    Parameters
    ----------
    file : SpiceFile or path
        The file to check.
    values : bool
        Also read all values (they must be finite) and compare the atoms with the SMILES.
    progress : callable, optional
        Called with (groups done, groups).

    Returns
    -------
    Report
        Defective groups are listed in ``problems``; the check goes on.

    Examples
    --------
    >>> from spice_data import example_path
    >>> report = inspect(example_path(), values=True)
    >>> report.groups, report.frames, report.problems
    (102, 1022, [])
    """
    if not isinstance(file, SpiceFile):
        with SpiceFile(file) as opened:
            return inspect(opened, values=values, progress=progress)
    report, total = Report(), len(file)
    folded: Counter[str] = Counter()
    for done, name in enumerate(file.names(), 1):
        report.groups += 1
        folded[name.lower()] += 1
        if progress:
            progress(done, total)
        try:
            molecule = file[name]
            charged = molecule.charge != 0
            if values:
                _check_values(molecule)
        except ValueError as e:
            report.problems.append(str(e) if isinstance(e, DataError) else f"group {name!r}: {e}")
            continue
        report.add(molecule, charged)
    twice = {key for key, count in folded.items() if count > 1}
    if twice:
        groups: dict[str, list[str]] = {}
        for name in file.names():
            if name.lower() in twice:
                groups.setdefault(name.lower(), []).append(name)
        report.colliding = [tuple(g) for g in groups.values()]
    return report
