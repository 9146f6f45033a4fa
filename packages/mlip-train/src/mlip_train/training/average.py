"""An exponential moving average of weights that can take their place for a while."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn


class MovingAverage:
    """Average a ← d·a + (1 − d)·w of the parameters w after every optimizer step.

    Early on the decay is min(d, (1 + n)/(10 + n)) after n steps, so that the start is forgotten.

    Parameters
    ----------
    model : nn.Module
        Whose parameters are averaged; only those that require gradients move.
    decay : float
        d in [0, 1); 0 makes the average equal to the weights.

    Raises
    ------
    ValueError
        If ``decay`` is outside [0, 1).
    """

    def __init__(self, model: nn.Module, decay: float):
        if not 0.0 <= decay < 1.0:
            raise ValueError(f"ema must be in [0, 1), got {decay}")
        self.decay, self.steps = decay, 0
        self.parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take the weights as they are into the average."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps)) if self.decay else 0.0
        for name, p in self.parameters.items():
            self.average[name] = self.average[name].to(p.device)
            self.average[name].lerp_(p.detach(), 1.0 - decay)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchange the weights and their average; a second call exchanges them back, to the last bit."""
        for name, p in self.parameters.items():
            kept = p.detach().clone()
            p.copy_(self.average[name])
            self.average[name] = kept

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the model's weights by the average inside this context."""
        self.swap()
        try:
            yield
        finally:
            self.swap()

    def state(self) -> dict[str, int | dict[str, Tensor]]:
        """Return the state that :meth:`load` restores."""
        return {"steps": self.steps, "average": dict(self.average)}

    def load(self, state: dict[str, int | dict[str, Tensor]]) -> None:
        """Continue from :meth:`state`.

        Raises
        ------
        ValueError
            For averages of other parameters.
        """
        steps, average = state["steps"], state["average"]
        if not isinstance(steps, int) or not isinstance(average, dict) or set(average) != set(self.average):
            raise ValueError(f"ema must hold the averages of {sorted(self.average)}, got {state.keys()}")
        self.steps = steps
        self.average = {n: average[n].to(self.average[n].device).clone() for n in self.average}
