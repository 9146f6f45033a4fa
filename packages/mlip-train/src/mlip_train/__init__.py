"""Train interatomic potentials with whole-graph compilation and compile-friendly DDP on Lightning."""

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
