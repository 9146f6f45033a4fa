"""Schema of the training: loss, stages, optimizer, schedule and the end of a run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mlip_train.config.ranges import Count, Factor, Fraction, Natural, NonNegative, Positive

Kind = Literal["mse", "mae", "huber"]


@dataclass(frozen=True)
class LossConfig:
    """The loss: a weighted sum of mean errors of energy per atom, force components and stress components."""

    energy: NonNegative = 1.0
    """Weight of the energy error: (eV/atom)² for mse, eV/atom for mae."""
    forces: NonNegative = 1.0
    """Weight of the force error: (eV/Å)² for mse, eV/Å for mae."""
    stress: NonNegative | None = None
    """Weight of the stress error: (eV/Å³)² for mse, eV/Å³ for mae. null takes, where all frames have stresses, the
    square (mae: the first power) of the mean volume per atom, so that the error counts as that of virials per atom, in
    eV; else 0."""
    kind: Kind = "mse"
    """Error function of every term."""
    delta: Positive = 0.01
    """Where huber turns linear, in the units of each quantity."""
    energy_kind: Kind | None = None
    """Error function of energies; null takes kind."""
    forces_kind: Kind | None = None
    """Error function of force components; null takes kind."""
    stress_kind: Kind | None = None
    """Error function of stress components; null takes kind."""
    energy_delta: Positive | None = None
    """Where huber turns linear for energies, eV/atom; null takes delta."""
    forces_delta: Positive | None = None
    """Where huber turns linear for force components, eV/Å; null takes delta."""
    stress_delta: Positive | None = None
    """Where huber turns linear for stress components, eV/Å³; null takes delta."""
    force_deltas: dict[NonNegative, Positive] = field(default_factory=dict)
    """Stratified (conditional) Huber error of forces: smallest size of the labeled force of an atom, eV/Å, to the delta
    from there on, {0: 0.01, 5: 0.02}; below the first one it is half the squared error. nequip-allegro calls it
    delta_dict."""
    element_weights: dict[str, NonNegative] = field(default_factory=dict)
    """Factor of the force errors of an element, {H: 0.5}; 1 for elements left out. The loss normalization ignores
    these factors."""
    per_atom: bool = True
    """Divide energies by the number of atoms."""
    softadapt: Positive | None = None
    """Steepness beta of SoftAdapt: weights grow where the term of the training loss falls least, their sum stays. null
    leaves the weights as they are. Validation is scored without it."""
    softadapt_epochs: Count = 5
    """Epochs over which SoftAdapt averages before it sets the weights."""


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
    matmul_precision: Literal["highest", "high", "medium"] | None = None
    """Precision of float32 matrix products from then on, instead of hardware.matmul_precision (high allows TF32); null
    leaves it."""
    ramp: Natural = 0
    """Epochs over which the weights pass linearly to the new ones. Validation is scored with the new ones from the
    beginning, so that the epochs of a stage can be compared."""


@dataclass(frozen=True)
class OptimizerConfig:
    """Optimizer and gradient clipping."""

    name: Literal["muon", "adamw", "schedulefree"] = "muon"
    """muon, which orthogonalizes the momentum of matrices and leaves the rest to AdamW; adamw for all; or schedulefree,
    AdamW that averages the weights itself (package schedulefree; schedule.name: constant and ema: 0)."""
    lr: Positive = 2e-2
    """Learning rate. An update of muon has the root mean square of AdamW's, 0.2 times the rate."""
    weight_decay: NonNegative = 0.0
    """Decoupled weight decay on parameters with two or more dimensions."""
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    """Decay of the two moments."""
    eps: Positive = 1e-8
    """Added to the denominator."""
    amsgrad: bool = False
    """Keep the maximum of the second moment (adamw)."""
    momentum: Fraction = 0.95
    """Decay of the momentum of matrices (muon)."""
    adamw: tuple[str, ...] = ()
    """Prefixes of the names of matrices that AdamW trains although muon trains matrices: embeddings, the readout. A
    prefix that matches no parameter is an error."""
    clip: Positive | None = None
    """Largest norm of the whole gradient, after the reduction between processes; null does not clip."""


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule."""

    name: Literal["plateau", "cosine", "constant"] = "cosine"
    """cosine falls to minimum at the end of the run: of stop.epochs, stop.steps or stop.seconds, whichever is nearer;
    plateau multiplies by factor after patience epochs without a better weighted validation metric."""
    factor: Factor = 0.5
    """Factor of a plateau."""
    patience: Natural = 10
    """Epochs of a plateau."""
    minimum: NonNegative = 1e-6
    """Smallest learning rate of plateau and cosine."""
    warmup: Natural | None = None
    """Optimizer steps of linear growth at the start; null takes a twentieth of the run, at most 100."""


@dataclass(frozen=True)
class StopConfig:
    """When to stop: whichever comes first."""

    epochs: Count = 100
    """Passes over the training data."""
    steps: Count | None = None
    """Optimizer steps."""
    seconds: Positive | None = None
    """Wall time of training, counted over restarts; the run ends with the step in which it is over, and validation."""
    patience: Natural | None = None
    """Epochs without a better weighted validation metric, counted once the last stage has its final weights."""
    lr: NonNegative | None = None
    """Learning rate at which, or below, the plateau schedule has ended, once the last stage has its final weights; at
    least schedule.minimum."""
