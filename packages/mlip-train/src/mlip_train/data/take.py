"""The frames of a source that shuffle and take choose."""

from __future__ import annotations

import numpy as np

from mlip_train.config.data import SourceConfig


def chosen(count: int, source: SourceConfig) -> list[int]:
    """Return the places of the chosen ones among ``count`` frames, in their order.

    Raises
    ------
    ValueError
        For ``take`` that is no slice.
    """
    order = np.arange(count)
    if source.shuffle is not None:
        np.random.default_rng(source.shuffle).shuffle(order)
    if source.take is not None:
        try:
            parts = [int(p) if p.strip() else None for p in source.take.split(":")]
        except ValueError:
            parts = []
        if not 1 < len(parts) < 4:
            raise ValueError(f"take must be a slice such as ':100' or '100:', got {source.take!r}")
        order = order[slice(*parts)]
    return [int(i) for i in order]
