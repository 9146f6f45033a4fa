"""Train interatomic potentials with whole-graph compilation and compile-friendly DDP on Lightning."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_train._fit import dry_run, fit
    from mlip_train.config.load import from_plain, load_config
    from mlip_train.config.schema import TrainConfig
    from mlip_train.data.batches import Batch, collate
    from mlip_train.data.build import build_table
    from mlip_train.data.loader import make_loader
    from mlip_train.data.plan import Plan
    from mlip_train.report.evaluate import evaluate
    from mlip_train.steps.compiled import compile_step
    from mlip_train.steps.loss import loss_terms, predict
    from mlip_train.steps.verify import verified_step
    from mlip_train.training.ddp import SyncAfterBackward, reduce_gradients
    from mlip_train.training.module import TrainingModule

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "Plan",
    "SyncAfterBackward",
    "TrainConfig",
    "TrainingModule",
    "build_table",
    "collate",
    "compile_step",
    "dry_run",
    "evaluate",
    "fit",
    "from_plain",
    "load_config",
    "loss_terms",
    "make_loader",
    "predict",
    "reduce_gradients",
    "verified_step",
]

_HOMES = {
    "Batch": "data.batches",
    "Plan": "data.plan",
    "SyncAfterBackward": "training.ddp",
    "TrainConfig": "config.schema",
    "TrainingModule": "training.module",
    "build_table": "data.build",
    "collate": "data.batches",
    "compile_step": "steps.compiled",
    "dry_run": "_fit",
    "evaluate": "report.evaluate",
    "fit": "_fit",
    "from_plain": "config.load",
    "load_config": "config.load",
    "loss_terms": "steps.loss",
    "make_loader": "data.loader",
    "predict": "steps.loss",
    "reduce_gradients": "training.ddp",
    "verified_step": "steps.verify",
}


def __getattr__(name: str) -> Any:
    """Import on first use: compiler and Lightning take seconds, for which ``mlip-train --help`` must not wait."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_train' has no attribute {name!r}")
    return getattr(import_module(f"mlip_train.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
