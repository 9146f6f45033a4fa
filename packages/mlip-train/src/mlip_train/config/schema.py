"""Schema of a run's YAML file: the run and its model. A key's text and range are those that ``fit --help`` shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mlip_train.config.data import BatchConfig, DataConfig, StatisticsConfig
from mlip_train.config.machine import CompileConfig, HardwareConfig, LoggingConfig
from mlip_train.config.ranges import Fraction, Natural, Seed
from mlip_train.config.training import LossConfig, OptimizerConfig, ScheduleConfig, StageConfig, StopConfig


class Terms(NamedTuple):
    """Something about each term of the loss."""

    energy: bool
    forces: bool
    stress: bool


@dataclass(frozen=True)
class ModelConfig:
    """Model to train and its initial weights."""

    name: str = "allegro"
    """A name registered under the entry-point group mlip.models."""
    config: dict[str, Any] = field(default_factory=dict)
    """Keys of the model. type_names, avg_num_neighbors, energy_shifts and energy_scales are filled from the training
    data where absent."""
    start_from: str | None = None
    """A model file, the name of a published model, or the output folder of a run, to fine-tune: its weights are the
    start, and name and config are its own."""
    freeze: tuple[str, ...] = ()
    """Freeze parameters whose names start with one of these prefixes; a prefix that matches no parameter is an
    error."""
    refit_energies: bool = False
    """With start_from: move the per-element energy shifts (E0, energy_shifts) of the start model, as trained, by a fit
    to the difference between the labels and what it predicts, pulled towards no change (a change of level of theory is
    mainly a constant per element)."""
    add_elements: tuple[str, ...] = ()
    """With start_from: elements that the start model does not have. Rows for them are added to its embeddings and
    tables, and their energy shifts are fitted to the labels; those of the old elements stay, unless refit_energies
    moves them after that. model.safetensors then knows the old and the new ones."""


@dataclass(frozen=True)
class ResumeConfig:
    """Whether and how an existing checkpoint in output is continued."""

    mode: Literal["auto", "never", "must"] = "auto"
    """auto continues a checkpoint if there is one; with never an existing one is an error, with must a missing one is.
    The frames and everything that decides what is learned must be what they were; stop, logging, hardware, compile and
    data.test may change."""
    allow: tuple[str, ...] = ()
    """Keys that may change nevertheless, each with what is below it: optimizer, schedule, stages, loss, batch, data,
    statistics, ema, swa, seed, or one key such as optimizer.lr or data.train. Weights, moving average, moments and
    constants of the model stay. Where scores cannot be compared any more, the best model so far is kept beside the new
    one, as at a stage."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    output: str = "run"
    """Folder that receives model, checkpoint, metrics and report."""
    seed: Seed = 0
    """Seed of the initial weights, of the split and of the order of batches."""
    ema: Fraction = 0.999
    """Decay of the moving average of the weights that validation, test and the saved model use; 0 switches it off."""
    swa: Natural | None = None
    """Epoch (from 0) at which SWA (stochastic weight averaging) starts: from then on validation, test and the saved
    model use the plain mean of the weights over all later steps; null keeps the moving average. A stage sets the
    learning rate for it."""
    resume: ResumeConfig = field(default_factory=ResumeConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    stages: tuple[StageConfig, ...] = ()
    """Stages; see the keys of a stage below."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)

    @property
    def weighted(self) -> Terms:
        """Which terms the loss or a stage gives a weight other than 0."""
        parts = (self.loss, *self.stages)
        return Terms(*(any(getattr(part, term) for part in parts) for term in Terms._fields))

    @property
    def cache(self) -> str:
        """Folder of stores and tables."""
        return self.data.cache or str(Path(self.output) / "cache")
