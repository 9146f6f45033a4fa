"""The Lightning module: steps, moving average, learning rate, validation, and the end of an epoch."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from mlip_train.config.schema import TrainConfig
from mlip_train.data.batches import Batch
from mlip_train.data.feed import Feed
from mlip_train.data.plan import Plan
from mlip_train.data.resident import Request
from mlip_train.report.metrics import Errors
from mlip_train.steps.eager import Step, StepResult
from mlip_train.steps.loss import coefficients, final_coefficients, loss_terms
from mlip_train.steps.verify import Difference, batch_kinds, verified_step
from mlip_train.training.average import begin_equal_average, exchange, moving_average
from mlip_train.training.finite import LossCheck
from mlip_train.training.optimizer import load_moments, make_optimizer, read_average
from mlip_train.training.processes import Votes, place
from mlip_train.training.schedule import Schedule, precision
from mlip_train.training.softadapt import SoftAdapt
from mlip_train.training.stop import Stop

SHOW_EVERY = 1.0
"""Seconds between errors that the progress bar shows: they are read from the device, which waits for it."""


class TrainingModule(pl.LightningModule):
    """Trains a model on batches; :mod:`mlip_train.training.state` saves and restores everything that it needs.

    Parameters
    ----------
    model : EdgeModel
        A torch module.
    config : TrainConfig
        Loss, stages, optimizer, schedule, moving average.
    train, validation : Plan or None
        Which batches; epoch, position and share of the process are set here.
    step : Step or None
        How a step is computed; by default as ``config.compile`` says, compared with eager when training starts.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        train: Plan,
        validation: Plan | None = None,
        step: Step | None = None,
    ):
        super().__init__()
        self.model, self.config, self.step = model, config, step
        self.with_stress = config.weighted.stress
        self.differences: dict[str, Difference] = {}
        self.plan, self.validation_plan = train, validation
        self.average = moving_average(model, config.ema)
        self.stop = Stop(config.stop)
        self.schedule = Schedule(
            config.schedule,
            config.optimizer.lr,
            config.stages,
            self.stop.total_steps(self._steps_of_epoch(1)),
        )
        self.softadapt = SoftAdapt(config.loss)
        plans = {"train": train} | ({} if validation is None else {"validation": validation})
        self.errors = {part: Errors(p.table.subsets, p.table.type_names) for part, p in plans.items()}
        self.feed = Feed(plans, config.data.loaders, config.data.resident)
        self.epoch = self.steps = self.resumed_at = 0
        self.history: list[dict[str, float]] = []
        self.improved = False
        self.loss_check = LossCheck(train.table)
        self.votes = Votes()
        self.received: Callable[[], int] = int
        self._shown = -math.inf
        self._weights: tuple[list[float], Tensor] | None = None
        self.saved_stage: int | None = None
        self.moments: Any = None

    def _steps_of_epoch(self, world: int) -> int:
        return math.ceil(len(self.plan.batches) / (world * self.config.batch.accumulate))

    def configure_callbacks(self) -> list[pl.Callback]:
        """Add the timer of ``stop.seconds``."""
        return [self.stop.timer]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Build the optimizer; a resumed run's moments are put back."""
        optimizer = make_optimizer(self.model, self.config.optimizer)
        if self.moments is not None:
            load_moments(optimizer, self.moments)
            self.moments = None
        if self.config.optimizer.name == "schedulefree":
            optimizer.train()  # type: ignore[attr-defined]
        return optimizer

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the current epoch's micro-batches of this process."""
        world, rank = place()
        self.plan.share(rank, world)
        self.plan.begin(self.epoch, self.resumed_at)
        self.resumed_at = 0
        return self.feed.loader("train", self.device)

    def transfer_batch_to_device(
        self, batch: Batch | Request, device: torch.device, dataloader_idx: int
    ) -> Batch:
        """Copy a batch, or gather it on the device."""
        return self.feed.transfer(batch, device)

    def val_dataloader(self) -> DataLoader[Any] | list[Any]:
        """Return this process's share of the validation frames."""
        plan = self.validation_plan
        if plan is None:
            return []
        world, rank = place()
        plan.share(rank, world)
        return self.feed.loader("validation", self.device)

    @property
    def weights(self) -> Tensor:
        """Return the loss weights of this epoch, (3,)."""
        now = self.softadapt.apply(coefficients(self.config.loss, self.config.stages, self.epoch))
        if self._weights is None or self._weights[0] != now or self._weights[1].device != self.device:
            self._weights = now, torch.tensor(now, dtype=torch.float64, device=self.device)
        return self._weights[1]

    def on_fit_start(self) -> None:
        """Make the step, on the device the model is on now, and compare it with eager on every kind of batch.

        Raises
        ------
        CompileError
            See :func:`~mlip_train.steps.verify.verified_step`.
        """
        self.schedule.total_steps = self.stop.total_steps(self._steps_of_epoch(place()[0]))
        for errors in self.errors.values():
            errors.to(self.device)
        self.feed.begin(self.device, self.config.logging.progress and not place()[1])
        if self.step is None:
            c = self.config
            kinds = {k: b.to(self.device) for k, b in batch_kinds(self.plan).items()}
            self.step, self.differences = verified_step(
                self.model, c.loss, c.compile, kinds, self.weights, self.with_stress
            )

    def on_train_epoch_start(self) -> None:
        """Begin an epoch, or continue one."""
        if self.plan.position == 0:
            self.schedule.begin_epoch(self.epoch)
        if self.config.swa is not None and self.epoch >= self.config.swa:
            begin_equal_average(self.average, self.epoch == self.config.swa and self.plan.position == 0)
        torch.set_float32_matmul_precision(precision(self.config, self.epoch))
        if self.plan.position == 0 or place()[1]:  # process 0 continues the sums of all
            self.errors["train"].reset()

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Begin to agree on the signal to end with and the part of the time that has passed."""
        if self.plan.position % self.config.batch.accumulate == 0:
            self.votes.begin([float(self.received()), self.stop.part_here()], self.device)

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Compute the loss of one micro-batch, scaled so that Lightning's division by accumulation cancels.

        Raises
        ------
        FloatingPointError
            If the loss is not finite, naming frames of the batch (on a GPU one step late).
        RuntimeError
            If the step has not been built yet.
        """
        if self.step is None:
            raise RuntimeError("step must be made before training_step, in on_fit_start, or passed in")
        result: StepResult = self.step(batch, self.weights)
        where = f"epoch {self.epoch}, step {self.steps}"
        self.loss_check.add(batch, result.terms, result.prediction, where)
        self.errors["train"].update(batch, result.prediction, result.terms, self.with_stress)
        self.plan.position += 1
        if self.config.logging.progress and time.monotonic() - self._shown > SHOW_EVERY:
            self._show_errors()
            self._shown = time.monotonic()
        wrapped = dist.is_initialized() and self.config.hardware.strategy == "ddp"
        return result.loss * (self.config.batch.accumulate * (dist.get_world_size() if wrapped else 1))

    def _show_errors(self) -> None:
        errors = self.errors["train"].summary()
        for key, name in (("energy_per_atom_rmse", "E meV/atom"), ("forces_rmse", "F meV/Å")):
            if key in errors:
                value = 1000.0 * errors[key]
                self.log(name, value, prog_bar=True, logger=False, on_step=True, on_epoch=False)

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Set the learning rate, step, and move the average."""
        passed = self.votes.read()[1] if dist.is_initialized() else self.stop.part_of_time(self.device)
        rate = self.schedule.rate(self.steps, passed)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step(closure=optimizer_closure)
        if self.config.optimizer.name != "schedulefree":
            self.average.update_parameters(self.model)
        self.steps += 1
        if passed >= 1.0 or self.steps >= (self.config.stop.steps or math.inf):
            self.trainer.should_stop = True

    def settle_average(self) -> None:
        """Copy the average of an optimizer that keeps it itself (schedule-free)."""
        if self.config.optimizer.name == "schedulefree":
            read_average(self.model, self.trainer.optimizers[0], self.average)

    def on_validation_start(self) -> None:
        """Swap in the moving average of the weights."""
        self.settle_average()
        exchange(self.model, self.average)
        self.errors["validation"].reset()

    def on_validation_end(self) -> None:
        """Swap the trained weights back in."""
        exchange(self.model, self.average)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Add the errors of one batch to those of the epoch.

        Raises
        ------
        RuntimeError
            If the step has not been built yet.
        """
        if self.step is None:
            raise RuntimeError("step must be made before validation_step, in on_fit_start, or passed in")
        prediction = self.step.predict(batch)
        terms = loss_terms(self.config.loss, batch, prediction, self.plan.table.type_names)
        self.errors["validation"].update(batch, prediction, terms, self.with_stress)

    def finish_epoch(self) -> dict[str, float]:
        """Reduce errors over processes, move the schedule, decide whether to stop; a row of ``metrics.csv``.

        Validation is scored with the weights at the end of a ramp, so that scores of one stage can be compared.

        Raises
        ------
        FloatingPointError
            If the loss is not finite.
        RuntimeError
            If no frame had a label.
        """
        self.loss_check.finish()
        self.settle_average()
        row: dict[str, float] = {
            "epoch": self.epoch,
            "step": self.steps,
            "lr": self.schedule.rate(self.steps, self.stop.part_of_time(self.device)),
            "seconds": self.stop.timer.time_elapsed(),
        }
        ends = final_coefficients(self.config.loss, self.config.stages, self.epoch)
        final = torch.tensor(ends, dtype=torch.float64)
        weights = {"train": self.weights.cpu(), "validation": final}
        score, terms = math.nan, [0.0] * 3
        for part, errors in self.errors.items():
            with errors.sync_context():
                if not bool(errors.norms.any()):
                    raise RuntimeError(
                        f"data.{part} must have frames with labels, got none in epoch {self.epoch}"
                    )
                means = errors.means().cpu()
                score = float((final * means).sum())
                if part == "train":
                    terms = means.tolist()
                row[f"{part}/loss"] = float((weights[part] * means).sum())
                row |= {f"{part}/{k}": v for k, v in errors.summary().items()}
        if not math.isfinite(score):
            raise FloatingPointError(
                f"epoch {self.epoch}: loss must be finite, got {score} (lower optimizer.lr?)"
            )
        self.softadapt.end_epoch(terms)
        self.improved = self.schedule.end_epoch(score)
        self.history.append(row)
        self.epoch += 1
        self.plan.position = 0
        if self.stopped() is not None:
            self.trainer.should_stop = True
        return row

    def stopped(self) -> str | None:
        """Return the ``stop`` criterion that is met; within an epoch only the number of epochs counts."""
        inside = not self.epoch or self.plan.position > 0 or self.resumed_at > 0
        return self.stop.met(self.epoch, self.steps, inside, self.schedule, self.device)
