"""When a run ends: the criteria of ``stop``."""

from __future__ import annotations

from datetime import timedelta

import torch
from lightning.pytorch.callbacks import Timer

from mlip_train.config.training import StopConfig
from mlip_train.training.processes import agreed
from mlip_train.training.schedule import Schedule


class Stop:
    """The criteria of ``stop``, and the clock of ``stop.seconds``.

    Lightning's EarlyStopping knows no stages and cannot say before the first epoch that a run has ended.

    Attributes
    ----------
    timer : Timer
        Lightning's, a callback of the Trainer.
    """

    def __init__(self, config: StopConfig):
        self.config = config
        duration = None if config.seconds is None else timedelta(seconds=config.seconds)
        self.timer = Timer(duration, interval="epoch", verbose=False)

    def total_steps(self, per_epoch: int) -> int:
        """Return the number of optimizer steps of a whole run with so many in an epoch."""
        most = per_epoch * self.config.epochs
        return min(most, self.config.steps or most)

    def part_of_time(self, device: torch.device) -> float:
        """Return the fraction of ``stop.seconds`` that has passed in any process."""
        return 0.0 if self.config.seconds is None else agreed(self.part_here(), device)

    def part_here(self) -> float:
        """Return the fraction of ``stop.seconds`` that has passed in this process."""
        seconds = self.config.seconds
        return 0.0 if seconds is None else self.timer.time_elapsed() / seconds

    def met(
        self, epoch: int, steps: int, inside: bool, schedule: Schedule, device: torch.device
    ) -> str | None:
        """Return the criterion that is met so far; ``inside`` an epoch only ``epochs`` counts."""
        stop = self.config
        if epoch >= stop.epochs:
            return "epochs"
        if inside:
            return None
        settled = schedule.settled(epoch - 1)
        criteria = {
            "steps": stop.steps is not None and steps >= stop.steps,
            "patience": stop.patience is not None and settled and schedule.bad_epochs > stop.patience,
            "lr": stop.lr is not None and settled and schedule.lr <= stop.lr,
            "seconds": self.part_of_time(device) >= 1.0,
        }
        return next((reason for reason, is_met in criteria.items() if is_met), None)
