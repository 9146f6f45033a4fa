"""Extended XYZ and ASE: frames in, frames out, in Å, eV and eV/Å."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from spice_data.atomic import check_target, replacing
from spice_data.elements import NUMBERS, SYMBOLS
from spice_data.errors import DataError
from spice_data.records import Frame
from spice_data.store import Store

if TYPE_CHECKING:
    from ase import Atoms

_PAIR = re.compile(r'([A-Za-z_][\w-]*)\s*=\s*(?:"((?:\\.|[^"\\])*)"|(\S+))|([A-Za-z_][\w-]*)(?=\s|$)')
SUFFIXES = (".xyz", ".extxyz")
ENERGY_KEYS = ("energy", "REF_energy", "dft_energy", "Energy")
FORCE_KEYS = ("forces", "force", "REF_forces", "dft_forces", "Forces")


class XyzFrame(NamedTuple):
    """One frame of an extended XYZ file: atoms, labels, and the other keys of its comment line."""

    numbers: NDArray[np.int64]
    positions: NDArray[np.float64]
    energy: float
    forces: NDArray[np.float64]
    info: dict[str, str]


def _comment(line: str) -> dict[str, str]:
    return {m[1] or m[4]: m[3] or "T" if m[2] is None else _unquoted(m[2]) for m in _PAIR.finditer(line)}


def _unquoted(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _columns(properties: str) -> dict[str, tuple[int, int]]:
    words = properties.split(":")
    columns, at = {}, 0
    for name, count in zip(words[0::3], words[2::3], strict=True):
        columns[name] = (at, at + int(count))
        at += int(count)
    return columns


def _pick(keys: Iterable[str], among: Iterable[str]) -> str | None:
    present = set(among)
    return next((k for k in keys if k in present), None)


def read_xyz(path: str | os.PathLike[str]) -> Iterator[XyzFrame]:
    """The frames of an extended XYZ file, one at a time.

    Energies (eV) are taken from the comment's key ``energy``, ``REF_energy`` or ``dft_energy``, forces (eV/Å)
    from the column ``forces``, ``force``, ``REF_forces`` or ``dft_forces``.

    Raises
    ------
    DataError
        Naming file and frame: for a truncated frame, one without atoms, a missing label, or a periodic cell
        (a store holds molecules).
    """
    with Path(path).open(encoding="utf-8") as file:
        index = 0
        while line := file.readline():
            if line.strip():
                yield _frame(file, line, path, f"frame {index}")
                index += 1


def _frame(file: IO[str], first: str, path: str | os.PathLike[str], where: str) -> XyzFrame:
    try:
        n = int(first)
    except ValueError:
        raise DataError(path, "a number of atoms", repr(first.strip()), where) from None
    if n < 1:
        raise DataError(path, "at least one atom", str(n), where)
    info = _comment(file.readline())
    if "Lattice" in info and any(word[0] in "Tt1" for word in info.get("pbc", "T").split()):
        raise DataError(path, "molecules without periodic boundaries", f"a cell {info['Lattice']!r}", where)
    try:
        columns = _columns(info.get("Properties", "species:S:1:pos:R:3"))
    except ValueError:
        raise DataError(
            path, "Properties of triples name:kind:count", repr(info["Properties"]), where
        ) from None
    rows = [file.readline().split() for _ in range(n)]
    width = max((stop for _, stop in columns.values()), default=0)
    for i, row in enumerate(rows):
        if len(row) < width:
            raise DataError(path, f"{n} atoms of {width} columns", f"{' '.join(row)!r} as atom {i}", where)
    energy_key, force_key = _pick(ENERGY_KEYS, info), _pick(FORCE_KEYS, columns)
    for what, key, names in (("energy", energy_key, ENERGY_KEYS), ("forces", force_key, FORCE_KEYS)):
        if key is None:
            raise DataError(path, f"one of {names}", f"{sorted([*info, *columns])}", where, what)
    table = {name: [row[a:b] for row in rows] for name, (a, b) in columns.items()}
    try:
        species = [row[0] for row in table["species"]]
        unknown = [s for s in species if s not in NUMBERS]
        if unknown:
            raise DataError(path, "element symbols", repr(unknown[0]), where, "species")
        positions = np.array(table["pos"], np.float64).reshape(n, 3)
        forces = np.array(table[force_key or ""], np.float64).reshape(n, 3)
        energy = float(info[energy_key or ""])
    except KeyError as e:
        raise DataError(path, "columns species and pos", str(list(columns)), where, str(e)) from None
    except DataError:
        raise
    except ValueError as e:
        raise DataError(path, "numbers", str(e), where) from None
    for what, values in (("pos", positions), ("forces", forces), ("energy", np.array(energy))):
        if not np.isfinite(values).all():
            raise DataError(path, "finite values", "NaN or infinity", where, what)
    return XyzFrame(np.array([NUMBERS[s] for s in species], np.int64), positions, energy, forces, info)


def write_xyz(path: str | os.PathLike[str], frames: Iterable[Frame], *, overwrite: bool = False) -> int:
    """Write ``frames`` as extended XYZ, every digit kept; the number written.

    The file appears under its name only when whole.

    Parameters
    ----------
    path : path
        The file to write.
    frames : iterable of Frame
        A store, or any frames.
    overwrite : bool
        Replace an existing file.

    Raises
    ------
    FileExistsError
        When ``path`` exists and ``overwrite`` is not set, or is the store that the frames are read from.
    """
    path, source, count = Path(path), frames.path if isinstance(frames, Store) else None, 0
    check_target(path, overwrite, source)
    with replacing(path) as file:
        for frame in frames:
            file.write(format_frame(frame))
            count += 1
        check_target(path, overwrite, source)
    return count


def format_frame(frame: Frame) -> str:
    """One frame as the lines of an extended XYZ file; floats in their shortest exact form."""
    formation = "" if np.isnan(frame.formation_energy) else f"formation_energy={frame.formation_energy!r} "
    smiles = f"smiles={_quoted(frame.smiles)} " if frame.smiles else ""
    lines = [
        str(len(frame.numbers)),
        f"Properties=species:S:1:pos:R:3:forces:R:3 energy={frame.energy!r} {formation}"
        f"subset={_quoted(frame.subset)} name={_quoted(frame.name)} source_frame={frame.source_frame} "
        f'{smiles}charge={frame.charge} pbc="F F F"',
    ]
    for z, x, f in zip(frame.numbers.tolist(), frame.positions.tolist(), frame.forces.tolist(), strict=True):
        lines.append(f"{SYMBOLS[z]} {x[0]!r} {x[1]!r} {x[2]!r} {f[0]!r} {f[1]!r} {f[2]!r}")
    return "\n".join(lines) + "\n"


def to_ase(frame: Frame) -> Atoms:
    """An ASE ``Atoms`` with energy and forces in a single-point calculator (extra ``spice-data[ase]``)."""
    from ase import Atoms
    from ase.calculators.singlepoint import SinglePointCalculator

    atoms = Atoms(numbers=frame.numbers, positions=frame.positions)
    atoms.info.update(subset=frame.subset, name=frame.name, formation_energy=frame.formation_energy)
    atoms.info.update(smiles=frame.smiles, charge=frame.charge, source_frame=frame.source_frame)
    atoms.calc = SinglePointCalculator(atoms, energy=frame.energy, forces=frame.forces)
    return atoms


def from_ase(atoms: Atoms) -> Frame:
    """The frame of an ASE ``Atoms`` that carries energy and forces; ``ValueError`` for a periodic one."""
    if atoms.pbc.any():
        raise ValueError(f"atoms: required no periodic boundaries, got pbc={atoms.pbc.tolist()}")
    return Frame(
        np.asarray(atoms.positions, np.float64).copy(),
        np.asarray(atoms.numbers, np.int64).copy(),
        float(atoms.get_potential_energy()),
        np.asarray(atoms.get_forces(), np.float64).copy(),
        float(atoms.info.get("formation_energy", np.nan)),
        str(atoms.info.get("subset", "")),
        str(atoms.info.get("name", atoms.get_chemical_formula())),
        0,
        int(atoms.info.get("source_frame", 0)),
        str(atoms.info.get("smiles", "")),
        int(atoms.info.get("charge", 0)),
    )
