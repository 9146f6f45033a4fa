"""Configuration schema: frozen dataclasses, read from one YAML file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class ModelConfig:
    """Model to train and its initial weights.

    Attributes
    ----------
    name : str
        A name registered under the entry-point group ``mlip.models``.
    config : dict
        Plain data for the model's ``from_config``. ``type_names``, ``avg_num_neighbors``,
        ``energy_shifts`` and ``energy_scales`` are filled from the training data where absent.
    start_from : str or None
        A model file to fine-tune: its weights are the start, ``name`` and ``config`` are taken from it.
    freeze : tuple of str
        Freeze parameters whose names start with one of these prefixes; a prefix that matches no
        parameter is an error.
    refit_energies : bool
        With ``start_from``: move the atomic energies of the start model, as trained, by a fit to the difference
        between the labels and what it predicts, pulled towards no change (another level of theory moves the atomic
        energies first of all).
    add_elements : tuple of str
        With ``start_from``: elements that the start model does not have. Rows for them are added to its embeddings and
        tables, and their atomic energies are fitted to the labels; those of the old elements stay, unless
        ``refit_energies`` moves them after that. ``model.safetensors`` then knows the old and the new ones.
    """

    name: str = "allegro"
    config: dict[str, Any] = field(default_factory=dict)
    start_from: str | None = None
    freeze: tuple[str, ...] = ()
    refit_energies: bool = False
    add_elements: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceConfig:
    """One file of labelled frames; an option that its kind of file has no use for is an error.

    Attributes
    ----------
    path : str
        A SPICE file (``.hdf5``, ``.h5``), or anything ASE reads. Relative paths are relative to the YAML file.
    subset : str or None
        Name under which metrics are reported; by default the file's own subset names (SPICE), else its stem.
    weight : float
        Weight of each of its frames in the loss, not negative; multiplied by the frame's own ``config_weight`` if it
        has one.
    energy, forces, stress, virial : str
        Keys of the labels (files ASE reads): eV, eV/Å, eV/Å³ (positive under tension, ASE's sign), eV (−V·stress).
    energy_scale, force_scale : float
        Multiply the labels in a file that ASE reads to give eV and eV/Å (SPICE files and stores name their units).
    split : str or None
        SPICE stores only: a split file that ``spice-data split`` wrote for this store.
    part : {"train", "val", "test"} or None
        With ``split``: which of its lists to take.
    take : str or None
        A Python slice of the file's frames, e.g. ``":450"``; applied last, after ``part``, ``charge``, ``exclude`` and
        ``shuffle``.
    shuffle : int or None
        Seed of a shuffle of the frames before ``take``.
    charge : int or None
        SPICE files and stores: keep the molecules with this total charge.
    exclude : tuple of str
        SPICE files and stores: subset names (exact) to leave out.
    """

    path: str = ""
    subset: str | None = None
    weight: float = 1.0
    energy: str = "energy"
    forces: str = "forces"
    stress: str = "stress"
    virial: str = "virial"
    energy_scale: float = 1.0
    force_scale: float = 1.0
    split: str | None = None
    part: Literal["train", "val", "test"] | None = None
    take: str | None = None
    shuffle: int | None = None
    charge: int | None = None
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class DataConfig:
    """Training, validation and test data.

    Attributes
    ----------
    train, validation, test : tuple of SourceConfig
        ``validation`` selects the learning rate and the kept weights; ``test`` is only reported.
    validation_fraction : float
        Used when ``validation`` is empty: that part of the training frames, drawn with ``seed``. Frames of one atom
        without neighbors stay in training.
    cache : str or None
        Directory for packed frames with their neighbor lists; ``None`` keeps them in ``<output>/cache``.
    workers : int
        Processes that read frames and build neighbor lists; 0 does it in this process.
    prefetch : int
        Batches collated ahead by a thread.
    isolated : {"error", "keep"}
        What to do with a frame in which no pair of atoms is within the cutoff.
    partial_labels : bool
        Allow frames that lack a label whose loss weight is not zero; they contribute the labels they have.
    """

    train: tuple[SourceConfig, ...] = ()
    validation: tuple[SourceConfig, ...] = ()
    test: tuple[SourceConfig, ...] = ()
    validation_fraction: float = 0.1
    cache: str | None = None
    workers: int = 0
    prefetch: int = 2
    isolated: Literal["error", "keep"] = "error"
    partial_labels: bool = False


@dataclass(frozen=True)
class StatisticsConfig:
    """How the model's constants are taken from the training data.

    Attributes
    ----------
    energy_shifts : {"fit", "isolated", "mean"}
        Per-element energies: regularized least squares; the training frames of one atom without neighbors; or
        one mean energy per atom.
    ridge : float
        Strength of the pull towards the mean energy per atom in the fit, relative to one frame; it decides only what
        the compositions leave open, and 1e-3 already shifts a rare element by hundreds of eV.
    energy_scales : {"force_rms", "energy_std", "none"}
        Scale of atom energies, eV: the root mean square of a force component times 1 Å; the standard deviation of the
        energy per atom after shifts; or 1.
    """

    energy_shifts: Literal["fit", "isolated", "mean"] = "fit"
    ridge: float = 1e-9
    energy_scales: Literal["force_rms", "energy_std", "none"] = "force_rms"


@dataclass(frozen=True)
class BatchConfig:
    """What fills one micro-batch (of one process): the budgets given are all respected.

    Attributes
    ----------
    frames, atoms, edges : int or None
        Largest number per micro-batch. A single frame above a budget is an error.
    buckets : int
        Frames are sorted by edge count within blocks of this many mean batches, so that batches are alike in
        size; 0 draws them freely.
    accumulate : int
        Micro-batches per process and optimizer step.
    evaluate : float
        Budgets are multiplied by this for validation and evaluation.
    """

    frames: int | None = None
    atoms: int | None = None
    edges: int | None = None
    buckets: int = 16
    accumulate: int = 1
    evaluate: float = 2.0


@dataclass(frozen=True)
class LossConfig:
    """The loss: a weighted sum of mean errors of energy per atom, force components and stress components.

    Attributes
    ----------
    energy, forces, stress : float
        Weights. Units of the terms: (eV/atom)², (eV/Å)², (eV/Å³)² for ``"mse"``, without the square for ``"mae"``.
    kind : {"mse", "mae", "huber"}
        Error function of every term.
    delta : float
        Where ``"huber"`` turns linear, in the units of each quantity.
    per_atom : bool
        Divide energies by the number of atoms.
    """

    energy: float = 1.0
    forces: float = 1.0
    stress: float = 0.0
    kind: Literal["mse", "mae", "huber"] = "mse"
    delta: float = 0.01
    per_atom: bool = True


@dataclass(frozen=True)
class StageConfig:
    """From ``epoch`` on, other loss weights and learning rate; ``ramp`` epochs of linear passage to the weights.

    Attributes
    ----------
    epoch : int
        First epoch of the stage, counted from 0.
    energy, forces, stress : float or None
        Loss weights from then on; ``None`` leaves the weight.
    lr : float or None
        Learning rate set once when the stage begins.
    ramp : int
        Epochs over which the weights pass linearly to the new ones. Validation is scored with the new ones from the
        beginning, so that the epochs of a stage can be compared.
    """

    epoch: int = 0
    energy: float | None = None
    forces: float | None = None
    stress: float | None = None
    lr: float | None = None
    ramp: int = 0


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW and gradient clipping.

    Attributes
    ----------
    lr : float
        Learning rate.
    weight_decay : float
        Decoupled weight decay on parameters with two or more dimensions.
    betas : tuple of float
        Decay of the two moments.
    eps : float
        Added to the denominator.
    amsgrad : bool
        Keep the maximum of the second moment.
    clip : float or None
        Largest norm of the whole gradient, after the reduction between processes.
    """

    lr: float = 1e-3
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    amsgrad: bool = False
    clip: float | None = None


@dataclass(frozen=True)
class ScheduleConfig:
    """Learning-rate schedule.

    Attributes
    ----------
    name : {"plateau", "cosine", "constant"}
        ``plateau`` multiplies by ``factor`` after ``patience`` epochs without a better weighted validation metric;
        ``cosine`` falls to ``minimum`` at the last step of the run.
    factor, patience, minimum : float, int, float
        As above; ``minimum`` is a learning rate.
    warmup : int
        Optimizer steps of linear growth at the start.
    """

    name: Literal["plateau", "cosine", "constant"] = "plateau"
    factor: float = 0.5
    patience: int = 10
    minimum: float = 1e-6
    warmup: int = 0


@dataclass(frozen=True)
class StopConfig:
    """When to stop: whichever comes first.

    Attributes
    ----------
    epochs : int
        Passes over the training data.
    steps : int or None
        Optimizer steps.
    seconds : float or None
        Wall time of training, counted over restarts; the epoch that is running is finished first.
    patience : int or None
        Epochs without a better weighted validation metric, counted once the last stage has its final weights.
    lr : float or None
        Learning rate at which, or below, the plateau schedule has ended, once the last stage has its final weights;
        at least ``schedule.minimum``.
    """

    epochs: int = 100
    steps: int | None = None
    seconds: float | None = None
    patience: int | None = None
    lr: float | None = None


@dataclass(frozen=True)
class CompileConfig:
    """Compilation of the training step.

    Attributes
    ----------
    mode : {"eager", "forces", "full"}
        ``eager`` runs PyTorch; ``forces`` compiles the energy and force graph and lets AOTAutograd differentiate it;
        ``full`` compiles energies, forces, loss and parameter gradients as one graph. It takes one or two minutes
        and a C++ compiler at the start, and the time of a step falls to about half: a run of seconds is better eager.
    fallback : {"error", "warn"}
        What happens when compilation, or its comparison with eager, fails: stop, or warn with the reason and run eager.
    tolerance : float
        Largest difference from eager admitted at the start, relative to the loss and to each gradient's norm;
        0 takes 1e-9 for float64 models and 2e-3 for float32 ones.
    evaluate : bool
        Also compile the energy and force graph used for validation (``full`` only).
    """

    mode: Literal["eager", "forces", "full"] = "full"
    fallback: Literal["error", "warn"] = "error"
    tolerance: float = 0.0
    evaluate: bool = False


@dataclass(frozen=True)
class HardwareConfig:
    """Devices, processes and precision.

    Attributes
    ----------
    accelerator : str
        Lightning's name: ``"cpu"``, ``"gpu"``, ``"auto"``.
    devices, nodes : int
        Processes per node, and nodes.
    strategy : {"sync", "ddp"}
        With more than one process: one flat reduction after the complete backward, or torch's DDP.
    bucket_mib : float
        Size of the reduction buckets of ``sync``; 0 reduces everything at once.
    threads : int or None
        Threads per process inside operations, for the duration of the run.
    matmul_precision : {"highest", "high", "medium"}
        Precision of float32 matrix products (``"high"`` allows TF32), for the duration of the run.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    strategy: Literal["sync", "ddp"] = "sync"
    bucket_mib: float = 0.0
    threads: int | None = None
    matmul_precision: Literal["highest", "high", "medium"] = "highest"


@dataclass(frozen=True)
class LoggingConfig:
    """What is written while the run goes on. ``metrics.csv``, the checkpoint and the report are always written.

    Attributes
    ----------
    loggers : tuple of {"tensorboard", "wandb"}
        Further loggers.
    checkpoint_steps : int or None
        Also write the checkpoint every so many optimizer steps (it is written after every epoch).
    progress : bool
        Show a progress bar.
    report : bool
        Write ``report.html`` and its figures at the end.
    """

    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    checkpoint_steps: int | None = None
    progress: bool = True
    report: bool = True


@dataclass(frozen=True)
class TrainConfig:
    """One training run.

    Attributes
    ----------
    output : str
        Directory that receives model, checkpoint, metrics and report.
    seed : int
        Seed of the initial weights, of the split and of the order of batches.
    ema : float
        Decay of the moving average of the weights that validation, test and the saved model use; 0 switches it off.
    resume : {"auto", "never", "must"}
        Whether an existing checkpoint in ``output`` is continued. With ``"never"`` an existing one is an error. The
        frames and everything that decides what is learned must be what they were; ``stop``, ``logging``, ``hardware``,
        ``compile`` and ``data.test`` may change.
    """

    output: str = "run"
    seed: int = 0
    ema: float = 0.999
    resume: Literal["auto", "never", "must"] = "auto"
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    statistics: StatisticsConfig = field(default_factory=StatisticsConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    stages: tuple[StageConfig, ...] = ()
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    stop: StopConfig = field(default_factory=StopConfig)
    compile: CompileConfig = field(default_factory=CompileConfig)
    hardware: HardwareConfig = field(default_factory=HardwareConfig)
    logging: LoggingConfig = field(default_factory=LoggingConfig)
