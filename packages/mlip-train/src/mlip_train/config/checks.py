"""Checks that ranges of single numbers cannot express: combinations without effect, by dotted path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mlip_train.config.data import PARTS, SourceConfig
from mlip_train.config.ranges import check_ranges
from mlip_train.config.schema import Terms, TrainConfig

SPICE_SUFFIXES = (".hdf5", ".h5", ".store")
ALLOWABLE = ("optimizer", "schedule", "stages", "loss", "batch", "data", "statistics", "ema", "swa", "seed")
"""Keys whose change a checkpoint can be continued with."""
SETTLED = ("optimizer.name", "optimizer.amsgrad", "optimizer.adamw")
"""Keys that decide which moments an optimizer keeps."""
LABELS = (
    "energy",
    "forces",
    "stress",
    "virial",
    "energy_unit",
    "length_unit",
    "stress_unit",
    "energy_scale",
    "force_scale",
    "stress_scale",
    "length_scale",
    "format",
)
"""Options that say how labels are found in a file that ASE reads."""


def is_spice(path: str) -> bool:
    """Whether a file is read by spice-data: one in SPICE's layout, or a store."""
    return Path(path).suffix.lower() in SPICE_SUFFIXES


def check_source(source: SourceConfig, path: str) -> None:
    """Check ranges, and reject options that the kind of file has no use for.

    Raises
    ------
    ValueError
        Naming the option below ``path``, what was required and what was received.
    """
    check_ranges(source, path)
    _check_options(source, path)


def _check_options(source: SourceConfig, path: str) -> None:
    for name, weight in source.weights.items():
        if not 0 <= weight < float("inf"):
            raise ValueError(f"{path}.weights.{name} must be at least 0, got {weight!r}")
    is_store = Path(source.path).suffix.lower() == ".store"
    useless = (*(() if is_store else ("split", "part")), *(LABELS if is_spice(source.path) else ()))
    for name in useless:
        if (value := getattr(source, name)) != _default(source, name):
            needed = "a file that ASE reads" if name in LABELS else "a .store"
            raise ValueError(f"{path}.{name} must be used with {needed}, got {value!r} for {source.path!r}")
    if (source.split is None) != (source.part is None):
        raise ValueError(
            f"{path}.split, {path}.part must be given together, got {source.split!r} and {source.part!r}"
        )


def check_values(config: TrainConfig) -> None:
    """Reject numbers out of range, and options that have no effect.

    Raises
    ------
    ValueError
        Naming the dotted path, what was required and what was received.
    """
    check_ranges(config)
    for part in PARTS:
        for i, source in enumerate(getattr(config.data, part)):
            _check_options(source, f"data.{part}[{i}]")
    _check_weights(config)
    _check_rates(config)
    _check_allowed(config)
    _check_effect(config)


def _check_weights(config: TrainConfig) -> None:
    if not any(config.weighted):
        raise ValueError(
            "loss must have a weight that is not 0 among energy, forces and stress, got 0 for all of them"
        )
    for i, stage in enumerate(config.stages):
        weighted = any(getattr(stage, term) is not None for term in Terms._fields)
        if not weighted and stage.lr is None and stage.matmul_precision is None:
            raise ValueError(
                f"stages[{i}] must set energy, forces, stress, lr or matmul_precision, got none of them"
            )
        if stage.ramp and not weighted:
            raise ValueError(
                f"stages[{i}].ramp must be used with energy, forces or stress, got {stage.ramp} without"
            )


def _check_rates(config: TrainConfig) -> None:
    schedule = config.schedule
    if schedule.name != "constant":
        rates = {"optimizer.lr": config.optimizer.lr}
        rates |= {f"stages[{i}].lr": s.lr for i, s in enumerate(config.stages) if s.lr is not None}
        for path, rate in rates.items():
            if rate < schedule.minimum:
                raise ValueError(f"{path} must be at least schedule.minimum ({schedule.minimum}), got {rate}")
    lr = config.stop.lr
    if lr is not None and schedule.name == "plateau" and lr < schedule.minimum:
        raise ValueError(f"stop.lr must be at least schedule.minimum ({schedule.minimum}), got {lr}")


def _check_allowed(config: TrainConfig) -> None:
    for key in config.resume.allow:
        if key.split(".")[0].split("[")[0] not in ALLOWABLE or key in SETTLED:
            raise ValueError(
                f"resume.allow must name keys among or below {list(ALLOWABLE)}, but not {list(SETTLED)}, got {key!r}"
            )


def _check_effect(config: TrainConfig) -> None:
    """Reject options other than their defaults that other options make useless."""
    schedule, mode, by = config.schedule.name, config.compile.mode, config.data.validation_by
    plateau, start, held = (
        schedule == "plateau",
        config.model.start_from is not None,
        not config.data.validation,
    )
    wandb, sync = "wandb" in config.logging.loggers, config.hardware.strategy == "sync"
    useless = [
        *_loss_effects(config),
        ("schedule", ("factor", "patience"), plateau, "schedule.name: plateau"),
        ("schedule", ("minimum",), schedule != "constant", "a schedule that falls"),
        ("stop", ("lr",), plateau, "schedule.name: plateau"),
        ("model", ("refit_energies", "add_elements"), start, "model.start_from"),
        ("data", ("validation_fraction", "validation_by"), held, "no data.validation"),
        ("data", ("validation_block",), by == "block", "data.validation_by: block"),
        ("compile", ("tolerance", "fallback"), mode != "eager", "compile.mode: forces or full"),
        ("compile", ("evaluate",), mode == "full", "compile.mode: full"),
        ("logging", ("wandb_project", "wandb_entity"), wandb, "logging.loggers: [wandb]"),
        ("hardware", ("bucket_mib", "overlap"), sync, "hardware.strategy: sync"),
        ("hardware", ("overlap",), config.hardware.bucket_mib > 0, "hardware.bucket_mib"),
    ]
    for path, names, has_effect, needed in useless:
        holder = getattr(config, path)
        for name in names:
            if not has_effect and (value := getattr(holder, name)) != _default(holder, name):
                raise ValueError(f"{path}.{name} must be used with {needed}, got {value!r} without")
    _check_optimizer(config)
    for name in ("energy_shifts", "energy_scales"):
        value = getattr(config.statistics, name)
        if name in config.model.config and value != _default(config.statistics, name):
            raise ValueError(
                f"statistics.{name} must be used without model.config.{name}, got {value!r} with it"
            )


def _check_optimizer(config: TrainConfig) -> None:
    """Reject what an optimizer has no use for."""
    optimizer = config.optimizer
    needed = {"amsgrad": "adamw", "momentum": "muon", "adamw": "muon"}
    for name, wanted in needed.items():
        value = getattr(optimizer, name)
        if optimizer.name != wanted and value != _default(optimizer, name):
            raise ValueError(
                f"optimizer.{name} must be used with optimizer.name: {wanted}, got {value!r} with {optimizer.name}"
            )
    if optimizer.name == "schedulefree":
        own = {
            "schedule.name": (config.schedule.name, "constant"),
            "ema": (config.ema, 0.0),
            "swa": (config.swa, None),
        }
        for path, (value, wanted_value) in own.items():
            if value != wanted_value:
                raise ValueError(
                    f"{path} must be {'null' if wanted_value is None else wanted_value} with optimizer.name: "
                    f"schedulefree, which averages the weights itself, got {value!r}"
                )
    if config.swa is not None and config.swa >= config.stop.epochs:
        raise ValueError(f"swa must be less than stop.epochs ({config.stop.epochs}), got {config.swa}")


def _loss_effects(config: TrainConfig) -> list[tuple[str, tuple[str, ...], bool, str]]:
    """Conditions under which the options of the loss have an effect."""
    loss = config.loss
    terms, weighted = Terms._fields, config.weighted._asdict()
    weighted["stress"] |= loss.stress is None  # the data decide
    kinds = {t: getattr(loss, f"{t}_kind") or loss.kind for t in terms}
    huber = {
        t: weighted[t] and kinds[t] == "huber" and not (t == "forces" and loss.force_deltas) for t in terms
    }
    common = any(huber[t] and getattr(loss, f"{t}_delta") is None for t in terms)
    own = "huber for a term that has no delta of its own (loss.kind: huber)"
    forces = weighted["forces"] and kinds["forces"] == "huber"
    effects: list[tuple[str, tuple[str, ...], bool, str]] = [
        ("loss", ("delta",), common, own),
        ("loss", ("force_deltas",), forces, "huber for forces (loss.forces_kind: huber)"),
        ("loss", ("element_weights",), weighted["forces"], "a weight of forces"),
        ("loss", ("softadapt",), sum(weighted.values()) > 1, "weights of two terms or more"),
        ("loss", ("softadapt_epochs",), loss.softadapt is not None, "loss.softadapt"),
    ]
    for t in terms:
        other = ", not with force_deltas" if t == "forces" else ""
        effects.append(("loss", (f"{t}_kind",), weighted[t], f"a weight of {t}"))
        effects.append(("loss", (f"{t}_delta",), huber[t], f"huber for {t} (loss.{t}_kind: huber){other}"))
    return effects


def _default(holder: Any, name: str) -> Any:
    (field,) = (f for f in dataclasses.fields(holder) if f.name == name)
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
