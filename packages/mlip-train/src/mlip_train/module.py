"""The Lightning module: steps, moving average, learning rate, validation, and the state that resumes it exactly."""

from __future__ import annotations

import math
import time
from typing import Any

import lightning.pytorch as pl
import torch
import torch.distributed as dist
from torch import Tensor, nn

from mlip_train.batching import Batch, BatchLoader
from mlip_train.config import TrainConfig
from mlip_train.ema import MovingAverage
from mlip_train.loss import coefficients, loss_terms, uses
from mlip_train.metrics import Metrics
from mlip_train.schedule import Schedule
from mlip_train.steps import Step, StepResult
from mlip_train.verify import Difference, batch_kinds, verified_step


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
        self.average = MovingAverage(model, config.ema)
        steps = math.ceil(train.total / config.batch.accumulate) * config.stop.epochs
        self.schedule = Schedule(
            config.schedule, config.optimizer.lr, config.stages, config.stop.steps or steps
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
        """The current epoch's micro-batches of this process."""
        old = self.train_loader
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
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
        """This process's share of the validation frames."""
        old = self.validation_loader
        if old is None:
            return []
        world, rank = (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)
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
        """Make the step, on the device the model is on now, and compare it with eager on every kind of batch."""
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

    def training_step(self, batch: Batch, index: int) -> Tensor:
        """Loss of one micro-batch, scaled so that Lightning's division by accumulation cancels."""
        if self.step is None:
            raise RuntimeError("step: required before training_step (made in on_fit_start, or passed in)")
        result: StepResult = self.step(batch, self.weights)
        self.metrics["train"].update(batch, result.prediction)
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
        self.average.update()
        self.steps += 1
        if self.config.stop.steps is not None and self.steps >= self.config.stop.steps:
            self._stop("steps")

    def on_validation_start(self) -> None:
        """The average takes the place of the weights."""
        self.average.swap()
        self.metrics["validation"].reset()
        self.terms["validation"].zero_()

    def on_validation_end(self) -> None:
        """The weights come back."""
        self.average.swap()

    def validation_step(self, batch: Batch, index: int) -> None:
        """Errors of one batch."""
        if self.step is None:
            raise RuntimeError("step: required before validation_step (made in on_fit_start, or passed in)")
        prediction = self.step.predict(batch)
        self.metrics["validation"].update(batch, prediction)
        self._add_terms("validation", batch, loss_terms(self.config.loss, batch, prediction))

    def finish_epoch(self) -> dict[str, float]:
        """Reduce errors over processes, move the schedule, decide whether to stop; a row of ``metrics.csv``."""
        row: dict[str, float] = {
            "epoch": self.epoch,
            "step": self.steps,
            "lr": self.schedule.rate(self.steps),
        }
        self.seconds = time.monotonic() - self._clock
        row["seconds"] = self.seconds
        weights = self.weights.cpu()
        score = math.nan
        for part, metrics in self.metrics.items():
            state, terms = metrics.state(), self.terms[part].clone().to(self.device)
            if dist.is_initialized():
                state = state.to(self.device)
                dist.all_reduce(state)
                dist.all_reduce(terms)
            metrics.load(state.cpu())
            sums, norms = terms.cpu()
            if not norms.any():
                raise RuntimeError(f"epoch {self.epoch}: required {part} frames with labels, got none")
            score = float((weights * sums / torch.where(norms > 0, norms, 1.0)).sum())
            row[f"{part}/loss"] = score
            row |= {f"{part}/{k}": v for k, v in metrics.summary().items()}
        if not math.isfinite(score):
            raise FloatingPointError(
                f"epoch {self.epoch}: required a finite loss, got {score} (lower optimizer.lr?)"
            )
        self.improved = self.schedule.end_epoch(score)
        self.history.append(row)
        stop = self.config.stop
        if stop.patience is not None and self.schedule.bad_epochs > stop.patience:
            self._stop("patience")
        if stop.lr is not None and self.schedule.lr < stop.lr:
            self._stop("lr")
        if stop.seconds is not None and self._agreed(self.seconds > stop.seconds):
            self._stop("seconds")
        self.epoch += 1
        self.train_loader.consumed = 0
        return row

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
        """Everything that a resumed run needs, as plain data and tensors; call it between optimizer steps."""
        return {
            "model": dict(self.model.state_dict()),
            "average": self.average.state(),
            "optimizer": self.trainer.optimizers[0].state_dict(),
            "schedule": self.schedule.state(),
            "metrics": self.metrics["train"].state(),
            "terms": self.terms["train"],
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
        self.average.load(state["average"])
        self._pending = state["optimizer"]
        self.schedule.load(state["schedule"])
        self.metrics["train"].load(state["metrics"])
        self.terms["train"] = state["terms"].clone()
        self.epoch, self.steps, self.seconds = state["epoch"], state["steps"], state["seconds"]
        self._resumed = (state["epoch"], state["consumed"])
        self.train_loader.consumed = state["consumed"]
        self.history = list(state["history"])
        torch.set_rng_state(state["random"])
