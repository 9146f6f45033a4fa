"""Schema of the training: loss, stages, optimizer, schedule and the end of a run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlip_train.config.ranges import Count, Factor, Fraction, Natural, NonNegative, Positive


@dataclass(frozen=True)
class LossConfig:
    """The loss: a weighted sum of mean errors of energy per atom, force components and stress components."""

    energy: NonNegative = 1.0
    """Weight of the energy error: (eV/atom)² for mse, eV/atom for mae."""
    forces: NonNegative = 1.0
    """Weight of the force error: (eV/Å)² for mse, eV/Å for mae."""
    stress: NonNegative = 0.0
    """Weight of the stress error: (eV/Å³)² for mse, eV/Å³ for mae."""
    kind: Literal["mse", "mae", "huber"] = "mse"
    """Error function of every term."""
    delta: Positive = 0.01
    """Where huber turns linear, in the units of each quantity."""
    per_atom: bool = True
    """Divide energies by the number of atoms."""


@dataclass(frozen=True)
class StageConfig:
    """Other loss weights and learning rate from an epoch on."""

    epoch: Natural = 0
    """First epoch of the stage, counted from 0."""
    energy: NonNegative | None = None
    """Loss weight of energies from then on; null leaves the weight."""
    forces: NonNegative | None = None
    """Loss weight of forces from then on; null leaves the weight."""
    stress: NonNegative | None = None
    """Loss weight of stresses from then on; null leaves the weight."""
    lr: Positive | None = None
    """Learning rate set once when the stage begins."""
    ramp: Natural = 0
    """Epochs over which the weights pass linearly to the new ones. Validation is scored with the new ones from the
    beginning, so that the epochs of a stage can be compared."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and gradient clipping."""

    lr: Positive = 1e-3
    """Learning rate."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay on parameters with two or more dimensions."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    amsgrad: bool = False
    """Keep the maximum of the second moment."""
    clip: Positive | None = None
    """Largest norm of the whole gradient, after the reduction between processes; null does not clip."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule."""

    name: Literal["plateau", "cosine", "constant"] = "plateau"
    """plateau multiplies by factor after patience epochs without a better weighted validation metric; cosine falls to
    minimum at the last step of the run."""
    factor: Factor = 0.5
    """Factor of a plateau."""
    patience: Natural = 10
    """Epochs of a plateau."""
    minimum: NonNegative = 1e-6
    """Smallest learning rate of plateau and cosine."""
    warmup: Natural = 0
    """Optimizer steps of linear growth at the start."""


@dataclass(frozen=True)
class StopConfig:
    """When to stop: whichever comes first."""

    epochs: Count = 100
    """Passes over the training data."""
    steps: Count | None = None
    """Optimizer steps."""
    seconds: Positive | None = None
    """Wall time of training, counted over restarts; the epoch that is running is finished first."""
    patience: Natural | None = None
    """Epochs without a better weighted validation metric, counted once the last stage has its final weights."""
    lr: NonNegative | None = None
    """Learning rate at which, or below, the plateau schedule has ended, once the last stage has its final weights; at
    least schedule.minimum."""
