"""The learning rate at every step: warm-up, plateau or cosine, and the stages' own rates."""

from __future__ import annotations

import math
from typing import Any

from mlip_train.config.schema import TrainConfig
from mlip_train.config.training import ScheduleConfig, StageConfig

WARMUP = 100
"""Largest number of steps of the default warm-up."""


def precision(config: TrainConfig, epoch: int) -> str:
    """Return the precision of float32 matrix products in an epoch."""
    begun = [s for s in sorted(config.stages, key=lambda s: s.epoch) if s.epoch <= epoch]
    found = [s.matmul_precision for s in begun if s.matmul_precision is not None]
    return found[-1] if found else config.hardware.matmul_precision


def rate_of_stages(lr: float, stages: tuple[StageConfig, ...], epoch: int) -> float:
    """Return the rate that was set last before an epoch begins: that of a stage, or ``lr``."""
    set_before = [s for s in sorted(stages, key=lambda s: s.epoch) if s.epoch < epoch and s.lr is not None]
    return float(set_before[-1].lr) if set_before and set_before[-1].lr is not None else lr


class Schedule:
    """Learning rate as a function of the optimizer step and of the validation metric so far.

    Parameters
    ----------
    config : ScheduleConfig
        Which schedule.
    lr : float
        The rate it multiplies.
    stages : tuple of StageConfig
        Stages with an ``lr`` set the rate again.
    total_steps : int
        Length of the run, for the cosine.

    Attributes
    ----------
    stage : int
        Number of stages with other loss weights that have begun; scores of different ones cannot be compared.
    """

    def __init__(self, config: ScheduleConfig, lr: float, stages: tuple[StageConfig, ...], total_steps: int):
        self.config, self.stages, self.total_steps = config, stages, max(total_steps, 1)
        self.lr = self.start = lr
        self.best = math.inf
        self.bad_epochs = self.stage = 0

    def rate(self, step: int, time: float = 0.0) -> float:
        """Learning rate of optimizer step ``step``, counted from 0, when the part ``time`` of stop.seconds is over."""
        c = self.config
        lr = self.lr
        if c.name == "cosine":
            part = min(max(step / self.total_steps, time), 1.0)
            lr = c.minimum + (self.lr - c.minimum) * 0.5 * (1.0 + math.cos(math.pi * part))
        if c.warmup is None:
            return lr * min(1.0, max((step + 1) / max(min(WARMUP, self.total_steps // 20), 1), 20 * time))
        return lr * min(1.0, (step + 1) / c.warmup) if c.warmup else lr

    def begin_epoch(self, epoch: int) -> None:
        """Apply the rate of a stage that begins with this epoch.

        The best metric is forgotten where the stage changes loss weights. Epochs without a better metric are counted
        from the beginning of a stage, and again from the end of a ramp.
        """
        for stage in self.stages:
            if stage.epoch == epoch:
                self.lr = stage.lr if stage.lr is not None else self.lr
                self.bad_epochs = 0
                if any(weight is not None for weight in (stage.energy, stage.forces, stage.stress)):
                    self.best = math.inf
                    self.stage += 1
            elif stage.ramp and epoch == stage.epoch + stage.ramp - 1:
                self.bad_epochs = 0

    def settled(self, epoch: int) -> bool:
        """Whether the last stage has its final weights in an epoch."""
        return all(epoch >= stage.epoch + max(stage.ramp - 1, 0) for stage in self.stages)

    def end_epoch(self, metric: float) -> bool:
        """Take the weighted validation metric into account; True where it is the best of this stage."""
        if metric < self.best:
            self.best, self.bad_epochs = metric, 0
            return True
        self.bad_epochs += 1
        if self.config.name == "plateau" and self.bad_epochs % (self.config.patience + 1) == 0:
            self.lr = max(self.lr * self.config.factor, self.config.minimum)
        return False

    def state(self) -> dict[str, Any]:
        """Return the state that :meth:`load` restores."""
        return {"lr": self.lr, "best": self.best, "bad_epochs": self.bad_epochs, "stage": self.stage}

    def load(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.lr, self.best = state["lr"], state["best"]
        self.bad_epochs, self.stage = state["bad_epochs"], state["stage"]
