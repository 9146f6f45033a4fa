"""Moving average of the weights: torch's AveragedModel, and swapping it with the weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel


class Average(AveragedModel):
    """An average of weights.

    torch's own ``update_parameters`` reads ``n_averaged`` three times from the device, which would wait for it at every
    step; here a number of the host is counted beside it.

    Attributes
    ----------
    decay : float
        d of :func:`moving_average`.
    equal : bool
        Whether all weights since :func:`begin_equal_average` count alike.
    """

    def __init__(self, model: nn.Module, decay: float):
        super().__init__(model)
        self.decay, self.equal = decay, False
        self.requires_grad_(False)
        self.set_count(1)  # 0 would copy the weights at the first update

    def set_count(self, count: int) -> None:
        """Let ``count`` updates have been made."""
        self.count = count
        self.n_averaged.fill_(count)

    def load_state_dict(self, *arguments: Any, **options: Any) -> Any:
        """Restore the average, and the number of updates on the host."""
        found = super().load_state_dict(*arguments, **options)
        self.count = int(self.n_averaged)
        return found

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Move the average after an optimizer step."""
        n = self.count
        if self.equal:
            d = n / (n + 1)
        else:
            d = min(self.decay, (1 + n) / (10 + n)) if self.decay else 0.0
        by_dtype: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
        for averaged, weight in zip(self.module.parameters(), model.parameters(), strict=True):
            pair = by_dtype.setdefault(weight.dtype, ([], []))
            pair[0].append(averaged)
            pair[1].append(weight)
        for averages, weights in by_dtype.values():
            torch._foreach_lerp_(averages, weights, 1.0 - d)
        self.set_count(n + 1)


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
    return Average(model, decay)


def begin_equal_average(average: Average, now: bool) -> None:
    """Average equally over steps (stochastic weight averaging), from the next step on where ``now``."""
    average.equal = True
    if now:
        average.set_count(0)  # the first update copies the weights


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
