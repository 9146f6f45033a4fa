"""Extended XYZ files frame by frame through ASE's reader."""

from __future__ import annotations

import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ase import Atoms
from ase.io.extxyz import key_val_str_to_dict, read_xyz

from mlip_train.data.frame import DataError

VOIGT = (0, 5, 4, 5, 1, 3, 4, 3, 2)
"""Component of xx, yy, zz, yz, xz, xy at each place of a 3 by 3 matrix."""
SIX = re.compile(r"""(?<!\S)(stress|virial)=(["'\[{])\s*([^"'\]}]*?)\s*(["'\]}])""")


def read_frames(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file, reading it to its very end.

    ASE's own loop over frames takes a blank line for the end of the file; here blank lines between frames are skipped.

    Raises
    ------
    DataError
        For a file that ends inside a frame, or text that is no frame, naming the line.
    """
    with path.open() as file:
        lines = enumerate(file, 1)
        pending: list[tuple[int, str]] = []
        for frame in itertools.count():
            start, text = next((pair for pair in itertools.chain(pending, lines) if pair[1].strip()), (0, ""))
            pending = []
            if not text:
                return
            atoms = _count(path, start, text, frame)
            chunk = [text, *(line for _, line in itertools.islice(lines, atoms + 1))]
            if len(chunk) < atoms + 2:
                raise DataError(
                    f"{path}, frame {frame} (line {start}): must have {atoms} atoms and a comment line, got the end of "
                    f"the file after {len(chunk) - 1} lines"
                )
            for number, line in lines:
                if not line.lstrip().startswith("VEC"):
                    pending = [(number, line)]
                    break
                chunk.append(line)
            try:
                yield next(read_xyz(io.StringIO("".join(chunk)), 0, properties_parser=_comment))
            except Exception as e:
                raise DataError(
                    f"{path}, frame {frame} (line {start}): must be readable by ASE, got {type(e).__name__}: {e}"
                ) from None


def _count(path: Path, line: int, text: str, frame: int) -> int:
    try:
        return int(text)
    except ValueError:
        raise DataError(
            f"{path}, frame {frame} (line {line}): must be readable by ASE and begin with the number of its atoms, "
            f"got {text.strip()!r}"
        ) from None


def _comment(line: str) -> dict[str, Any]:
    """Parse a comment line; stress and virial may have six components there, which ASE refuses under these names."""
    parse: Any = key_val_str_to_dict  # untyped
    values: dict[str, Any] = parse(SIX.sub(_nine, line))
    return values


def _nine(match: re.Match[str]) -> str:
    key, left, text, right = match.groups()
    six = text.replace(",", " ").split()
    return f"{key}={left}{' '.join(six[k] for k in VOIGT)}{right}" if len(six) == 6 else match.group()
