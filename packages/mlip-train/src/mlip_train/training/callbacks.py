"""Callbacks that write metrics, checkpoints and models, end a run on a signal, and show progress."""

from __future__ import annotations

import csv
import io
import shutil
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

import localgraph
from localgraph import atomic_write
from mlip_train.training import checkpoint
from mlip_train.training.average import exchanged
from mlip_train.training.checkpoint import CHECKPOINT, MODEL
from mlip_train.training.interrupt import Ended, Interruption
from mlip_train.training.processes import agreed
from mlip_train.training.state import save_state


class RunFiles(pl.Callback):
    """Writes metrics.csv, the checkpoint and the best model while a run goes on (process 0).

    Parameters
    ----------
    folder : Path
        Output.
    metadata, run : dict
        Written into model and checkpoint.
    steps : int or None
        Also write the checkpoint every so many steps.
    interruption : Interruption
        Signals that end the run.
    """

    def __init__(
        self,
        folder: Path,
        metadata: dict[str, Any],
        run: dict[str, Any],
        steps: int | None,
        interruption: Interruption,
    ):
        self.folder, self.metadata, self.run, self.steps = folder, metadata, run, steps
        self.interruption = interruption
        self._written = 0

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """From now on signals are remembered until a step is complete."""
        self.interruption.defer()
        module.received = lambda: self.interruption.received

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write a checkpoint every ``steps`` steps and before the end on a signal, except at the end of an epoch."""
        plan = module.plan
        if plan.position % module.config.batch.accumulate or plan.position >= plan.total:
            return
        alone = trainer.world_size == 1  # several processes agreed before the step
        signum = self.interruption.received if alone else int(module.votes.read()[0])
        if signum or (self.steps and module.steps > self._written and module.steps % self.steps == 0):
            self._save(trainer, module)
        if signum:
            raise Ended(signum, f"stopped after step {module.steps}; {self._continue()}")

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Write metrics, the model if it is the best so far, and a checkpoint."""
        row = module.finish_epoch()
        for logger in trainer.loggers:
            logger.log_metrics(row, step=module.steps)
        if trainer.is_global_zero:
            write_csv(self.folder / "metrics.csv", module.history)
            if module.improved:
                self._save_best(module, row)
            self._keep(module, row)
        if module.improved:
            module.saved_stage = module.schedule.stage
        self._save(trainer, module)
        if (signum := int(agreed(self.interruption.received, module.device))) and not trainer.should_stop:
            raise Ended(signum, f"stopped after epoch {module.epoch - 1}; {self._continue()}")

    def _continue(self) -> str:
        return f"the same command continues from {self.folder / CHECKPOINT}"

    def _keep(self, module: Any, row: dict[str, float]) -> None:
        """Write the models that ``logging`` asks for beside the best one."""
        wanted, epoch = module.config.logging, int(row["epoch"])
        metadata = {**self.metadata, "training": {**self.metadata["training"], "epoch": row}}
        names = [f"model.epoch{epoch}"] if wanted.keep_every and (epoch + 1) % wanted.keep_every == 0 else []
        names += ["model.last"] if wanted.keep_last else []
        if names:
            with exchanged(module.model, module.average):
                for name in names:
                    localgraph.save_model(self.folder / f"{name}.safetensors", module.model, metadata)
        if wanted.keep_raw:
            localgraph.save_model(self.folder / "model.raw.safetensors", module.model, metadata)

    def _save_best(self, module: Any, row: dict[str, float]) -> None:
        """Write the best model; that of an earlier stage, with other loss weights, is kept beside it."""
        path, stage = self.folder / MODEL, module.saved_stage
        if stage is not None and stage != module.schedule.stage and path.exists():
            with path.open("rb") as old, atomic_write(path.with_suffix(f".stage{stage}.safetensors")) as new:
                shutil.copyfileobj(old, new)
        best = row | {"stage": module.schedule.stage}
        metadata = {**self.metadata, "training": {**self.metadata["training"], "best": best}}
        with exchanged(module.model, module.average):
            localgraph.save_model(path, module.model, metadata)

    def _save(self, trainer: Any, module: Any) -> None:
        self._written = module.steps
        state = save_state(module)
        if trainer.is_global_zero:
            checkpoint.save(self.folder / CHECKPOINT, state | {"run": self.run})


class Progress(TQDMProgressBar):
    """A progress bar per epoch with running energy and force errors."""

    def get_metrics(self, trainer: Any, pl_module: Any) -> dict[str, Any]:
        """Errors without Lightning's version number."""
        items = super().get_metrics(trainer, pl_module)
        items.pop("v_num", None)
        return items


def write_csv(path: Path, history: list[dict[str, float]]) -> None:
    """Write rows under a temporary name, then rename; columns are the union of the rows' keys.

    Lightning's CSVLogger removes the rows of before a restart.
    """
    names = list(dict.fromkeys(k for row in history for k in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(history)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
