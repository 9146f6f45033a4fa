"""Frames of one file whose structures are in none of the others, written to a new file.

python -m benchmarks.accuracy.unseen mixed.xyz --not-in train.xyz --output runs/unseen.xyz
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
from benchmarks.common import whole

TOLERANCE = 1e-4
"""Structures are equal whose positions and cells, in the order of the file, differ by at most this, Å."""


def unseen(frames: list[Any], others: list[Any]) -> list[Any]:
    """Return the frames whose structures are not among the others."""
    seen: dict[Any, list[np.ndarray]] = {}
    for atoms in others:
        seen.setdefault(_kind(atoms), []).append(_places(atoms))
    stacked = {kind: np.stack(places) for kind, places in seen.items()}

    def known(atoms: Any) -> bool:
        near = stacked.get(_kind(atoms))
        return near is not None and bool((np.abs(near - _places(atoms)).max(axis=(1, 2)) <= TOLERANCE).any())

    return [atoms for atoms in frames if not known(atoms)]


def _kind(atoms: Any) -> tuple[bytes, bytes]:
    return atoms.numbers.tobytes(), atoms.pbc.tobytes()


def _places(atoms: Any) -> np.ndarray:
    return np.concatenate([atoms.positions, atoms.cell.array])


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
    with whole(options.output) as part:
        ase.io.write(part, kept, format="extxyz")
    print(f"{len(kept)} of {len(frames)} frames of {options.frames} are in no other file: {options.output}")


if __name__ == "__main__":
    main()
