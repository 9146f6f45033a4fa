"""Training runs from configuration to model file, metrics and report."""

from __future__ import annotations

import contextlib
import json
import resource
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mlip_train.config.load import to_plain
from mlip_train.config.machine import CompileConfig
from mlip_train.config.schema import TrainConfig
from mlip_train.data.batches import collate
from mlip_train.data.columns import remove_leftovers
from mlip_train.data.resident import bytes_of
from mlip_train.report.evaluate import Evaluation
from mlip_train.report.run import write_results
from mlip_train.steps.verify import batch_kinds, verified_step
from mlip_train.training.callbacks import RunFiles
from mlip_train.training.checkpoint import MODEL
from mlip_train.training.interrupt import Ended, Interrupted, Interruption
from mlip_train.training.lock import locked
from mlip_train.training.module import TrainingModule
from mlip_train.training.prepare import prepare
from mlip_train.training.processes import is_first, runtime
from mlip_train.training.resume import check_frames, find_checkpoint, identity, restore
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
        For bad configuration, data or checkpoints, for a checkpoint of another configuration or of other frames, and
        for an output that another run uses, before training starts.
    FloatingPointError
        If the loss is not finite, naming frames of the batch; the last checkpoint stays.
    Interrupted
        A KeyboardInterrupt, after Ctrl-C, SIGTERM or SIGUSR1 and a checkpoint between two steps.
    CompileError
        If the compiled step cannot be made or disagrees with eager, and ``compile.fallback`` is ``"error"``.
    """
    folder = Path(config.output)
    folder.mkdir(parents=True, exist_ok=True)
    lock = locked(folder) if is_first(config.hardware) else contextlib.nullcontext()
    with lock, Interruption() as interruption, runtime(config.hardware):
        try:
            return _fit(config, folder, interruption)
        except Ended as e:
            raise Interrupted(e.signum, str(e)) from None


def _fit(config: TrainConfig, folder: Path, interruption: Interruption) -> FitResult:
    state, changes = find_checkpoint(config, folder)
    prepared = prepare(config, None if state is None else state["run"]["model"])
    if config.data.cache is None and config.hardware.devices * config.hardware.nodes == 1:
        remove_leftovers(Path(config.cache))
    run, asked, config = identity(config, prepared), config, prepared.config
    module = TrainingModule(prepared.model, config, prepared.train, prepared.validation)
    if state is not None:
        restore(module, state, changes + check_frames(run, state, asked))
    metadata = {"training": prepared.summary()}
    files = RunFiles(folder, metadata, run, config.logging.checkpoint_steps, interruption)
    trainer = make_trainer(config, max(config.stop.epochs - module.epoch, 0), [files])
    if module.stopped() is None:
        (folder / "run.json").write_text(json.dumps(to_plain(asked), indent=2) + "\n")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning")
            warnings.filterwarnings("ignore", message=".*isinstance\\(treespec, LeafSpec\\).*")
            trainer.fit(module)
    interruption.deferred = False
    if not trainer.is_global_zero:
        return FitResult(folder / MODEL, module.history, {})
    facts = {
        "seconds of training": round(module.stop.timer.time_elapsed(), 1),
        "epochs": module.epoch,
        "optimizer steps": module.steps,
        "stopped by": module.stopped(),
    }
    compared = {kind: d._asdict() for kind, d in module.differences.items()}
    evaluations = write_results(
        config, prepared, folder, module.history, facts, compared, trainer.strategy.root_device
    )
    return FitResult(folder / MODEL, module.history, evaluations)


def dry_run(config: TrainConfig) -> dict[str, Any]:
    """Check data, elements, labels and batches, run one eager step of the largest batch, and report what was found.

    Returns
    -------
    dict
        Frames, elements, statistics, parameters, micro-batches per epoch, and in MiB the memory of frames
        that ``data.resident`` keeps on the device and the process's peak.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`fit` does before training.
    """
    with runtime(config.hardware):
        prepared = prepare(config)
        plan = prepared.train
        largest = max(plan.batches, key=lambda rows: int(plan.table.edge_counts[rows].sum()))
        kinds = {"largest": collate(plan.table, np.sort(largest)), **batch_kinds(plan)}
        weights = torch.ones(3, dtype=torch.float64)
        step, _ = verified_step(
            prepared.model, prepared.config.loss, CompileConfig(mode="eager"), kinds, weights
        )
        torch.autograd.backward(step(kinds["largest"], weights).loss)
    parameters = list(prepared.model.parameters())
    return {
        "frames of sources": [
            {"path": file, "frames": count}
            for file, count in zip(plan.table.files, plan.table.source_counts, strict=True)
        ],
        "training frames": len(plan.rows),
        "validation frames": 0 if prepared.validation is None else len(prepared.validation.rows),
        "elements": list(plan.table.type_names),
        "subsets": list(plan.table.subsets),
        "statistics": prepared.statistics.plain(),
        "implausible": prepared.findings,
        "parameters": sum(p.numel() for p in parameters),
        "trained parameters": sum(p.numel() for p in parameters if p.requires_grad),
        "micro-batches per epoch": len(plan.batches),
        "edges in the largest micro-batch": int(plan.table.edge_counts[largest].sum()),
        "frames with data.resident, MiB": bytes_of(plan.table) // 2**20,
        "peak memory, MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }
