"""Moving average of the weights: torch's AveragedModel, and swapping it with the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """An average of weights.

    Attributes
    ----------
    equal : bool
        Whether all weights since :func:`begin_equal_average` count alike.
    """

    equal: bool = False


def moving_average(model: nn.Module, decay: float) -> Average:
    """Build an average a ← d·a + (1 − d)·w of the parameters w for ``update_parameters`` after every optimizer step.

    Early on the decay is min(d, (1 + n)/(10 + n)) after n steps, so that the start is forgotten. After
    :func:`begin_equal_average` it is n/(n + 1): all weights since then count alike.

    Parameters
    ----------
    model : nn.Module
        Whose parameters are averaged; the average starts with them.
    decay : float
        d in [0, 1); 0 makes the average equal to the weights.

    Raises
    ------
    ValueError
        If ``decay`` is outside [0, 1).
    """
    if not 0.0 <= decay < 1.0:
        raise ValueError(f"ema must be in [0, 1), got {decay}")

    @torch.no_grad()
    def update(average: Sequence[Tensor], weights: Sequence[Tensor], steps: Tensor | int) -> None:
        n = int(steps)
        if averaged.equal:
            d = n / (n + 1)
        else:
            d = min(decay, (1 + n) / (10 + n)) if decay else 0.0
        for a, w in zip(average, weights, strict=True):
            a.lerp_(w, 1.0 - d)

    averaged = Average(model, multi_avg_fn=update)
    averaged.requires_grad_(False)
    averaged.n_averaged.fill_(1)  # otherwise the first update would copy the weights
    return averaged


def begin_equal_average(average: Average, now: bool) -> None:
    """Average equally over steps (stochastic weight averaging), from the next step on where ``now``."""
    average.equal = True
    if now:
        average.n_averaged.zero_()  # the first update copies the weights


@torch.no_grad()
def exchange(model: nn.Module, average: AveragedModel) -> None:
    """Exchange the weights and their average in place; a second call exchanges them back, to the last bit."""
    for weight, averaged in zip(model.parameters(), average.module.parameters(), strict=True):
        kept = weight.detach().clone()
        weight.copy_(averaged)
        averaged.copy_(kept)


@contextlib.contextmanager
def exchanged(model: nn.Module, average: AveragedModel) -> Iterator[None]:
    """Give the model the average of its weights inside this context."""
    exchange(model, average)
    try:
        yield
    finally:
        exchange(model, average)
