"""Tables of frames and models that several test modules use."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms

from mlip_train.config import SourceConfig
from mlip_train.data.build import build_table
from mlip_train.data.frames import FrameTable

CUTOFFS = torch.full((2, 2), 4.0, dtype=torch.float64)
WEIGHTS = torch.tensor([1.0, 2.0, 30.0], dtype=torch.float64)


def table_of(frames: list[Atoms], folder: Path, **options: Any) -> FrameTable:
    """Write frames of H and O to a file and build their table."""
    path = folder / "frames.xyz"
    ase.io.write(path, frames)
    return build_table([SourceConfig(path=str(path))], ["H", "O"], CUTOFFS, folder / "cache", **options)


def model_of(toy: Any, **changes: Any) -> Any:
    """Build the same toy of H and O each time."""
    torch.manual_seed(3)
    return toy({"type_names": ["H", "O"], "cutoff": 4.0, "energy_shifts": [-9.0, -12.0], **changes})
