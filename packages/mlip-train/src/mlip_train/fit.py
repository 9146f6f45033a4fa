"""One run from its configuration to a model file, metrics and a report."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import os
import platform
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.utilities.exceptions import MisconfigurationException

import localgraph
from localgraph.files import replacing
from mlip_train import checkpoint
from mlip_train.batching import BatchLoader
from mlip_train.config import CompileConfig, TrainConfig
from mlip_train.evaluate import Evaluation, evaluate
from mlip_train.module import TrainingModule
from mlip_train.prepare import Prepared, prepare
from mlip_train.report import errors_by_element, learning_curves, parity, write_report
from mlip_train.resume import check_frames, check_resumable, identity
from mlip_train.settings import to_plain
from mlip_train.strategy import SyncAfterBackward
from mlip_train.verify import batch_kinds, verified_step

CHECKPOINT = "checkpoint.safetensors"
MODEL = "model.safetensors"


class FitResult(NamedTuple):
    """What :func:`fit` leaves.

    Attributes
    ----------
    model : Path
        Model file with the moving average of the weights at the best weighted validation metric.
    history : list of dict
        One row per epoch, as in ``metrics.csv``.
    evaluations : dict
        Errors on ``validation`` and ``test`` with those weights.
    """

    model: Path
    history: list[dict[str, float]]
    evaluations: dict[str, Evaluation]


class RunFiles(pl.Callback):
    """Writes metrics.csv, the checkpoint and the best model while a run goes on (process 0)."""

    def __init__(self, folder: Path, metadata: dict[str, Any], run: dict[str, Any], steps: int | None):
        self.folder, self.metadata, self.run, self.steps = folder, metadata, run, steps
        self._written = 0

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The checkpoint every so many steps; the last step of an epoch is left to the end of the epoch."""
        loader = module.train_loader
        between = loader.consumed % module.config.batch.accumulate == 0 and loader.consumed < loader.total
        if self.steps and between and module.steps > self._written and module.steps % self.steps == 0:
            self._save(trainer, module)

    def on_train_epoch_end(self, trainer: Any, module: Any) -> None:
        """A row of metrics, the model if it is the best so far, and the checkpoint."""
        row = module.finish_epoch()
        for logger in trainer.loggers:
            logger.log_metrics(row, step=module.steps)
        if trainer.is_global_zero:
            write_csv(self.folder / "metrics.csv", module.history)
            if module.improved:
                with module.average.in_place():
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


def fit(config: TrainConfig) -> FitResult:
    """Train as configured; resume if ``output`` holds a checkpoint.

    Parameters
    ----------
    config : TrainConfig
        Paths relative to the working directory.

    Returns
    -------
    FitResult

    Raises
    ------
    ValueError, FileNotFoundError
        For bad configuration, data or checkpoints, and for a checkpoint of another configuration or of other frames,
        before training starts.
    FloatingPointError
        If the loss is not finite, naming frames of the batch; the last checkpoint stays.
    CompileError
        If the compiled step cannot be made or disagrees with eager, and ``compile.fallback`` is ``"error"``.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    state = _checkpoint(config, folder)
    if state is not None:
        check_resumable(config, state)
    with _runtime(config):
        prepared = prepare(config)
        module = TrainingModule(prepared.model, config, prepared.train, prepared.validation)
        run = identity(config, prepared)
        if state is not None:
            check_frames(run, state)
            module.load(state)
        metadata = {"training": _summary(config, prepared)}
        files = RunFiles(folder, metadata, run, config.logging.checkpoint_steps)
        trainer = make_trainer(config, max(config.stop.epochs - module.epoch, 0), [files])
        if (reason := module.stopped()) is not None:
            module.reason = reason
        else:
            (folder / "run.json").write_text(json.dumps(to_plain(config), indent=2) + "\n")
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", module="lightning")
                warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
                trainer.fit(module)
        if not trainer.is_global_zero:
            return FitResult(folder / MODEL, module.history, {})
        return _finish(config, folder, prepared, module, trainer.strategy.root_device)


def make_trainer(config: TrainConfig, epochs: int, callbacks: list[pl.Callback]) -> pl.Trainer:
    """A Lightning Trainer for :class:`~mlip_train.module.TrainingModule` with the settings of a run.

    Raises
    ------
    ValueError
        For hardware that the machine does not have.
    ImportError
        For a logger whose package is absent.
    """
    h = config.hardware
    strategy: Any = "auto"
    if h.devices * h.nodes > 1 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        strategy = SyncAfterBackward(bucket_mib=h.bucket_mib) if h.strategy == "sync" else "ddp"
    if config.logging.progress:
        callbacks = [*callbacks, Progress()]
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="lightning")
        try:
            return pl.Trainer(
                accelerator=h.accelerator,
                devices=h.devices,
                num_nodes=h.nodes,
                strategy=strategy,
                max_epochs=epochs,
                min_epochs=0,
                accumulate_grad_batches=config.batch.accumulate,
                gradient_clip_val=config.optimizer.clip,
                callbacks=callbacks,
                logger=_loggers(config),
                enable_checkpointing=False,
                enable_model_summary=False,
                enable_progress_bar=config.logging.progress,
                num_sanity_val_steps=0,
                use_distributed_sampler=False,
                reload_dataloaders_every_n_epochs=1,
                inference_mode=False,
                log_every_n_steps=1,
                default_root_dir=config.output,
            )
        except MisconfigurationException as e:
            raise ValueError(
                f"hardware: required what this machine has, got accelerator {h.accelerator!r}, devices {h.devices}: {e}"
            ) from None


def _loggers(config: TrainConfig) -> list[Any] | bool:
    made: list[Any] = []
    for name in config.logging.loggers:
        try:
            if name == "tensorboard":
                from lightning.pytorch.loggers import TensorBoardLogger

                made.append(TensorBoardLogger(config.output, name="tensorboard", version=""))
            else:
                from lightning.pytorch.loggers import WandbLogger

                made.append(WandbLogger(save_dir=config.output, name=Path(config.output).name))
        except ImportError as e:
            raise ImportError(
                f"logging.loggers: required the package of {name!r} (pip install {name}): {e}"
            ) from None
    return made or False


def _checkpoint(config: TrainConfig, folder: Path) -> Any:
    path = folder / CHECKPOINT
    if config.resume == "must" or path.exists():
        if config.resume == "never":
            raise ValueError(f"resume: 'never' required a directory without checkpoint, got {str(path)!r}")
        return checkpoint.load(path)
    return None


@contextlib.contextmanager
def _runtime(config: TrainConfig) -> Iterator[None]:
    """Threads and matrix precision for the duration of the run; both are put back."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(config.hardware.matmul_precision)
    if config.hardware.threads is not None:
        torch.set_num_threads(config.hardware.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


def write_csv(path: Path, history: list[dict[str, float]]) -> None:
    """Write rows under a temporary name, then rename; columns are the union of the rows' keys."""
    names = list(dict.fromkeys(k for row in history for k in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, names)
    writer.writeheader()
    writer.writerows(history)
    with replacing(path) as file:
        file.write(text.getvalue().encode())


def _summary(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    s = prepared.statistics
    return {
        "config": to_plain(config),
        "statistics": s._asdict() | {"energy_shifts": s.energy_shifts.tolist()},
        "elements": list(prepared.train.table.type_names),
    }


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    import lightning

    import mlip_train

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "mlip-train": mlip_train.__version__,
        "localgraph": localgraph.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }


def _finish(
    config: TrainConfig, folder: Path, prepared: Prepared, module: TrainingModule, device: torch.device
) -> FitResult:
    model, _ = localgraph.load_model(folder / MODEL)
    model = model.to(device)
    shifts, evaluations = prepared.statistics.energy_shifts, {}
    stress = module.with_stress
    if prepared.validation is not None:
        v = prepared.validation
        evaluations["validation"] = evaluate(model, v.table, shifts, v.rows, config.batch, stress)
    if prepared.test is not None:
        evaluations["test"] = evaluate(model, prepared.test, shifts, None, config.batch, stress)
    tables = {name: e.tables for name, e in evaluations.items()}
    (folder / "errors.json").write_text(json.dumps(tables, indent=2) + "\n")
    if config.logging.report:
        images = [folder / "learning_curves.png"]
        learning_curves(module.history, images[0])
        for name, evaluation in evaluations.items():
            images += [folder / f"parity_{name}.png", folder / f"elements_{name}.png"]
            parity(evaluation, images[-2], name)
            errors_by_element(evaluation, images[-1])
        facts = {
            "Timing": {
                "seconds of training": round(module.seconds, 1),
                "epochs": module.epoch,
                "optimizer steps": module.steps,
                "stopped by": module.reason,
            },
            "Compiled against eager": {k: d._asdict() for k, d in module.differences.items()},
            "Training data": prepared.statistics._asdict() | {"energy_shifts": shifts.tolist()},
            "Configuration": to_plain(config),
            "Environment": environment(),
        }
        write_report(
            folder / "report.html", f"{config.model.name}: {folder.name}", evaluations, images, facts
        )
    return FitResult(folder / MODEL, module.history, evaluations)


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Check data, elements, labels and batches, run one eager step of the largest batch, and say what was found.

    Returns
    -------
    dict
        Frames, elements, statistics, parameters, micro-batches per epoch, and the process's peak memory in MiB.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`fit` does before training.
    """
    with _runtime(config):
        prepared = prepare(config)
        loader = prepared.train
        largest = max(loader.batches, key=lambda rows: int(loader.table.edge_counts[rows].sum()))
        heavy = BatchLoader(loader.table, np.sort(largest), loader.config, shuffle=False, prefetch=0)
        kinds = {"largest": next(iter(heavy)), **batch_kinds(loader)}
        weights = torch.ones(3, dtype=torch.float64)
        step, _ = verified_step(prepared.model, config.loss, CompileConfig(way="eager"), kinds, weights)
        step(kinds["largest"], weights).loss.backward()
    parameters = list(prepared.model.parameters())
    return {
        "training frames": len(loader.rows),
        "validation frames": 0 if prepared.validation is None else len(prepared.validation.rows),
        "elements": list(loader.table.type_names),
        "subsets": list(loader.table.subsets),
        "statistics": prepared.statistics._asdict()
        | {"energy_shifts": prepared.statistics.energy_shifts.tolist()},
        "parameters": sum(p.numel() for p in parameters),
        "trained parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "micro-batches per epoch": len(loader.batches),
        "edges in the largest micro-batch": int(loader.table.edge_counts[largest].sum()),
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
