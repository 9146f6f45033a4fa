"""Everything before the first step: data read and checked, statistics, the model built, and the split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import localgraph
from localgraph import segment_sum
from mlip_train.config.checks import check_values
from mlip_train.config.data import BatchConfig, SourceConfig
from mlip_train.config.load import to_plain
from mlip_train.config.schema import ModelConfig, TrainConfig
from mlip_train.data.build import build_table, elements_in
from mlip_train.data.frames import FrameTable
from mlip_train.data.labels import check_labels
from mlip_train.data.loader import BatchLoader
from mlip_train.data.sources import Reader
from mlip_train.data.statistics import Statistics, compositions, fit_corrections, gather_statistics
from mlip_train.steps.loss import uses
from mlip_train.training.finetune import with_elements

MODEL = "model.safetensors"
"""Name of the model file in an output folder."""


class Prepared(NamedTuple):
    """What a run starts from.

    Attributes
    ----------
    model : nn.Module
        With statistics filled in, weights initialized or loaded, frozen parameters marked.
    statistics : Statistics
        Of the training frames.
    train, validation : BatchLoader and BatchLoader or None
        Batches.
    test : FrameTable or None
        Frames only reported on.
    """

    model: Any
    statistics: Statistics
    train: BatchLoader
    validation: BatchLoader | None
    test: FrameTable | None


def prepare(config: TrainConfig) -> Prepared:
    """Read and check the data, and build the model.

    Raises
    ------
    DataError, ValueError, FileNotFoundError
        For anything in data or configuration that training would stumble over: missing or NaN labels, unknown
        elements, frames without neighbors, frames above the batch budget. Nothing is trained before.
    """
    check_values(config)
    if not config.data.train:
        raise ValueError("data.train must contain at least one source, got none")
    reader = Reader()
    probe, start = _probe(config, reader)
    tables = {
        part: _table(config, sources, probe, reader)
        for part in ("train", "validation", "test")
        if (sources := getattr(config.data, part))
    }
    needed, partial = uses(config.loss, config.stages), config.data.partial_labels
    for part, table in tables.items():
        check_labels(table, getattr(config.data, part), f"data.{part}", needed, partial)
    table = tables["train"]
    rows, held = np.arange(len(table)), np.zeros(0, dtype=np.int64)
    if "validation" not in tables:
        rows, held = split(len(table), config.data.validation_fraction, config.seed, table.isolated)
    statistics = gather_statistics(table, config.statistics, rows)
    model = _finetuned(config, start, table, rows) if start is not None else _built(config, probe, statistics)
    freeze(model, config.model.freeze)
    prefetch = 2 * config.data.loaders
    train = BatchLoader(table, rows, config.batch, config.seed, prefetch=prefetch)
    validation = None
    if "validation" in tables:
        held_table = tables["validation"]
        held = np.arange(len(held_table))
        validation = BatchLoader(held_table, held, config.batch, shuffle=False, prefetch=prefetch)
    elif len(held):
        validation = BatchLoader(table, held, config.batch, shuffle=False, prefetch=prefetch)
    if "test" in tables:  # a frame above the budget is reported now, not after training
        BatchLoader(tables["test"], np.arange(len(tables["test"])), config.batch, shuffle=False)
    return Prepared(model, statistics, train, validation, tables.get("test"))


def split(
    count: int, fraction: float, seed: int, keep: NDArray[np.bool_] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and rows held out, each sorted; those marked by ``keep`` (count,) are not held out.

    Of two frames or more, at least one is held out unless the fraction is 0.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"data.validation_fraction must be in [0, 1), got {fraction}")
    order = np.random.default_rng([seed, 1]).permutation(count)
    free = order if keep is None else order[~keep[order]]
    held = free[: max(round(count * fraction), 1) if count > 1 and fraction else 0]
    return np.setdiff1d(order, held), np.sort(held)


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


def _probe(config: TrainConfig, reader: Reader) -> tuple[Any, Any]:
    """Build a model that defines types and cutoffs, and the start model if there is one."""
    if config.model.start_from is not None:
        start = _start(config.model)
        if config.model.add_elements:
            start = with_elements(start, config.model.add_elements, config.seed)
        return start, start
    plain = dict(config.model.config)
    if "type_names" not in plain:
        plain["type_names"] = list(elements_in(config.data.train, _cache(config), reader))
    if "cutoff" not in plain:
        raise ValueError("model.config.cutoff must be a length in Å, got none")
    with torch.random.fork_rng(devices=[]):
        return localgraph.model_class(config.model.name).from_config(plain), None


def _start(config: ModelConfig) -> Any:
    """Load the model to start from; a name or keys given beside it must be its own."""
    path = Path(str(config.start_from))
    path = path / MODEL if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(f"model.start_from must be an existing model file, got {config.start_from!r}")
    start, _ = localgraph.load_model(path)
    if config.name not in (ModelConfig().name, start.model_name):
        raise ValueError(
            f"model.name must be that of model.start_from ({start.model_name!r}), got {config.name!r}"
        )
    own = start.to_config()
    for key, value in config.config.items():
        if key not in own or to_plain(own[key]) != value:
            raise ValueError(
                f"model.config.{key} must be that of model.start_from ({own.get(key)!r}), got {value!r}"
            )
    return start


def _cache(config: TrainConfig) -> str:
    return config.data.cache or str(Path(config.output) / "cache")


def _table(config: TrainConfig, sources: tuple[SourceConfig, ...], probe: Any, reader: Reader) -> FrameTable:
    data, isolated = config.data, str(config.data.isolated)
    if isolated == "error" and config.statistics.energy_shifts == "isolated":
        isolated = "atoms"
    progress = config.logging.progress
    return build_table(
        sources, probe.type_names, probe.cutoffs, _cache(config), data.workers, isolated, reader, progress
    )


def _built(config: TrainConfig, probe: Any, statistics: Statistics) -> Any:
    scale = {"force_rms": statistics.force_rms, "energy_std": statistics.energy_std, "none": 1.0}
    filled = {
        "type_names": list(probe.type_names),
        "avg_num_neighbors": statistics.avg_num_neighbors,
        "energy_shifts": statistics.energy_shifts.tolist(),
        "energy_scales": scale[config.statistics.energy_scales] or 1.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return localgraph.model_class(config.model.name).from_config({**filled, **config.model.config})


def _finetuned(config: TrainConfig, start: Any, table: FrameTable, rows: NDArray[np.int64]) -> Any:
    """Refit the start model's atomic energies to its errors on the training frames.

    New elements are fitted first, with the old ones as they are; ``refit_energies`` then moves all.
    """
    if not (config.model.refit_energies or config.model.add_elements):
        return start
    labelled = rows[np.isfinite(table.arrays["energy"][rows])]
    rest = table.arrays["energy"][labelled] - _energies(start, table, labelled, config.batch)
    moved = np.zeros(len(start.type_names))
    if added := len(config.model.add_elements):
        new = range(len(moved) - added, len(moved))
        moved += fit_corrections(table, labelled, rest, config.statistics.ridge, new)
    if config.model.refit_energies:
        rest = rest - compositions(table, labelled) @ moved
        moved += fit_corrections(table, labelled, rest, config.statistics.ridge)
    plain = start.to_config()
    old = np.broadcast_to(np.asarray(_per_type(plain["energy_shifts"], start.type_names)), moved.shape)
    fresh = []
    for shifts in (old, old + moved):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            fresh.append(type(start).from_config({**plain, "energy_shifts": shifts.tolist()}))
    before, after = (m.state_dict() for m in fresh)
    trained = start.state_dict()
    kept = {
        k: v if torch.equal(before[k], after[k]) else v + (after[k] - before[k]) for k, v in trained.items()
    }
    fresh[1].load_state_dict(kept)
    return fresh[1]


@torch.no_grad()
def _energies(
    model: Any, table: FrameTable, rows: NDArray[np.int64], budget: BatchConfig
) -> NDArray[np.float64]:
    """Predict energies of frames, (F,) eV."""
    parts = [
        segment_sum(model(b.edge_vectors, b.edge_index, b.types), b.frame, len(b.atoms)).numpy()
        for b in BatchLoader(table, rows, budget, shuffle=False, prefetch=0)
    ]
    return np.concatenate([np.zeros(0), *parts])


def _per_type(value: Any, names: Sequence[str]) -> Any:
    return [value[n] for n in names] if isinstance(value, dict) else value
