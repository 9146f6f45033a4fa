"""Assignment of frames to micro-batches within size budgets."""

from __future__ import annotations

import numpy as np

from mlip_train.config.data import BatchConfig
from mlip_train.data.batches import Indices


def plan(
    atoms: Indices,
    edges: Indices,
    config: BatchConfig,
    generator: np.random.Generator | None,
    scale: float = 1.0,
) -> list[Indices]:
    """Divide frames into micro-batches within the budgets.

    Parameters
    ----------
    atoms, edges : (F,) int64
        Sizes of the frames.
    config : BatchConfig
        Budgets and buckets.
    generator : numpy Generator or None
        Draws the order; ``None`` keeps the frames in order (evaluation).
    scale : float
        Multiplies the budgets.

    Returns
    -------
    list of (n,) int64
        Every frame exactly once.

    Raises
    ------
    ValueError
        If no budget is given, or a single frame exceeds one.
    """
    sizes = {"frames": np.ones_like(atoms), "atoms": atoms, "edges": edges}
    budgets = {k: getattr(config, k) for k in sizes if getattr(config, k) is not None}
    if not budgets:
        raise ValueError("batch must set at least one of frames, atoms or edges, got none")
    for name, budget in budgets.items():
        if len(atoms) and sizes[name].max() > budget:
            worst = int(sizes[name].argmax())
            raise ValueError(
                f"batch.{name} must hold the largest frame ({int(sizes[name][worst])} {name}, row "
                f"{worst}), got {budget}"
            )
    limits = {
        name: max(budget * scale, float(sizes[name].max(initial=0))) for name, budget in budgets.items()
    }
    order = np.arange(len(atoms))
    if generator is not None:
        generator.shuffle(order)
        if config.buckets and len(order):
            mean = max(min(limits[n] / max(sizes[n].mean(), 1e-9) for n in limits), 1.0)
            width = max(int(mean * config.buckets), 1)
            blocks = [order[i : i + width] for i in range(0, len(order), width)]
            order = np.concatenate([b[np.argsort(edges[b], kind="stable")] for b in blocks])
    batches: list[Indices] = []
    start = 0
    filled = dict.fromkeys(limits, 0.0)
    for at, f in enumerate(order):
        if at > start and any(filled[n] + sizes[n][f] > limits[n] for n in limits):
            batches.append(order[start:at])
            start, filled = at, dict.fromkeys(limits, 0.0)
        for n in limits:
            filled[n] += float(sizes[n][f])
    if start < len(order):
        batches.append(order[start:])
    if generator is not None:
        generator.shuffle(batches)
    return batches
