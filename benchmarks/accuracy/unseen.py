"""Frames of one file whose structures are in none of the others, written to a new file.

python -m benchmarks.accuracy.unseen mixed.xyz --not-in train.xyz --output runs/unseen.xyz
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ase.io

DECIMALS = 5
"""Positions and cells, Å, are equal to so many decimals."""


def key(atoms: Any) -> tuple[bytes, ...]:
    """Return what equal structures share: numbers, positions and cell, in the order of the file."""
    places = ((x.round(DECIMALS) + 0.0).tobytes() for x in (atoms.positions, atoms.cell.array))
    return atoms.numbers.tobytes(), *places


def unseen(frames: list[Any], others: list[Any]) -> list[Any]:
    """Return the frames whose structures are not among the others."""
    seen = {key(atoms) for atoms in others}
    return [atoms for atoms in frames if key(atoms) not in seen]


def main() -> None:
    """Read, compare, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("frames", type=Path)
    parser.add_argument("--not-in", type=Path, nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    frames = ase.io.read(options.frames, ":")
    others = [atoms for path in options.not_in for atoms in ase.io.read(path, ":")]
    kept = unseen(frames, others)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    ase.io.write(options.output, kept, format="extxyz")
    print(f"{len(kept)} of {len(frames)} frames of {options.frames} are in no other file: {options.output}")


if __name__ == "__main__":
    main()
