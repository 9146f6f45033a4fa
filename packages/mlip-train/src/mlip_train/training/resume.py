"""Resumption: the same configuration and frames, but for free keys and those that ``resume.allow`` names."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import localgraph
from mlip_train.config.checks import SETTLED
from mlip_train.config.load import from_plain, leaves, to_plain
from mlip_train.config.schema import TrainConfig
from mlip_train.training import checkpoint
from mlip_train.training.checkpoint import CHECKPOINT, MODEL
from mlip_train.training.module import TrainingModule
from mlip_train.training.prepare import Prepared
from mlip_train.training.schedule import rate_of_stages
from mlip_train.training.state import load_state

log = logging.getLogger(__name__)
FREE = ("output", "resume", "stop", "logging", "hardware", "compile", "batch.evaluate")
"""Keys that may change."""
FREE_DATA = ("train", "validation", "test", "cache", "workers", "loaders", "isolated", "partial_labels")
"""Keys of ``data`` that may; frames are compared themselves, so that files may be moved."""
WAYS_OUT = (
    "choose another output, remove the checkpoint to start again, or name what may change in resume.allow"
)
SCORED = ("loss", "stages", "data")
"""Keys after whose change validation scores cannot be compared with earlier ones."""
ORDERED = (*SCORED, "batch", "seed")
"""Keys after whose change an epoch begins again: its frames, their order or its loss are others."""


class Change(NamedTuple):
    """A key that differs from the checkpoint's, and both values."""

    key: str
    before: Any
    now: Any

    def __str__(self) -> str:
        return f"{self.key} ({self.before!r} in the checkpoint, now {self.now!r})"


def identity(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    """Return what identifies a run: values of keys, hashes of frames, the model, and the whole configuration."""
    return {
        "config": _fixed(config),
        "data": {
            "train": prepared.train.table.digest(),
            "validation": prepared.validation.table.digest()
            if config.data.validation and prepared.validation is not None
            else None,
        },
        "model": {"name": prepared.model.model_name, "config": prepared.model.to_config()},
        "whole": to_plain(config),
    }


def find_checkpoint(config: TrainConfig, folder: Path) -> tuple[Any, list[Change]]:
    """Return the state to continue from, None without one, and what :func:`check_resumable` finds to differ.

    Raises
    ------
    ValueError, FileNotFoundError
        For a checkpoint or a model where ``resume.mode`` admits none, none where it demands one, or one of another run.
    """
    found = [name for name in (CHECKPOINT, MODEL) if (folder / name).exists()]
    if config.resume.mode == "never" and found:
        raise ValueError(
            f"resume.mode must be 'auto' or 'must' where a checkpoint or model exists, got 'never' for "
            f"{str(folder / found[0])!r}"
        )
    if found == [MODEL]:
        raise ValueError(
            f"output must be a folder without a model, or with its checkpoint to continue from, got "
            f"{str(folder / MODEL)!r} alone; choose another output, or remove the model to start again"
        )
    if not found and config.resume.mode != "must":
        return None, []
    state = checkpoint.load(folder / CHECKPOINT)
    return state, check_resumable(config, state)


def check_resumable(config: TrainConfig, state: Mapping[str, Any]) -> list[Change]:
    """Compare a configuration with the one a checkpoint was written with; return what differs as allowed.

    Raises
    ------
    ValueError
        Naming by dotted path what differs, or another number of processes in the middle of an epoch.
    """
    before, now = state["run"]["config"], _fixed(config)
    differ = [
        Change(key, before.get(key), now.get(key))
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if refused := [c for c in differ if not _allowed(c.key, config)]:
        raise ValueError(
            f"resume must find the configuration of the checkpoint in {config.output!r}, got other values of "
            f"{', '.join(map(str, refused))}; {WAYS_OUT}"
        )
    world = config.hardware.devices * config.hardware.nodes
    if state["position"] and state["world"] != world:
        raise ValueError(
            f"hardware.devices must give {state['world']} processes to resume in the middle of an epoch, got {world}"
        )
    return differ


def check_frames(run: Mapping[str, Any], state: Mapping[str, Any], config: TrainConfig) -> list[Change]:
    """Compare the frames of a run (its :func:`identity`) with those of a checkpoint; return what differs as allowed.

    Raises
    ------
    ValueError
        Naming ``data.train`` or ``data.validation``.
    """
    differ = []
    for part, digest in run["data"].items():
        if (before := state["run"]["data"][part]) != digest:
            if not _allowed(f"data.{part}", config):
                raise ValueError(
                    f"data.{part} must be the frames, labels and weights of the checkpoint, got others; {WAYS_OUT}"
                )
            differ.append(Change(f"data.{part}", str(before)[:12], str(digest)[:12]))
    return differ


def restore(module: TrainingModule, state: Mapping[str, Any], changes: list[Change]) -> None:
    """Load the state of a checkpoint, and continue with what ``resume.allow`` lets change.

    Raises
    ------
    ValueError
        If a change would have nothing left to train.
    """
    load_state(module, state)
    if not changes:
        return
    _apply(module, state, changes)
    if (reason := module.stopped()) is not None:
        raise ValueError(
            f"stop.{reason} must leave something to train where resume.allow lets a run change, got the end "
            f"of the run after epoch {module.epoch - 1}"
        )


def _apply(module: TrainingModule, state: Mapping[str, Any], changes: list[Change]) -> None:
    """Set back what the changes make meaningless: scores, rate, the position in an epoch."""
    config, before = module.config, from_plain(TrainConfig, state["run"]["whole"])
    roots = {c.key.split(".")[0].split("[")[0] for c in changes}
    schedule = module.schedule
    rates = [rate_of_stages(c.optimizer.lr, c.stages, module.epoch) for c in (before, config)]
    if rates[0] != rates[1] or config.schedule.name != before.schedule.name:
        schedule.lr = rates[1]
    if roots & {"schedule", "optimizer", *SCORED}:
        schedule.bad_epochs = 0
    if roots & set(SCORED):
        schedule.best = math.inf
        schedule.stage += 1
        module.softadapt.restart()
    again = module.resumed_at and roots & set(ORDERED)
    if again:
        module.resumed_at = 0
        module.errors["train"].reset()
    log.info(
        "continuing after step %d with %s%s",
        module.steps,
        ", ".join(map(str, changes)),
        f"; epoch {module.epoch} begins again" if again else "",
    )


def _allowed(key: str, config: TrainConfig) -> bool:
    below = any(key == a or key.startswith((f"{a}.", f"{a}[")) for a in config.resume.allow)
    return below and key not in SETTLED


def _fixed(config: TrainConfig) -> dict[str, Any]:
    """Values of the keys that decide what is learned, by dotted path."""
    plain = to_plain(config)
    for name in FREE:
        *parents, last = name.split(".")
        (plain[parents[0]] if parents else plain).pop(last)
    for name in FREE_DATA:
        plain["data"].pop(name)
    if config.model.start_from is not None and not localgraph.is_published_name(config.model.start_from):
        plain["model"]["start_from"] = str(Path(config.model.start_from).resolve())
    return leaves(plain)
