"""Callbacks that write metrics, checkpoints and models, and show progress."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.callbacks import TQDMProgressBar

import localgraph
from localgraph import atomic_write
from mlip_train.training import checkpoint
from mlip_train.training.average import exchanged
from mlip_train.training.prepare import MODEL

CHECKPOINT = "checkpoint.safetensors"


class RunFiles(pl.Callback):
    """Writes metrics.csv, the checkpoint and the best model while a run goes on (process 0)."""

    def __init__(self, folder: Path, metadata: dict[str, Any], run: dict[str, Any], steps: int | None):
        self.folder, self.metadata, self.run, self.steps = folder, metadata, run, steps
        self._written = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write a checkpoint every ``steps`` steps, except at the last step of an epoch."""
        loader = module.train_loader
        between = loader.consumed % module.config.batch.accumulate == 0 and loader.consumed < loader.total
        if self.steps and between and module.steps > self._written and module.steps % self.steps == 0:
            self._save(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """Write metrics, the model if it is the best so far, and a checkpoint."""
        row = module.finish_epoch()
        for logger in trainer.loggers:
            logger.log_metrics(row, step=module.steps)
        if trainer.is_global_zero:
            write_csv(self.folder / "metrics.csv", module.history)
            if module.improved:
                with exchanged(module.model, module.average):
                    metadata = {**self.metadata, "training": {**self.metadata["training"], "best": row}}
                    localgraph.save_model(self.folder / MODEL, module.model, metadata)
        self._save(trainer, module)

    def _save(self, trainer: Any, module: Any) -> None:
        self._written = module.steps
        state = module.state()
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
    """Write rows under a temporary name, then rename; columns are the union of the rows' keys."""
    names = list(dict.fromkeys(k for row in history for k in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(history)
    with atomic_write(path) as file:
        file.write(text.getvalue().encode())
