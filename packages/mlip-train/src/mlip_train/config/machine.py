"""Schema of how a run is computed and what it writes: compilation, hardware and logging."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from mlip_train.config.ranges import Count, NonNegative


@dataclass(frozen=True)
class CompileConfig:
    """Compilation of the training step."""

    mode: Literal["eager", "forces", "full"] = "full"
    """eager runs PyTorch; forces compiles the energy and force graph and lets AOTAutograd differentiate it; full
    compiles energies, forces, loss and parameter gradients as one graph. Compilation takes one or two minutes and a C++
    compiler at the start, and the time of a step falls to about half: a run of seconds is better eager."""
    fallback: Literal["error", "warn"] = "error"
    """What happens when compilation, or its comparison with eager, fails: stop, or warn with the reason and run
    eager."""
    tolerance: NonNegative = 0.0
    """Largest difference from eager admitted at the start, relative to the loss and to each gradient's norm; 0 takes
    1e-9 for float64 models, 2e-3 for float32 ones, and 0.25 where hidden layers are in bfloat16."""
    evaluate: bool = False
    """Also compile the energy and force graph used for validation (full only)."""


@dataclass(frozen=True)
class HardwareConfig:
    """Devices, processes and precision."""

    accelerator: str = "auto"
    """Lightning's name: cpu, gpu or auto."""
    devices: Count = 1
    """Processes per node."""
    nodes: Count = 1
    """Nodes."""
    strategy: Literal["sync", "ddp"] = "sync"
    """With more than one process: one flat reduction after the complete backward, or torch's DDP."""
    bucket_mib: NonNegative = 0.0
    """Size of the reduction buckets of sync, MiB; 0 reduces everything at once."""
    overlap: bool = False
    """Let sync reduce each bucket during the backward, as soon as its gradients are complete, on GPUs in a stream of
    its own; needs bucket_mib."""
    threads: Count | None = None
    """Threads per process inside operations, for the duration of the run."""
    matmul_precision: Literal["highest", "high", "medium"] = "highest"
    """Precision of float32 matrix products (high allows TF32), for the duration of the run."""


@dataclass(frozen=True)
class LoggingConfig:
    """What is written while the run goes on. metrics.csv, the checkpoint and the model are always written."""

    loggers: tuple[Literal["tensorboard", "wandb"], ...] = ()
    """Further loggers: tensorboard, wandb."""
    checkpoint_steps: Count | None = None
    """Also write the checkpoint every so many optimizer steps (it is written after every epoch)."""
    keep_every: Count | None = None
    """Also keep the averaged weights at the end of every so many epochs, as model.epochN.safetensors."""
    keep_last: bool = False
    """Also write the averaged weights at the end of each epoch to model.last.safetensors."""
    keep_raw: bool = False
    """Also write the weights as trained, without averaging, at the end of each epoch to model.raw.safetensors."""
    wandb_project: str | None = None
    """Project of the wandb run; null takes wandb's default. A resumed run continues the same wandb run."""
    wandb_entity: str | None = None
    """User or team of the wandb run; null takes wandb's default."""
    progress: bool = True
    """Show a progress bar."""
    report: bool = True
    """Write report.html and its figures at the end."""
