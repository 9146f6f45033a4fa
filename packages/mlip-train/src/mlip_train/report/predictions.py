"""Predictions of every frame as extended XYZ and CSV, and the worst frames."""

from __future__ import annotations

import contextlib
import csv
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io.extxyz import write_extxyz

from mlip_train.data.batches import Batch
from mlip_train.data.frames import FrameTable
from mlip_train.steps.loss import Prediction

COLUMNS = (
    "frame",
    "subset",
    "atoms",
    "energy",
    "predicted_energy",
    "energy_error_per_atom",
    "force_rmse",
    "force_max",
    "stress_rmse",
)
"""eV, eV per atom, eV/Å and eV/Å³; empty where a label is absent. ``frame`` names file and place in it."""
WORST = {"force_rmse": "forces RMSE, meV/Å", "energy_error_per_atom": "energy error, meV/atom"}


class Predictions:
    """Writes predictions beside labels, batch by batch; made by :func:`predictions`.

    Attributes
    ----------
    rows : list of dict
        What was written to the CSV file, by ``COLUMNS``.
    """

    def __init__(self, table: FrameTable, xyz: Any, rows: Any, with_stress: bool):
        self.table, self.xyz, self.writer, self.with_stress = table, xyz, rows, with_stress
        self.rows: list[dict[str, Any]] = []

    def add(self, batch: Batch, prediction: Prediction) -> None:
        """Write the frames of a batch, whose predictions are on the CPU."""
        atoms = batch.atoms.long().tolist()
        parts = [torch.split(t, atoms) for t in (batch.forces, prediction.forces)]
        for i, (labels, forces) in enumerate(zip(*parts, strict=True)):
            has = [bool(w[i] > 0) for w in (batch.energy_weight, batch.stress_weight)]
            has.insert(1, bool(batch.force_weight[batch.frame == i].any()))
            frame = int(batch.row[i])
            row: dict[str, Any] = {
                "frame": self.table.where(frame),
                "subset": self.table.subsets[int(batch.subset[i])],
                "atoms": atoms[i],
                "predicted_energy": float(prediction.energy[i]),
            }
            if has[0]:
                row["energy"] = float(batch.energy[i])
                row["energy_error_per_atom"] = (row["predicted_energy"] - row["energy"]) / atoms[i]
            if has[1]:
                error = (forces - labels).square().sum(1)
                row["force_rmse"] = float((error.mean() / 3).sqrt())
                row["force_max"] = float(error.max().sqrt())
            if has[2] and self.with_stress:
                row["stress_rmse"] = float((prediction.stress[i] - batch.stress[i]).square().mean().sqrt())
            self.rows.append(row)
            self.writer.writerow(row)
            structure = structure_of(self.table, frame)
            structure.info |= {"frame": row["frame"], "subset": row["subset"]}
            structure.info["predicted_energy"] = row["predicted_energy"]
            structure.arrays["predicted_forces"] = forces.numpy()
            if self.with_stress and structure.cell.rank == 3:
                structure.info["predicted_stress"] = prediction.stress[i].numpy()
            found = dict(energy=row.get("energy"), forces=labels.numpy(), stress=batch.stress[i].numpy())
            results = {key: found[key] for key, present in zip(found, has, strict=True) if present}
            if "stress" in results:
                results["stress"] = results["stress"].flatten()[[0, 4, 8, 5, 2, 1]]
            structure.calc = SinglePointCalculator(structure, **results)
            write_extxyz(self.xyz, [structure])

    def worst(self, key: str, count: int = 5) -> list[dict[str, Any]]:
        """Return the rows with the largest absolute values in a column."""
        labeled = [row for row in self.rows if key in row]
        return sorted(labeled, key=lambda row: -abs(row[key]))[:count]


def structure_of(table: FrameTable, frame: int) -> Atoms:
    """Return a frame's atoms."""
    found = table.frame(frame)
    return Atoms(found.numbers, found.positions, cell=found.cell, pbc=found.pbc)


@contextlib.contextmanager
def predictions(folder: Path, table: FrameTable, with_stress: bool = True) -> Iterator[Predictions]:
    """Open ``predictions.xyz`` and ``predictions.csv`` in a folder for the frames of a table."""
    with (
        (folder / "predictions.xyz").open("w") as xyz,
        (folder / "predictions.csv").open("w", newline="") as text,
    ):
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        yield Predictions(table, xyz, writer, with_stress)


def worst_rows(found: Predictions) -> list[list[str]]:
    """Return header and rows of a table of the frames with the largest errors."""
    rows = [["worst frames", "atoms", "error"]]
    for key, name in WORST.items():
        rows += [
            [f"{row['frame']} ({row['subset']})", str(row["atoms"]), f"{1e3 * row[key]:.1f}  {name}"]
            for row in found.worst(key)
        ]
    return rows


def element_rows(tables: dict[str, Any]) -> Sequence[Sequence[str]]:
    """Return header and rows of the force errors of elements."""
    head = ["element", "forces MAE, meV/Å", "forces RMSE, meV/Å"]
    errors = tables["forces_by_element"].items()
    return [head, *([name, f"{1e3 * e['mae']:.3f}", f"{1e3 * e['rmse']:.3f}"] for name, e in errors)]
