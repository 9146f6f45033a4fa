"""Checks that every source has the labels that the loss weighs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mlip_train.config.checks import is_spice
from mlip_train.config.data import SourceConfig
from mlip_train.config.load import nearest
from mlip_train.data.frames import FrameTable

LABELS = {"energy": ("energy",), "forces": ("forces",), "stress": ("stress", "virial")}
"""Terms of the loss and the keys of a source that give their labels."""


def check_labels(
    table: FrameTable,
    sources: Sequence[SourceConfig],
    part: str,
    needed: tuple[bool, bool, bool],
    partial: bool = False,
) -> None:
    """Require labels whose loss weight is ever not zero.

    Parameters
    ----------
    table : FrameTable
        Frames.
    sources : sequence of SourceConfig
        Those that the table was built from.
    part : str
        Their dotted key, such as ``data.train``.
    needed : tuple of bool
        Whether energy, forces and stress have a weight.
    partial : bool
        Allow frames without a label in a source of which other frames have it.

    Raises
    ------
    ValueError
        For a label that no frame of a source has, naming its key and the keys that the file has, unless the key is
        null; for a label that some frames lack, naming the first; and for a label that no source has.
    """
    labels = table.label_weights
    source = np.asarray(table.arrays["source"])
    weighted = (np.asarray(table.arrays["weight"]) > 0) & (table.atom_counts > 0)
    for is_needed, (name, keys), present in zip(needed, LABELS.items(), labels, strict=True):
        if not is_needed:
            continue
        for i, config in enumerate(sources):
            rows = np.flatnonzero(weighted & (source == i))
            if len(rows) and not (is_absent(config, name) or (present[rows] > 0).all()):
                _report(
                    table, config, f"{part}[{i}]", name, keys, rows[present[rows] == 0], len(rows), partial
                )
        if weighted.any() and not (present[weighted] > 0).any():
            raise ValueError(
                f"loss.{name} must be 0 where no frame of {part} has this label, got another weight"
            )


def is_absent(source: SourceConfig, name: str) -> bool:
    """Whether a source says, by null for its keys or by its kind of file, that it has no such label."""
    if is_spice(source.path):
        return name == "stress" and not source.path.endswith(".store")
    return all(getattr(source, key) is None for key in LABELS[name])


def _report(
    table: FrameTable,
    source: SourceConfig,
    path: str,
    name: str,
    keys: tuple[str, ...],
    missing: NDArray[np.int64],
    count: int,
    partial: bool,
) -> None:
    """Raise for a label that some or all of the ``count`` weighted frames of a source lack."""
    axes = "; a stress needs three periodic axes" if name == "stress" else ""
    used = [key for key in keys if getattr(source, key) is not None]
    given = " or ".join(repr(getattr(source, key)) for key in used)
    if len(missing) == count and not is_spice(source.path):
        found = next(s.keys for s in table.sources if s.config is source)
        similar = nearest(getattr(source, used[0]), found)
        raise ValueError(
            f"{source.path}: {' or '.join(f'{path}.{key}' for key in used)} must be the key of a label of the file, as "
            f"loss.{name} is not 0, got {given}; keys there: {found}{similar}{axes} (null: the source has none)"
        )
    if not partial:
        raise ValueError(
            f"{table.where(int(missing[0]))}, key {given} must be present where loss.{name} is not zero, got none "
            f"({len(missing)} of {count} frames{axes}; data.partial_labels: true admits them)"
        )
