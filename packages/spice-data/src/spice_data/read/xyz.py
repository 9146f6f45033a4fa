"""Extended XYZ: frames read by ASE one at a time, and written with every digit."""

from __future__ import annotations

import io
import itertools
import lzma
import os
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sized
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from spice_data.elements import SYMBOLS
from spice_data.errors import DataError
from spice_data.files import check_target, replacing
from spice_data.records import Frame

if TYPE_CHECKING:
    from ase import Atoms

_TEXT = re.compile(
    r'(?:^|(?<=\s))(name|subset|smiles|config_type)\s*=\s*(?:"((?:\\.|[^"\\])*)"|([^\s"\'{]\S*))'
)
_QUOTED = re.compile(r'"(?:\\.|[^"\\])*"')
_VOIGT = re.compile(r'(?:^|(?<=\s))((?:stress|virial)\s*=\s*)(["\'{\[])([^"\'}\]]*)')


def slice_of(index: str) -> slice:
    """Return the slice that ``start:stop:step`` stands for; ``ValueError`` for anything else."""
    try:
        parts = [int(p) if p.strip() else None for p in index.split(":")]
    except ValueError:
        parts = []
    if not 2 <= len(parts) <= 3 or any(p is not None and p < 0 for p in parts) or parts[2:] == [0]:
        raise ValueError(f"index must be a slice start:stop:step without negative numbers, got {index!r}")
    return slice(*parts)


class Text(NamedTuple):
    """Number of a frame, its first line and its lines, and the bytes of the file read by then."""

    frame: int
    line: int
    lines: str
    position: int

    @property
    def where(self) -> str:
        """Place in the file, for messages."""
        return f"frame {self.frame} (line {self.line})"


def _texts(path: Path) -> Iterator[Text]:
    """Yield the lines of each frame; blank lines between frames are passed over."""
    from ase.io.formats import open_with_compression

    with open_with_compression(str(path), "r") as file:
        line, pending = 0, ""
        for index in itertools.count():
            first, pending = pending or file.readline(), ""
            line += 1
            while first and not first.strip():
                first, line = file.readline(), line + 1
            if not first:
                return
            where = f"frame {index} (line {line})"
            try:
                n = int(first)
            except ValueError:
                raise DataError(path, "begin with a number of atoms", repr(first.strip()), at=where) from None
            if n < 1:
                raise DataError(path, "have at least one atom", n, at=where)
            lines = [first, *itertools.islice(file, n + 1)]
            rows = sum(1 for row in lines[2:] if row.strip())
            if rows < n:
                raise DataError(path, f"have {n} atoms", f"{rows} lines of atoms", at=where)
            while (pending := file.readline()).lstrip().startswith("VEC"):  # a cell vector
                lines.append(pending)
            yield Text(index, line, "".join(lines), os.lseek(file.fileno(), 0, os.SEEK_CUR))
            line += len(lines) - 1


def _nine(match: re.Match[str]) -> str:
    """Write a stress or virial of 6 numbers (Voigt) as 9, which ASE requires."""
    words = match[3].split()
    words = [words[k] for k in (0, 5, 4, 5, 1, 3, 4, 3, 2)] if len(words) == 6 else words
    return f"{match[1]}{match[2]}{' '.join(words)}"


def _comment(line: str) -> dict[str, Any]:
    """Parse a comment line as ASE does, but keep names as written: ASE makes "007" a number and "[H]" an array."""
    from ase.io.extxyz import key_val_str_to_dict

    info: dict[str, Any] = key_val_str_to_dict(_VOIGT.sub(_nine, line))
    for match in _TEXT.finditer(line):
        quoted = [m for m in _QUOTED.finditer(line) if m.start() < match.start() < m.end()]
        if not quoted:
            info[match[1]] = match[3] if match[2] is None else re.sub(r'\\(["\\])', r"\1", match[2])
    return info


def texts(path: Path, index: str) -> Iterator[Text]:
    """Yield the frames of a slice as text; ``DataError`` for a damaged archive or text that is not UTF-8."""
    wanted = slice_of(index)
    try:
        yield from itertools.islice(_texts(path), wanted.start, wanted.stop, wanted.step)
    except (EOFError, UnicodeDecodeError, zlib.error, lzma.LZMAError) as e:
        raise DataError(path, "be readable", f"{type(e).__name__}: {e}") from None


def parse(path: Path, text: Text) -> Atoms:
    """Return the Atoms of one frame; ``DataError`` if ASE cannot read it."""
    from ase.io.extxyz import read_xyz

    try:
        atoms: Atoms = next(read_xyz(io.StringIO(text.lines), 0, _comment))
        return atoms
    except Exception as e:  # ASE raises anything, KeyError for an unknown element for instance
        received = f"{type(e).__name__}: {e}"
        raise DataError(path, "be readable by ASE", received, at=text.where) from None


def write_xyz(
    path: str | os.PathLike[str],
    frames: Iterable[Frame],
    *,
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write ``frames`` as extended XYZ, atomically and with every digit (ASE writes eight); return their number.

    Parameters
    ----------
    path : path
        The file to write.
    frames : iterable of Frame
        A store, or any frames.
    overwrite : bool
        Replace an existing file.
    progress : callable, optional
        Called with (frames done, frames); a total of 0 is unknown.

    Raises
    ------
    FileExistsError
        If ``path`` exists and ``overwrite`` is not set, or is the store that the frames are read from.
    """
    path, source, count = Path(path), getattr(frames, "path", None), 0
    total = len(frames) if isinstance(frames, Sized) else 0
    check_target(path, overwrite, source)
    with replacing(path) as file:
        for frame in frames:
            file.write(format_frame(frame))
            count += 1
            if progress:
                progress(count, total)
        check_target(path, overwrite, source)
    return count


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def format_frame(frame: Frame) -> str:
    """Return the lines of one frame; floats in their shortest exact form, absent labels left out."""
    with_forces = not np.isnan(frame.forces).any()
    pairs = ["Properties=species:S:1:pos:R:3" + (":forces:R:3" if with_forces else "")]
    if frame.cell.any():
        pairs.append(f'Lattice="{" ".join(map(repr, frame.cell.ravel().tolist()))}"')
    for key, value, absent in (
        ("energy", frame.energy, np.nan),
        ("formation_energy", frame.formation_energy, np.nan),
        ("config_weight", frame.weight, 1.0),
    ):
        if value != absent and not np.isnan(value):
            pairs.append(f"{key}={value!r}")
    if not np.isnan(frame.stress).any():
        pairs.append(f'stress="{" ".join(map(repr, frame.stress.ravel().tolist()))}"')
    pairs += [
        f"subset={_quoted(frame.subset)}",
        f"name={_quoted(frame.name)}",
        f"source_frame={frame.source_frame}",
    ]
    if frame.smiles:
        pairs.append(f"smiles={_quoted(frame.smiles)}")
    pairs += [f"charge={frame.charge}", f'pbc="{" ".join("FT"[int(p)] for p in frame.pbc)}"']
    lines = [str(len(frame.numbers)), " ".join(pairs)]
    columns = np.hstack([frame.positions, frame.forces]) if with_forces else frame.positions
    for z, row in zip(frame.numbers.tolist(), columns.tolist(), strict=True):
        lines.append(f"{SYMBOLS[z]} {' '.join(map(repr, row))}")
    return "\n".join(lines) + "\n"
