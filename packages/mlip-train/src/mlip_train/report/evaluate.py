"""Evaluation on labeled frames: predictions, error tables, and the baseline of element means."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from localgraph import EdgeModel
from mlip_train.config.data import BatchConfig
from mlip_train.data.batches import Batch
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.data.statistics import compositions
from mlip_train.report.metrics import Errors
from mlip_train.steps.loss import Prediction, predict


class Evaluation(NamedTuple):
    """A model compared with labels.

    Attributes
    ----------
    tables : dict
        Errors overall, per subset and per element, eV, eV/Å, eV/Å³, and ``baseline``: those of per-element mean
        energies with zero forces.
    energy : (F, 2) float64
        Label and prediction, eV per atom, less the per-element mean energies; rows without label left out.
    forces : (K, 2) float64
        Label and prediction of (at most 100,000) force components, eV/Å.
    stress : (K, 2) float64
        Label and prediction of stress components, eV/Å³; none where they were not predicted.
    """

    tables: dict[str, Any]
    energy: NDArray[np.float64]
    forces: NDArray[np.float64]
    stress: NDArray[np.float64]


def evaluate(
    model: EdgeModel,
    table: FrameTable,
    shifts: NDArray[np.float64],
    rows: NDArray[np.int64] | None = None,
    batch: BatchConfig | None = None,
    with_stress: bool = True,
    workers: int = 0,
    each: Callable[[Batch, Prediction], None] | None = None,
) -> Evaluation:
    """Evaluate a model on frames of a table.

    Parameters
    ----------
    model : EdgeModel
        On the CPU or another device.
    table : FrameTable
        Frames, with neighbor lists for this model's cutoffs.
    shifts : (T,) float64
        Per-element mean energies of the training data, eV: the baseline.
    rows : (F,) int64, optional
        Which frames; by default all.
    batch : BatchConfig, optional
        Budgets (multiplied by ``batch.evaluate``); by default 16 frames.
    with_stress : bool
        Compute stresses.
    workers : int
        Processes that collate ahead.
    each : callable, optional
        Called with every batch and its predictions, on the CPU.

    Raises
    ------
    DataError
        For a frame above the budget.
    """
    rows = np.arange(len(table)) if rows is None else rows
    plan = Plan(table, rows, batch or BatchConfig(frames=8), shuffle=False)
    metrics = Errors(table.subsets, table.type_names)
    baseline = Errors(table.subsets, table.type_names)
    device = next((p.device for p in cast(nn.Module, model).parameters()), torch.device("cpu"))
    energies, forces, stresses = [], [], []
    for data in make_loader(plan, workers):
        moved = data.to(device)
        prediction = Prediction(*(t.cpu() for t in predict(model, moved, with_stress=with_stress)))
        metrics.update(data, prediction, with_stress=with_stress)
        if each is not None:
            each(data, prediction)
        mean = torch.from_numpy(compositions(table, data.row.numpy()) @ shifts)
        zero = Prediction(mean, torch.zeros_like(data.forces), torch.zeros_like(data.stress))
        baseline.update(data, zero, with_stress=with_stress)
        has = data.energy_weight > 0
        pair = torch.stack([data.energy - mean, prediction.energy - mean], 1) / data.atoms[:, None]
        energies.append(pair[has].numpy())
        has = data.force_weight > 0
        forces.append(torch.stack([data.forces[has], prediction.forces[has]], -1).reshape(-1, 2).numpy())
        has = data.stress_weight > 0 if with_stress else torch.zeros_like(data.subset, dtype=torch.bool)
        stresses.append(torch.stack([data.stress[has], prediction.stress[has]], -1).reshape(-1, 2).numpy())
    f, s = _joined(forces), _joined(stresses)
    if len(f) > 100_000:
        f = f[np.random.default_rng(0).choice(len(f), 100_000, replace=False)]
    tables = metrics.tables() | {"baseline": baseline.tables(), "frames": len(rows)}
    return Evaluation(tables, _joined(energies), f, s)


def _joined(pairs: Sequence[NDArray[np.float64]]) -> NDArray[np.float64]:
    return np.concatenate([np.zeros((0, 2)), *pairs])
