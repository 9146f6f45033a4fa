"""Defaults that depend on the data: the batch budget and the weight of stresses."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Mapping

import numpy as np

from mlip_train.config.schema import TrainConfig
from mlip_train.config.training import LossConfig
from mlip_train.data.frames import FrameTable

log = logging.getLogger(__name__)
STEPS, MOST_EDGES = 100, 20_000
"""Micro-batches of an epoch that the default budget aims at, and its largest number of edges but for single frames."""


def resolved(config: TrainConfig, tables: Mapping[str, FrameTable]) -> TrainConfig:
    """Return a configuration with batch.edges and loss.stress chosen by the data where they are left open."""
    batch, loss = config.batch, config.loss
    if batch.frames is batch.atoms is batch.edges is None:
        batch = dataclasses.replace(batch, edges=_edges(tables))
        log.info("batch.edges: %d, as no budget is given", batch.edges)
    if loss.stress is None:
        loss = dataclasses.replace(loss, stress=_stress_weight(loss, tables, config.data.partial_labels))
        if loss.stress:
            log.info("loss.stress: %.5g, as the frames have stresses and no weight is given", loss.stress)
    return dataclasses.replace(config, batch=batch, loss=loss)


def _edges(tables: Mapping[str, FrameTable]) -> int:
    """Return a budget of edges: a hundredth of the training frames, at most 20,000, at least the largest frame."""
    wanted = min(int(tables["train"].edge_counts.sum()) // STEPS, MOST_EDGES)
    return max(wanted, 1, *(int(t.edge_counts.max(initial=0)) for t in tables.values()))


def _stress_weight(loss: LossConfig, tables: Mapping[str, FrameTable], partial: bool) -> float:
    """Return the weight with which errors of stresses count as errors of virials per atom; 0 where frames have none."""
    has = {part: np.isfinite(t.arrays["stress_max"]) for part, t in tables.items()}
    if not has["train"].any() or not (partial or all(h.all() for h in has.values())):
        return 0.0
    table, rows = tables["train"], has["train"]
    volumes = table.arrays["volume"][rows] / table.atom_counts[rows]
    return float(volumes.mean() ** (1 if (loss.stress_kind or loss.kind) == "mae" else 2))
