"""Checks that ranges of single numbers cannot express: combinations without effect, by dotted path."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from mlip_train.config.data import SourceConfig
from mlip_train.config.ranges import check_ranges
from mlip_train.config.schema import TrainConfig

SPICE_SUFFIXES = (".hdf5", ".h5", ".store")
LABELS = ("energy", "forces", "stress", "virial", "energy_scale", "force_scale", "stress_scale")
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
    suffix = Path(source.path).suffix.lower()
    spice_file = ("split", "part", *LABELS)
    useless = {".store": LABELS, ".hdf5": spice_file, ".h5": spice_file}.get(
        suffix, ("split", "part", "charge", "exclude")
    )
    for name in useless:
        if (value := getattr(source, name)) != _default(source, name):
            kinds = {"split": "a .store", "part": "a .store"}
            needed = (
                "a file that ASE reads" if name in LABELS else kinds.get(name, "a SPICE file or a .store")
            )
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
    for part in ("train", "validation", "test"):
        for i, source in enumerate(getattr(config.data, part)):
            check_source(source, f"data.{part}[{i}]")
    check_ranges(config)
    _check_weights(config)
    _check_rates(config)
    _check_effect(config)


def _check_weights(config: TrainConfig) -> None:
    names = ("energy", "forces", "stress")
    if not any(getattr(part, name) for part in (config.loss, *config.stages) for name in names):
        raise ValueError(
            "loss must have a weight that is not 0 among energy, forces and stress, got 0 for all of them"
        )
    for i, stage in enumerate(config.stages):
        weighted = any(getattr(stage, name) is not None for name in names)
        if not weighted and stage.lr is None:
            raise ValueError(f"stages[{i}] must set energy, forces, stress or lr, got none of them")
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


def _check_effect(config: TrainConfig) -> None:
    """Reject options other than their defaults that other options make useless."""
    schedule = config.schedule.name
    start, mode = config.model.start_from, config.compile.mode
    useless = [
        (config.loss, "loss", ("delta",), config.loss.kind == "huber", "loss.kind: huber"),
        (
            config.schedule,
            "schedule",
            ("factor", "patience"),
            schedule == "plateau",
            "schedule.name: plateau",
        ),
        (config.schedule, "schedule", ("minimum",), schedule != "constant", "a schedule that falls"),
        (config.stop, "stop", ("lr",), schedule == "plateau", "schedule.name: plateau"),
        (config.model, "model", ("refit_energies", "add_elements"), start is not None, "model.start_from"),
        (config.data, "data", ("validation_fraction",), not config.data.validation, "no data.validation"),
        (
            config.compile,
            "compile",
            ("tolerance", "fallback"),
            mode != "eager",
            "compile.mode: forces or full",
        ),
        (config.compile, "compile", ("evaluate",), mode == "full", "compile.mode: full"),
        (
            config.hardware,
            "hardware",
            ("bucket_mib",),
            config.hardware.strategy == "sync",
            "hardware.strategy: sync",
        ),
    ]
    for holder, path, names, has_effect, needed in useless:
        for name in names:
            if not has_effect and (value := getattr(holder, name)) != _default(holder, name):
                raise ValueError(f"{path}.{name} must be used with {needed}, got {value!r} without")
    energies = {
        "energy_shifts": config.statistics.energy_shifts,
        "energy_scales": config.statistics.energy_scales,
    }
    for name, value in energies.items():
        if name in config.model.config and value != _default(config.statistics, name):
            raise ValueError(
                f"statistics.{name} must be used without model.config.{name}, got {value!r} with it"
            )


def _default(holder: Any, name: str) -> Any:
    (field,) = (f for f in dataclasses.fields(holder) if f.name == name)
    return field.default
