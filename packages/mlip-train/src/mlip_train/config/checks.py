"""Range checks that types cannot express; errors name the key, before anything is read."""

from __future__ import annotations

from pathlib import Path

from mlip_train.config.schema import SourceConfig, TrainConfig

SPICE_SUFFIXES = (".hdf5", ".h5", ".store")
LABELS = ("energy", "forces", "stress", "virial", "energy_scale", "force_scale")
"""Options that say how labels are found in a file that ASE reads."""


def is_spice(path: str) -> bool:
    """Whether a file is read by spice-data: one in SPICE's layout, or a store."""
    return Path(path).suffix.lower() in SPICE_SUFFIXES


def check_source(source: SourceConfig, path: str) -> None:
    """Reject a negative weight, and options that the kind of file has no use for.

    Raises
    ------
    ValueError
        Naming the option below ``path``, what was required and what was received.
    """
    if source.weight < 0:
        raise ValueError(f"{path}.weight must be a non-negative number, got {source.weight}")
    suffix = Path(source.path).suffix.lower()
    useless = {".store": LABELS, ".hdf5": ("split", "part", *LABELS), ".h5": ("split", "part", *LABELS)}.get(
        suffix, ("split", "part", "charge", "exclude")
    )
    default = SourceConfig()
    for name in useless:
        if (value := getattr(source, name)) != getattr(default, name):
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
    """Reject numbers out of range and sources' options that do not apply.

    Raises
    ------
    ValueError
        Naming the dotted path, what was required and what was received.
    """
    for part in ("train", "validation", "test"):
        for i, source in enumerate(getattr(config.data, part)):
            check_source(source, f"data.{part}[{i}]")
    least = {"batch.accumulate": (config.batch.accumulate, 1), "stop.epochs": (config.stop.epochs, 1)}
    least["stop.steps"] = (1 if config.stop.steps is None else config.stop.steps, 1)
    weighted = {"loss": config.loss} | {f"stages[{i}]": stage for i, stage in enumerate(config.stages)}
    for path, holder in weighted.items():
        for name in ("energy", "forces", "stress"):
            least[f"{path}.{name}"] = (getattr(holder, name) or 0, 0)
    for path, (value, smallest) in least.items():
        if not value >= smallest:
            raise ValueError(f"{path} must be at least {smallest}, got {value}")
    lr, schedule = config.stop.lr, config.schedule
    if lr is not None and schedule.name == "plateau" and lr < schedule.minimum:
        raise ValueError(f"stop.lr must be at least schedule.minimum ({schedule.minimum}), got {lr}")
