"""Preparation of a run: read and check data, split, gather statistics, build the model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from mlip_train.config.checks import check_values
from mlip_train.config.load import to_plain
from mlip_train.config.schema import TrainConfig
from mlip_train.data.build import build_tables
from mlip_train.data.frames import FrameTable
from mlip_train.data.labels import check_labels
from mlip_train.data.plan import Plan
from mlip_train.data.plausible import report
from mlip_train.data.sources import open_parts
from mlip_train.data.split import hold_out
from mlip_train.data.statistics import Statistics, gather_statistics
from mlip_train.steps.loss import type_number
from mlip_train.training.defaults import resolved
from mlip_train.training.model import begin_model, finish_model


class Prepared(NamedTuple):
    """What a run starts from.

    Attributes
    ----------
    model : nn.Module
        With statistics filled in, weights initialized or loaded, frozen parameters marked.
    statistics : Statistics
        Of the training frames.
    train, validation : Plan and Plan or None
        Batches.
    test : FrameTable or None
        Frames only reported on.
    config : TrainConfig
        The configuration with what it leaves to the data filled in.
    findings : list of str
        What is implausible in the labels.
    """

    model: Any
    statistics: Statistics
    train: Plan
    validation: Plan | None
    test: FrameTable | None
    config: TrainConfig
    findings: list[str]

    def summary(self) -> dict[str, Any]:
        """Return what the metadata of the model file holds of the run."""
        return {
            "config": to_plain(self.config),
            "statistics": self.statistics.plain(),
            "elements": list(self.train.table.type_names),
        }


def prepare(config: TrainConfig, continued: Mapping[str, Any] | None = None) -> Prepared:
    """Read and check the data, and build the model.

    Parameters
    ----------
    config : TrainConfig
        Of the run.
    continued : mapping, optional
        Name and configuration of the model of a checkpoint; its constants are then not taken from the data.

    Raises
    ------
    DataError, ValueError, FileNotFoundError
        For anything in data or configuration that training would stumble over: missing or NaN labels, unknown
        elements, frames without neighbors, frames above the batch budget. Nothing is trained before.
    """
    check_values(config)
    if not config.data.train:
        raise ValueError("data.train must contain at least one source, got none")
    sources = open_parts(config.data, config.cache, config.logging.progress)
    start = begin_model(config, continued, sources["train"])
    for element in config.loss.element_weights:
        type_number(element, start.type_names)
    tables = build_tables(config, sources, start.type_names, start.cutoffs)
    config = resolved(config, tables)
    for part, table in tables.items():
        check_labels(
            table, getattr(config.data, part), f"data.{part}", config.weighted, config.data.partial_labels
        )
    table, held_table = tables["train"], tables.get("validation")
    rows, held = np.arange(len(table)), np.zeros(0, dtype=np.int64)
    if held_table is None:
        rows, held = hold_out(table, config.data, config.seed)
    statistics = gather_statistics(table, config.statistics, rows)
    model = finish_model(start, config, statistics, table, rows)
    implausible = report(tables, rows, held)
    train = Plan(table, rows, config.batch, config.seed, limit=config.data.limit)
    validation = None
    if held_table is not None:
        validation = Plan(held_table, np.arange(len(held_table)), config.batch, shuffle=False)
    elif len(held):
        validation = Plan(table, held, config.batch, shuffle=False)
    if "test" in tables:  # a frame above the budget is reported now, not after training
        Plan(tables["test"], np.arange(len(tables["test"])), config.batch, shuffle=False)
    return Prepared(model, statistics, train, validation, tables.get("test"), config, implausible)
