"""SoftAdapt: loss weights that follow how fast the terms of the loss fall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from mlip_train.config.training import LossConfig


class SoftAdapt:
    """Factors of the loss weights, by the softmax of the normalized changes of the terms over an epoch.

    Heydari, Thompson and Mehmood, arXiv 1912.12355. The softmax is multiplied by the configured weights, whose sum is
    kept. After each epoch the shares w_k exp(β Δ_k/‖Δ‖)/Σ_j w_j exp(β Δ_j/‖Δ‖) of terms with changes Δ are computed;
    their mean over ``softadapt_epochs`` epochs then holds for the next so many.

    Parameters
    ----------
    config : LossConfig
        ``softadapt`` (β, or None: factors are 1) and ``softadapt_epochs``.

    Attributes
    ----------
    factors : list of float
        Of the weights of energy, forces and stress.
    """

    def __init__(self, config: LossConfig):
        self.beta, self.epochs = config.softadapt, config.softadapt_epochs
        self.factors = [1.0, 1.0, 1.0]
        self.before: list[float] | None = None
        self.found: list[list[float]] = []

    def apply(self, weights: Sequence[float]) -> list[float]:
        """Return the weights times the factors, with their sum as before."""
        scaled = [f * w for f, w in zip(self.factors, weights, strict=True)]
        total = sum(scaled)
        return [sum(weights) * s / total for s in scaled] if self.beta is not None and total else scaled

    def end_epoch(self, terms: Sequence[float]) -> None:
        """Take the mean terms (3,) of the training loss of an epoch into account."""
        if self.beta is None:
            return
        if self.before is not None:
            changes = [now - before for now, before in zip(terms, self.before, strict=True)]
            norm = math.sqrt(sum(c * c for c in changes)) or 1.0
            powers = [math.exp(self.beta * c / norm) for c in changes]
            self.found.append([p / sum(powers) for p in powers])
        self.before = list(terms)
        if len(self.found) == self.epochs:
            self.factors = [sum(row[i] for row in self.found) / self.epochs for i in range(3)]
            self.found = []

    def restart(self) -> None:
        """Forget the terms so far, whose errors were others; the factors stay."""
        self.before, self.found = None, []

    def state(self) -> dict[str, Any]:
        """Return the state that :meth:`load` restores."""
        return {"factors": self.factors, "before": self.before, "found": self.found}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.factors, self.before, self.found = state["factors"], state["before"], list(state["found"])
