"""Schema of the data: sources, splits, statistics and batches."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mlip_train.config.ranges import (
    Charge,
    Count,
    Factor,
    Fraction,
    Natural,
    NonNegative,
    NonZero,
    Positive,
    Seed,
)

PARTS = ("train", "validation", "test")
"""Keys of lists of sources."""


@dataclass(frozen=True)
class SourceConfig:
    """One file of labeled frames; an option that its kind of file has no use for is an error."""

    path: str = ""
    """A SPICE file (.hdf5, .h5), a SPICE store (.store), arrays (.npz), nequip's LMDB (.lmdb), or anything that ASE
    reads; of these other than SPICE's also a folder or a pattern such as "runs/*.xyz". Relative paths are relative to
    the YAML file."""
    format: str | None = None
    """ASE's name of the format; null finds it by name and contents of the file."""
    subset: str | None = None
    """Name under which metrics are reported; by default the file's own subset names (SPICE, or config_type of
    extended XYZ), else its stem."""
    weight: NonNegative = 1.0
    """Weight of each of its frames in the loss; multiplied by the frame's own config_weight if it has one."""
    weights: dict[str, float] = field(default_factory=dict)
    """Further factors of the weights of some subsets (config_type of extended XYZ), by exact name."""
    share: Positive = 1.0
    """Part of its frames that an epoch of training uses, drawn again each time; 2 uses each frame twice."""
    energy: str | None = "energy"
    """Key of the energies, eV, in a file that ASE reads; null says that the source has none."""
    forces: str | None = "forces"
    """Key of the forces, eV/Å; null says that the source has none."""
    stress: str | None = "stress"
    """Key of the stresses, eV/Å³, positive under tension (ASE's sign); null says that the source has none."""
    virial: str | None = "virial"
    """Key of the virials, eV: minus volume times stress."""
    energy_scale: NonZero = 1.0
    """Multiplies energies and virials to give eV, beside energy_unit."""
    force_scale: NonZero = 1.0
    """Multiplies forces to give eV/Å, beside the units; negative where the file holds gradients."""
    stress_scale: NonZero = 1.0
    """Multiplies stresses to give eV/Å³, beside stress_unit; negative for pressures."""
    length_scale: Positive = 1.0
    """Multiplies positions and cells to give Å, beside length_unit."""
    energy_unit: Literal["eV", "hartree", "kcal/mol", "kJ/mol", "rydberg"] = "eV"
    """Unit of energies and virials; forces are in energy_unit per length_unit."""
    length_unit: Literal["angstrom", "bohr", "nanometer"] = "angstrom"
    """Unit of positions and cells."""
    stress_unit: Literal["eV/angstrom^3", "GPa", "kbar"] = "eV/angstrom^3"
    """Unit of stresses."""
    split: str | None = None
    """A split file that spice-data split wrote for this store (stores only)."""
    part: Literal["train", "val", "test"] | None = None
    """With split: which of its lists to take."""
    take: str | None = None
    """A Python slice of the frames, such as ":450"; applied last, after part, charge, exclude and shuffle."""
    shuffle: Seed | None = None
    """Seed of a shuffle of the frames before take."""
    charge: Charge | None = None
    """Keep the molecules with this total charge."""
    exclude: tuple[str, ...] = ()
    """Exact subset names (config_type of extended XYZ) to leave out."""


@dataclass(frozen=True)
class DataConfig:
    """Training, validation and test data."""

    train: tuple[SourceConfig, ...] = ()
    """Sources of the training frames; see the keys of a source below."""
    validation: tuple[SourceConfig, ...] = ()
    """Sources used to choose the saved weights, and for the plateau schedule and early stopping."""
    test: tuple[SourceConfig, ...] = ()
    """Sources that are only reported on."""
    validation_fraction: Fraction = 0.1
    """Without validation sources: this part of the training frames is held out, at least one frame if not 0, drawn
    with the seed. Frames of one atom without neighbors stay in training."""
    validation_by: Literal["frame", "group", "block"] = "frame"
    """What is held out whole: frames; frames of one name (of a molecule of SPICE, name in extended XYZ, by default the
    chemical formula); or blocks of consecutive frames of a source, as of a trajectory."""
    validation_block: Count = 100
    """Frames of a block."""
    limit: Factor = 1.0
    """Part of the training frames that an epoch uses, drawn again each time."""
    cache: str | None = None
    """Folder of stores made of other files, and of counts and statistics of frames; null: OUTPUT/cache."""
    cache_neighbors: bool = False
    """Keep neighbor lists on disk, 14 bytes an edge, instead of building them for every batch."""
    resident: bool = False
    """Keep positions, labels and neighbor lists of all frames for training and validation on the training device (of
    every process), where a batch is then a gather; an error if a table takes more than 0.6 of its free memory."""
    workers: Natural = 0
    """Processes that parse files and validate frames in the first pass; 0 does it in the training process."""
    loaders: Natural = 1
    """Processes that read batches and build neighbor lists ahead of the training; 0 does it between steps."""
    isolated: Literal["error", "keep"] = "error"
    """What to do with a frame in which no pair of atoms is within the cutoff. Frames of one atom are kept for
    statistics.energy_shifts: isolated."""
    partial_labels: bool = False
    """Allow sources of which some frames lack a label whose loss weight is not zero; they contribute the labels that
    they have. A label that no frame of a source has needs null for its key."""


@dataclass(frozen=True)
class StatisticsConfig:
    """How the constants of the model are taken from the training data."""

    energy_shifts: Literal["fit", "isolated", "mean"] = "fit"
    """Energy of each element: regularized least squares; the training frames of one atom without neighbors; or one
    mean energy per atom."""
    ridge: NonNegative = 1e-9
    """Strength of the pull towards the mean energy per atom in the fit, relative to one frame; it decides only what
    the compositions leave open, and 1e-3 already shifts a rare element by hundreds of eV."""
    energy_scales: Literal["force_rms", "energy_std", "none"] = "force_rms"
    """Scale of atom energies, eV: the root mean square of a force component times 1 Å; the standard deviation of the
    energy per atom after shifts; or 1."""


@dataclass(frozen=True)
class BatchConfig:
    """What fills one micro-batch (of one process): all budgets that are given are respected."""

    frames: Count | None = None
    """Largest number of frames per micro-batch."""
    atoms: Count | None = None
    """Largest number of atoms per micro-batch; a single frame above a budget is an error."""
    edges: Count | None = None
    """Largest number of edges per micro-batch."""
    buckets: Natural = 16
    """Frames are sorted by edge count within blocks of this many mean batches, so that batches are alike in size; 0
    draws them freely."""
    accumulate: Count = 1
    """Micro-batches per process and optimizer step."""
    evaluate: Positive = 2.0
    """Budgets are multiplied by this for validation and evaluation."""
