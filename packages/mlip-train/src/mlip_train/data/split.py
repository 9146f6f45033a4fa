"""Training frames and frames held out for validation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mlip_train.config.data import DataConfig
from mlip_train.data.frames import FrameTable


def hold_out(table: FrameTable, config: DataConfig, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows of a table for training and those held out for validation, as ``data.validation_*`` say."""
    return split(len(table), config.validation_fraction, seed, table.isolated, groups_of(table, config))


def groups_of(table: FrameTable, config: DataConfig) -> NDArray[np.int64] | None:
    """Return the number of what is held out whole for each frame, (F,); None where that is the frame."""
    if config.validation_by == "frame":
        return None
    source = table.arrays["source"]
    if config.validation_by == "group":
        return np.unique(table.arrays["group"], return_inverse=True)[1]
    counts = np.bincount(source, minlength=len(table.sources))
    place = np.arange(len(table)) - (np.cumsum(counts) - counts)[source]
    block = np.stack([source, place // config.validation_block], 1)
    return np.unique(block, axis=0, return_inverse=True)[1].reshape(-1)


def split(
    count: int,
    fraction: float,
    seed: int,
    keep: NDArray[np.bool_] | None = None,
    groups: NDArray[np.int64] | None = None,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows for training and rows held out, each sorted; those marked by ``keep`` (count,) are not held out.

    Of two frames or more, at least one is held out unless the fraction is 0. Frames of one number in ``groups``
    (count,) stay together, except those that are kept; of two groups or more, at least one is held out and one is not.

    Raises
    ------
    ValueError
        For a fraction outside [0, 1).
    """
    if not 0.0 <= fraction < 1.0:
        raise ValueError(f"data.validation_fraction must be in [0, 1), got {fraction}")
    order = np.random.default_rng([seed, 1]).permutation(count)
    free = order if keep is None else order[~keep[order]]
    if groups is not None and fraction:
        drawn = list(dict.fromkeys(groups[free].tolist()))[:-1]
        sizes = np.cumsum([np.count_nonzero(groups[free] == group) for group in drawn])
        enough = int(np.searchsorted(sizes, round(count * fraction))) + 1
        held = free[np.isin(groups[free], drawn[:enough])]
        return np.setdiff1d(order, held), np.sort(held)
    held = free[: max(round(count * fraction), 1) if count > 1 and fraction else 0]
    return np.setdiff1d(order, held), np.sort(held)
