"""Tables of frames and models that several test modules use."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms

from mlip_train.config import SourceConfig
from mlip_train.data.build import build_table
from mlip_train.data.frames import FrameTable
from mlip_train.data.sources import open_sources
from spice_data import Frame

CUTOFFS = torch.full((2, 2), 4.0, dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 30.0], dtype=torch.float64)


def table_of(
    frames: list[Atoms], folder: Path, names: Sequence[str] = ("H", "O"), **options: Any
) -> FrameTable:
    """Write frames to a file and build their table with a cutoff of 4 Å."""
    path, count = folder / "frames.xyz", len(names)
    folder.mkdir(exist_ok=True)
    ase.io.write(path, frames)
    cutoffs = torch.full((count, count), 4.0, dtype=torch.float64)
    return build_table([SourceConfig(path=str(path))], names, cutoffs, folder / "cache", **options)


def model_of(toy: Any, **changes: Any) -> Any:
    """Build the same toy of H and O each time."""
    torch.manual_seed(3)
    return toy({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-9.0, -12.0], **changes})


def read(path: Path, **options: Any) -> list[Frame]:
    """Return the frames that a source selects."""
    (source,) = open_sources([SourceConfig(path=str(path), **options)], path.parent / "cache")
    return [source.store[int(row)] for row in source.rows]
