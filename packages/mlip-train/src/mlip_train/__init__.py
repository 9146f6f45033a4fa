"""Train interatomic potentials with whole-graph compilation and compile-friendly DDP on Lightning."""

from mlip_train.batching import Batch, BatchLoader, collate
from mlip_train.compile import compile_step
from mlip_train.config import TrainConfig
from mlip_train.evaluate import evaluate
from mlip_train.fit import dry_run, fit
from mlip_train.loss import loss_terms, predict
from mlip_train.module import TrainingModule
from mlip_train.settings import from_plain, load
from mlip_train.strategy import SyncAfterBackward, reduce_gradients
from mlip_train.table import build_table
from mlip_train.verify import verified_step

__version__ = "0.1.0"

__all__ = [
    "Batch",
    "BatchLoader",
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
    "load",
    "loss_terms",
    "predict",
    "reduce_gradients",
    "verified_step",
]
