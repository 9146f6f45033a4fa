"""Checks before a run is resumed: the same configuration, but for a few keys, and the same frames."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import localgraph
from mlip_train.config.load import to_plain
from mlip_train.config.schema import TrainConfig
from mlip_train.training.prepare import Prepared

FREE = ("output", "resume", "stop", "logging", "hardware", "compile", "batch.evaluate")
"""Keys that may change."""
FREE_DATA = ("train", "validation", "test", "cache", "workers", "loaders", "isolated", "partial_labels")
"""Keys of ``data`` that may; frames are compared themselves, so that files may be moved."""
WAYS_OUT = "choose another output, or remove the checkpoint to start again"


def identity(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    """Return what identifies a run: values of keys and hashes of frames."""
    return {
        "config": _fixed(config),
        "data": {
            "train": prepared.train.table.digest(),
            "validation": prepared.validation.table.digest()
            if config.data.validation and prepared.validation is not None
            else None,
        },
    }


def check_resumable(config: TrainConfig, state: Mapping[str, Any]) -> None:
    """Compare a configuration with the one a checkpoint was written with.

    Raises
    ------
    ValueError
        Naming by dotted path what differs, or another number of processes in the middle of an epoch.
    """
    before, now = state["run"]["config"], _fixed(config)
    differ = [
        f"{key} ({before.get(key)!r} in the checkpoint, now {now.get(key)!r})"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if differ:
        raise ValueError(
            f"resume must find the configuration of the checkpoint in {config.output!r}, got other values of "
            f"{', '.join(differ)}; {WAYS_OUT}"
        )
    world = config.hardware.devices * config.hardware.nodes
    if state["position"] and state["world"] != world:
        raise ValueError(
            f"hardware.devices must give {state['world']} processes to resume in the middle of an epoch, got {world}"
        )


def check_frames(run: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Compare the frames of a run (its :func:`identity`) with those of a checkpoint.

    Raises
    ------
    ValueError
        Naming ``data.train`` or ``data.validation``.
    """
    for part, digest in run["data"].items():
        if state["run"]["data"][part] != digest:
            raise ValueError(
                f"data.{part} must be the frames, labels and weights of the checkpoint, got others; {WAYS_OUT}"
            )


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
    return dict(_leaves(plain, ""))


def _leaves(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        parts = [(f"{path}.{k}" if path else str(k), v) for k, v in value.items()]
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        parts = [(f"{path}[{i}]", v) for i, v in enumerate(value)]
    else:
        return [(path, value)]
    return [leaf for name, v in parts for leaf in _leaves(v, name)]
