"""Energy shifts of a model to fine-tune, fitted to the labels of its training frames."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from localgraph import segment_sum
from mlip_train.config.data import BatchConfig
from mlip_train.config.schema import TrainConfig
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.data.statistics import compositions, fit_corrections

SAMPLE, LEVEL = 32, 1.0
"""Frames on which the start model is compared with the labels, and the mean difference to report, eV per atom."""


def refit_energies(start: Any, config: TrainConfig, table: FrameTable, rows: NDArray[np.int64]) -> None:
    """Move the start model's energy shifts by a fit to its errors on the training frames, as configured.

    New elements are fitted first, with the old ones as they are; ``refit_energies`` then moves all.
    """
    labeled = rows[np.isfinite(table.arrays["energy"][rows])]
    if not (config.model.refit_energies or config.model.add_elements):
        _check_level(start, config, table, labeled[:SAMPLE])
        return
    rest = table.arrays["energy"][labeled] - _energies(start, table, labeled, config.batch)
    moved = np.zeros(len(start.type_names))
    if added := len(config.model.add_elements):
        new = range(len(moved) - added, len(moved))
        moved += fit_corrections(table, labeled, rest, config.statistics.ridge, new)
    if config.model.refit_energies:
        rest = rest - compositions(table, labeled) @ moved
        moved += fit_corrections(table, labeled, rest, config.statistics.ridge)
    start.shift_energies(torch.from_numpy(moved))


def _check_level(start: Any, config: TrainConfig, table: FrameTable, rows: NDArray[np.int64]) -> None:
    """Warn where the labels lie far from the predictions of the start model."""
    if not len(rows) or not config.loss.energy:
        return
    rest = table.arrays["energy"][rows] - _energies(start, table, rows, config.batch)
    mean = float((rest / table.atom_counts[rows]).mean())
    if abs(mean) > LEVEL:
        warnings.warn(
            f"labels differ from the predictions of model.start_from by {mean:.4g} eV per atom on average; "
            "model.refit_energies: true moves its energy shifts first",
            stacklevel=3,
        )


@torch.no_grad()
def _energies(
    model: Any, table: FrameTable, rows: NDArray[np.int64], budget: BatchConfig
) -> NDArray[np.float64]:
    """Predict energies of frames, (F,) eV."""
    parts = [
        segment_sum(model(b.edge_vectors, b.edge_index, b.types), b.frame, len(b.atoms)).numpy()
        for b in make_loader(Plan(table, rows, budget, shuffle=False))
    ]
    return np.concatenate([np.zeros(0), *parts])
