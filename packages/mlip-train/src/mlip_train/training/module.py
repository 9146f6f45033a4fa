"""The Lightning module: steps, moving average, learning rate, validation, and the state that resumes it exactly."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlip_train.config.schema import TrainConfig
from mlip_train.data.batches import Batch
from mlip_train.data.loader import BatchLoader
from mlip_train.report.metrics import Metrics
from mlip_train.steps.eager import Step, StepResult
from mlip_train.steps.loss import Prediction, coefficients, final_coefficients, loss_terms, uses
from mlip_train.steps.verify import Difference, batch_kinds, verified_step
from mlip_train.training.average import exchange, moving_average
from mlip_train.training.schedule import Schedule


def _place() -> tuple[int, int]:
    """Return the number of processes and the rank."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


class TrainingModule(pl.LightningModule):
    """Trains a model on batches; everything that a resumed run needs is in :meth:`state`.

    Parameters
    ----------
    model : EdgeModel
        A torch module.
    config : TrainConfig
        Loss, stages, optimizer, schedule, moving average.
    train, validation : BatchLoader or None
        Where batches come from; the loaders' epoch is set here.
    step : Step or None
        How a step is computed; by default as ``config.compile`` says, compared with eager when training starts.
    """

    def __init__(
        self,
        model: nn.Module,
        config: TrainConfig,
        train: BatchLoader,
        validation: BatchLoader | None = None,
        step: Step | None = None,
    ):
        super().__init__()
        self.model, self.config, self.step = model, config, step
        self.with_stress = uses(config.loss, config.stages)[2]
        self.differences: dict[str, Difference] = {}
        self.train_loader, self.validation_loader = train, validation
        self.average = moving_average(model, config.ema)
        self.schedule = Schedule(
            config.schedule, config.optimizer.lr, config.stages, self._total_steps(world=1)
        )
        names = train.table.type_names
        self.metrics = {"train": Metrics(train.table.subsets, names)}
        if validation is not None:
            self.metrics["validation"] = Metrics(validation.table.subsets, names)
        self.terms = {k: torch.zeros(2, 3, dtype=torch.float64) for k in ("train", "validation")}
        self.epoch = self.steps = 0
        self.seconds = 0.0
        self.history: list[dict[str, float]] = []
        self.improved = False
        self.reason = "epochs"
        self._pending: Any = None
        self._resumed = (0, 0)
        self._clock = time.monotonic()

    def _total_steps(self, world: int) -> int:
        stop = self.config.stop
        per_epoch = math.ceil(len(self.train_loader.batches) / (world * self.config.batch.accumulate))
        return min(per_epoch * stop.epochs, stop.steps or per_epoch * stop.epochs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """AdamW with decay on matrices only; a resumed run's moments are put back."""
        o = self.config.optimizer
        trained = [p for p in self.model.parameters() if p.requires_grad]
        groups = [
            {"params": [p for p in trained if p.ndim >= 2], "weight_decay": o.weight_decay},
            {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=o.lr, betas=o.betas, eps=o.eps, amsgrad=o.amsgrad, fused=True
        )
        if self._pending is not None:
            optimizer.load_state_dict(self._pending)
            self._pending = None
        return optimizer

    def train_dataloader(self) -> BatchLoader:
        """Return the current epoch's micro-batches of this process."""
        old = self.train_loader
        world, rank = _place()
        epoch, consumed = self._resumed
        start = consumed if self.epoch == epoch else 0
        self.train_loader = BatchLoader(
            old.table,
            old.rows,
            old.config,
            old.seed,
            self.epoch,
            True,
            rank,
            world,
            old.prefetch,
            start,
            start,
        )
        return self.train_loader

    def val_dataloader(self) -> BatchLoader | list[Any]:
        """Return this process's share of the validation frames."""
        old = self.validation_loader
        if old is None:
            return []
        world, rank = _place()
        return BatchLoader(old.table, old.rows, old.config, old.seed, 0, False, rank, world, old.prefetch)

    @property
    def weights(self) -> Tensor:
        """Loss weights of this epoch, (3,)."""
        return torch.tensor(
            coefficients(self.config.loss, self.config.stages, self.epoch),
            dtype=torch.float64,
            device=self.device,
        )

    def on_fit_start(self) -> None:
        """Make the step, on the device the model is on now, and compare it with eager on every kind of batch.

        Raises
        ------
        CompileError
            See :func:`~mlip_train.steps.verify.verified_step`.
        """
        self.schedule.total_steps = self._total_steps(_place()[0])
        if self.step is None:
            c = self.config
            kinds = {k: b.to(self.device) for k, b in batch_kinds(self.train_loader).items()}
            self.step, self.differences = verified_step(
                self.model, c.loss, c.compile, kinds, self.weights, self.with_stress
            )

    def on_train_start(self) -> None:
        """Start the clock."""
        self._clock = time.monotonic() - self.seconds

    def on_train_epoch_start(self) -> None:
        """Begin an epoch, or continue one."""
        if self.train_loader.consumed == 0:
            self.schedule.begin_epoch(self.epoch)
            self.metrics["train"].reset()
            self.terms["train"].zero_()
        elif _place()[1]:  # process 0 continues the sums of all
            self.metrics["train"].reset()
            self.terms["train"].zero_()

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one micro-batch, scaled so that Lightning's division by accumulation cancels.

        Raises
        ------
        FloatingPointError
            If the loss is not finite, naming frames of the batch.
        RuntimeError
            Before a step is made.
        """
        if self.step is None:
            raise RuntimeError("step: required before training_step (made in on_fit_start, or passed in)")
        result: StepResult = self.step(batch, self.weights)
        self._check_finite(batch, result.terms, result.prediction)
        self.metrics["train"].update(batch, result.prediction, self.with_stress)
        self._add_terms("train", batch, result.terms)
        self.train_loader.consumed += 1
        if self.config.logging.progress:
            errors = self.metrics["train"].summary()
            for key, name in (("energy_per_atom_rmse", "E meV/atom"), ("forces_rmse", "F meV/Å")):
                if key in errors:
                    self.log(
                        name, 1000.0 * errors[key], prog_bar=True, logger=False, on_step=True, on_epoch=False
                    )
        wrapped = dist.is_initialized() and self.config.hardware.strategy == "ddp"
        return result.loss * (self.config.batch.accumulate * (dist.get_world_size() if wrapped else 1))

    def _check_finite(self, batch: Batch, terms: Tensor, prediction: Prediction) -> None:
        if bool(torch.isfinite(terms).all()):
            return
        bad = ~torch.isfinite(prediction.energy)
        bad[batch.frame[~torch.isfinite(prediction.forces).all(1)]] = True
        rows = (batch.row[bad] if bool(bad.any()) else batch.row).tolist()
        names = [self.train_loader.table.where(row) for row in rows if row >= 0]
        more = f" and {len(names) - 4} more" if len(names) > 4 else ""
        raise FloatingPointError(
            f"epoch {self.epoch}, step {self.steps}: loss must be finite, got {terms.tolist()} (energy, forces, "
            f"stress) in a batch with {'; '.join(names[:4])}{more} (atoms too close, or lower optimizer.lr?)"
        )

    def _add_terms(self, part: str, batch: Batch, terms: Tensor) -> None:
        norms = batch.norms.cpu()
        own = torch.stack(
            [batch.energy_weight.sum(), 3 * batch.force_weight.sum(), 9 * batch.stress_weight.sum()]
        )
        self.terms[part][0] += terms.detach().cpu() * torch.where(norms > 0, norms, 1.0)
        self.terms[part][1] += own.cpu()

    def optimizer_step(
        self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None
    ) -> None:
        """Set the learning rate, step, and move the average."""
        for group in optimizer.param_groups:
            group["lr"] = self.schedule.rate(self.steps)
        optimizer.step(closure=optimizer_closure)
        self.average.update_parameters(self.model)
        self.steps += 1
        if self.config.stop.steps is not None and self.steps >= self.config.stop.steps:
            self._stop("steps")

    def on_validation_start(self) -> None:
        """Replace the weights by the average."""
        exchange(self.model, self.average)
        self.metrics["validation"].reset()
        self.terms["validation"].zero_()

    def on_validation_end(self) -> None:
        """Restore the weights."""
        exchange(self.model, self.average)

    def validation_step(self, batch: Batch, index: int) -> None:
        """Errors of one batch.

        Raises
        ------
        RuntimeError
            Before a step is made.
        """
        if self.step is None:
            raise RuntimeError("step: required before validation_step (made in on_fit_start, or passed in)")
        prediction = self.step.predict(batch)
        self.metrics["validation"].update(batch, prediction, self.with_stress)
        self._add_terms("validation", batch, loss_terms(self.config.loss, batch, prediction))

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
        row: dict[str, float] = {
            "epoch": self.epoch,
            "step": self.steps,
            "lr": self.schedule.rate(self.steps),
        }
        self.seconds = time.monotonic() - self._clock
        row["seconds"] = self.seconds
        final = torch.tensor(
            final_coefficients(self.config.loss, self.config.stages, self.epoch), dtype=torch.float64
        )
        weights = {"train": self.weights.cpu(), "validation": final}
        score = math.nan
        for part, metrics in self.metrics.items():
            metrics.load(self._summed(metrics.state()))
            sums, norms = self._summed(self.terms[part])
            if not norms.any():
                raise RuntimeError(f"epoch {self.epoch}: required {part} frames with labels, got none")
            means = sums / torch.where(norms > 0, norms, 1.0)
            score = float((final * means).sum())
            row[f"{part}/loss"] = float((weights[part] * means).sum())
            row |= {f"{part}/{k}": v for k, v in metrics.summary().items()}
        if not math.isfinite(score):
            raise FloatingPointError(
                f"epoch {self.epoch}: loss must be finite, got {score} (lower optimizer.lr?)"
            )
        self.improved = self.schedule.end_epoch(score)
        self.history.append(row)
        self.epoch += 1
        self.train_loader.consumed = 0
        if (reason := self.stopped()) is not None:
            self._stop(reason)
        return row

    def stopped(self) -> str | None:
        """Return the ``stop`` criterion that is met; within an epoch only the number of epochs counts."""
        stop, schedule = self.config.stop, self.schedule
        if self.epoch >= stop.epochs:
            return "epochs"
        if not self.epoch or self.train_loader.consumed:
            return None
        settled = schedule.settled(self.epoch - 1)
        met = {
            "steps": stop.steps is not None and self.steps >= stop.steps,
            "patience": stop.patience is not None and settled and schedule.bad_epochs > stop.patience,
            "lr": stop.lr is not None and settled and schedule.lr <= stop.lr,
            "seconds": stop.seconds is not None and self._agreed(self.seconds > stop.seconds),
        }
        return next((reason for reason, is_met in met.items() if is_met), None)

    def _summed(self, sums: Tensor) -> Tensor:
        """Sum over processes; the result is on the CPU."""
        total = sums.clone().to(self.device)
        if dist.is_initialized():
            dist.all_reduce(total)
        return total.cpu()

    def _agreed(self, condition: bool) -> bool:
        if not dist.is_initialized():
            return condition
        votes = torch.tensor(float(condition), device=self.device)
        dist.all_reduce(votes)
        return bool(votes > 0)

    def _stop(self, reason: str) -> None:
        self.reason = reason
        self.trainer.should_stop = True

    def state(self) -> dict[str, Any]:
        """Everything that a resumed run needs, as plain data and tensors.

        Call it between optimizer steps, on every process: inside an epoch the errors so far are summed over them.

        Raises
        ------
        FloatingPointError
            If a weight is not finite.
        """
        for name, value in self.model.named_parameters():
            if not bool(torch.isfinite(value).all()):
                raise FloatingPointError(
                    f"step {self.steps}: weights must be finite, got others in {name!r} (lower optimizer.lr?)"
                )
        metrics, terms = self.metrics["train"].state(), self.terms["train"]
        if self.train_loader.consumed:
            metrics, terms = self._summed(metrics), self._summed(terms)
        return {
            "model": dict(self.model.state_dict()),
            "average": dict(self.average.state_dict()),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "schedule": self.schedule.state(),
            "metrics": metrics,
            "terms": terms,
            "epoch": self.epoch,
            "consumed": self.train_loader.consumed,
            "steps": self.steps,
            "seconds": time.monotonic() - self._clock,
            "history": self.history,
            "random": torch.get_rng_state(),
            "world": self.trainer.world_size,
        }

    def load(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`; before the Trainer starts."""
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self._pending = state["optimizer"]
        self.schedule.load(state["schedule"])
        self.metrics["train"].load(state["metrics"])
        self.terms["train"] = state["terms"].clone()
        self.epoch, self.steps, self.seconds = state["epoch"], state["steps"], state["seconds"]
        self._resumed = (state["epoch"], state["consumed"])
        self.train_loader.consumed = state["consumed"]
        self.history = list(state["history"])
        torch.set_rng_state(state["random"])
