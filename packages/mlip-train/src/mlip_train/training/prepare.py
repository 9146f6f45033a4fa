"""Preparation of a run: read and check data, split, gather statistics, build the model."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import localgraph
from mlip_train.config.checks import check_values
from mlip_train.config.schema import TrainConfig
from mlip_train.data.build import build_table, elements_in
from mlip_train.data.frames import FrameTable
from mlip_train.data.labels import check_labels
from mlip_train.data.plan import Plan
from mlip_train.data.plausible import findings
from mlip_train.data.sources import Source, open_sources
from mlip_train.data.split import groups_of, split
from mlip_train.data.statistics import Statistics, gather_statistics
from mlip_train.steps.loss import type_number, uses
from mlip_train.training.defaults import resolved
from mlip_train.training.finetune import refit_energies, start_model, with_elements

log = logging.getLogger(__name__)


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
    sources = {part: _sources(config, part) for part in ("train", "validation", "test")}
    start = None
    if continued is not None:
        start = localgraph.model_class(continued["name"]).from_config(continued["config"])
    elif config.model.start_from is not None:
        start = start_model(config.model)
        if config.model.add_elements:
            start = with_elements(start, config.model.add_elements, config.seed)
    names, cutoffs = (
        _types(config, sources["train"]) if start is None else (list(start.type_names), start.cutoffs)
    )
    for element in config.loss.element_weights:
        type_number(element, names)
    tables = {part: _table(config, opened, names, cutoffs) for part, opened in sources.items() if opened}
    config = resolved(config, tables)
    needed, partial = uses(config.loss, config.stages), config.data.partial_labels
    for part, table in tables.items():
        check_labels(table, getattr(config.data, part), f"data.{part}", needed, partial)
    table = tables["train"]
    rows, held = np.arange(len(table)), np.zeros(0, dtype=np.int64)
    if "validation" not in tables:
        groups = groups_of(table, config.data)
        rows, held = split(len(table), config.data.validation_fraction, config.seed, table.isolated, groups)
    statistics = gather_statistics(table, config.statistics, rows)
    if start is None:
        model = _built(config, names, statistics)
    else:
        model = start
    if continued is None and start is not None:
        refit_energies(model, config, table, rows)
    freeze(model, config.model.freeze)
    implausible = findings(tables, held)
    _tell(tables, rows, held, implausible)
    train = Plan(table, rows, config.batch, config.seed, limit=config.data.limit)
    validation = None
    if "validation" in tables:
        held_table = tables["validation"]
        held = np.arange(len(held_table))
        validation = Plan(held_table, held, config.batch, shuffle=False)
    elif len(held):
        validation = Plan(table, held, config.batch, shuffle=False)
    if "test" in tables:  # a frame above the budget is reported now, not after training
        Plan(tables["test"], np.arange(len(tables["test"])), config.batch, shuffle=False)
    return Prepared(model, statistics, train, validation, tables.get("test"), config, implausible)


def _tell(
    tables: dict[str, FrameTable],
    rows: NDArray[np.int64],
    held: NDArray[np.int64],
    implausible: list[str],
) -> None:
    """Log the frames of every source, what is implausible, and elements of the model without training frames."""
    for part, table in tables.items():
        for i, (file, count) in enumerate(zip(table.files, table.source_counts, strict=True)):
            log.info("data.%s[%d]: %d frames from %s", part, i, count, file)
    table = tables["train"]
    log.info("%d training frames, %d held out for validation", len(rows), len(held))
    present = table.arrays["composition"].sum(0)
    if absent := [name for name, count in zip(table.type_names, present, strict=True) if not count]:
        implausible = [*implausible, f"elements of the model without training frames: {', '.join(absent)}"]
    for line in implausible:
        log.warning("%s", line)


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude parameters whose names begin with one of the prefixes from training.

    Raises
    ------
    ValueError
        For a prefix that no parameter has.
    """
    for prefix in prefixes:
        matching = [p for n, p in model.named_parameters() if n.startswith(prefix)]
        if not matching:
            names = sorted({n.split(".")[0] for n, _ in model.named_parameters()})
            raise ValueError(
                f"model.freeze must be a prefix of a parameter name ({names} ...), got {prefix!r}"
            )
        for p in matching:
            p.requires_grad_(False)


def _types(config: TrainConfig, sources: list[Source]) -> tuple[list[str], Tensor]:
    """Type names and cutoffs of a model that is not built yet."""
    plain = dict(config.model.config)
    if "type_names" not in plain:
        plain["type_names"] = list(elements_in(sources))
    if "cutoff" not in plain:
        raise ValueError("model.config.cutoff must be a length in Å, got none")
    try:
        cls = localgraph.model_class(config.model.name)
    except ValueError as e:
        raise ValueError(f"model.{e}") from None
    return list(plain["type_names"]), cls.cutoffs_of(plain)


def _cache(config: TrainConfig) -> str:
    return config.data.cache or str(Path(config.output) / "cache")


def _sources(config: TrainConfig, part: str) -> list[Source]:
    data, progress = config.data, config.logging.progress
    return open_sources(getattr(data, part), _cache(config), data.workers, progress)


def _table(config: TrainConfig, sources: list[Source], names: list[str], cutoffs: Tensor) -> FrameTable:
    data, isolated = config.data, str(config.data.isolated)
    if isolated == "error" and config.statistics.energy_shifts == "isolated":
        isolated = "atoms"
    options = {"progress": config.logging.progress, "keep_edges": data.cache_neighbors}
    return build_table(sources, names, cutoffs, _cache(config), data.workers, isolated, **options)


def _built(config: TrainConfig, names: list[str], statistics: Statistics) -> Any:
    scale = {"force_rms": statistics.force_rms, "energy_std": statistics.energy_std, "none": 1.0}
    filled = {
        "type_names": names,
        "avg_num_neighbors": statistics.avg_num_neighbors,
        "energy_shifts": statistics.energy_shifts.tolist(),
        "energy_scales": scale[config.statistics.energy_scales] or 1.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return localgraph.model_class(config.model.name).from_config({**filled, **config.model.config})
