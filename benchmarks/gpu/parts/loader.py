"""The loader of training, without a step: batches that workers collate, and frames that stay on the device."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

import ase
import ase.io
import numpy as np
import torch
from ase.calculators.singlepoint import SinglePointCalculator
from benchmarks.gpu.part import Part
from benchmarks.gpu.parts.train import droplets
from benchmarks.systems import CUTOFF, ELEMENTS

from mlip_train.config import BatchConfig, SourceConfig
from mlip_train.data.build import build_table
from mlip_train.data.feed import Feed
from mlip_train.data.frames import FrameTable
from mlip_train.data.plan import Plan


def table_of(folder: Path, frames: int) -> FrameTable:
    """Return the table of droplets with random labels."""
    rng, images = np.random.default_rng(0), []
    for positions, symbols in droplets(frames):
        atoms = ase.Atoms(symbols, positions)
        forces = rng.normal(size=positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
        images.append(atoms)
    folder.mkdir(exist_ok=True)
    ase.io.write(folder / "frames.xyz", images)
    cutoffs = torch.full((len(ELEMENTS),) * 2, CUTOFF, dtype=torch.float64)
    return build_table([SourceConfig(path=str(folder / "frames.xyz"))], ELEMENTS, cutoffs, folder / "cache")


def measure(part: Part, table: FrameTable, workers: int, resident: bool) -> dict[str, Any]:
    """Return the frames that reach the device per second, from the second batch on."""
    size, batches = part.pick((256, 120), (4, 4))
    rows = np.tile(np.arange(len(table)), -(-size * batches // len(table)))  # an epoch of many batches
    feed = Feed({"train": Plan(table, rows, BatchConfig(frames=size))}, workers, resident)
    feed.begin(part.device, progress=False)
    frames, begin = 0, 0.0
    for number, batch in enumerate(feed.loader("train", part.device)):
        given = feed.transfer(batch, part.device)
        if number:
            frames += len(given.atoms)
        else:  # workers have started
            part.synchronize()
            begin = time.perf_counter()
    part.synchronize()
    seconds = time.perf_counter() - begin
    return {"batch": size, "batches": number, "frames_per_s": frames / seconds, "ms": 1e3 * seconds / number}


def main() -> None:
    """Build a table, then load it in every way."""
    part = Part("loader")
    table = table_of(part.work / "loader", part.pick(2048, 8))
    part.turn()
    rows = part.section.setdefault("rows", [])
    for workers, resident in part.pick(((4, False), (1, False), (0, True)), ((0, False), (0, True))):
        row = {"workers": workers, "resident": resident}
        rows.append(row)
        label = f"{workers} workers{', resident' if resident else ''}"
        row |= part.attempt(label, partial(measure, part, table, workers, resident)) or {}
        part.save()


if __name__ == "__main__":
    main()
