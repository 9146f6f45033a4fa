"""Training runs from configuration to model file, metrics and report."""

from __future__ import annotations

import contextlib
import json
import resource
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

import localgraph
from mlip_train.config.load import to_plain
from mlip_train.config.machine import CompileConfig
from mlip_train.config.schema import TrainConfig
from mlip_train.data.loader import BatchLoader
from mlip_train.report.evaluate import Evaluation, evaluate
from mlip_train.report.html import errors_by_element, learning_curves, parity, write_report
from mlip_train.report.run import environment
from mlip_train.steps.verify import batch_kinds, verified_step
from mlip_train.training import checkpoint
from mlip_train.training.callbacks import CHECKPOINT, RunFiles
from mlip_train.training.module import TrainingModule
from mlip_train.training.prepare import MODEL, Prepared, prepare
from mlip_train.training.resume import check_frames, check_resumable, identity
from mlip_train.training.trainer import make_trainer


class FitResult(NamedTuple):
    """Results of :func:`fit`.

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


def _checkpoint(config: TrainConfig, folder: Path) -> Any:
    path = folder / CHECKPOINT
    if config.resume == "must" or path.exists():
        if config.resume == "never":
            raise ValueError(
                f"resume must be 'auto' or 'must' where a checkpoint exists, got 'never' for {str(path)!r}"
            )
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


def _summary(config: TrainConfig, prepared: Prepared) -> dict[str, Any]:
    s = prepared.statistics
    return {
        "config": to_plain(config),
        "statistics": s._asdict() | {"energy_shifts": s.energy_shifts.tolist()},
        "elements": list(prepared.train.table.type_names),
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
        step, _ = verified_step(prepared.model, config.loss, CompileConfig(mode="eager"), kinds, weights)
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
