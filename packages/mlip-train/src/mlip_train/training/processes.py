"""The processes of a run: how they get their ranks, how many there are, their settings, and what they agree on."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch import Tensor

from mlip_train.config.machine import HardwareConfig
from mlip_train.data.resident import to_device


def cluster(hardware: HardwareConfig) -> list[ClusterEnvironment]:
    """Return the environment that gives processes their ranks, or nothing where Lightning may choose.

    A run of one process, and one on one node inside an interactive job, ignores the variables of SLURM.

    Raises
    ------
    ValueError
        If srun started another number of tasks than the configuration asks for.
    """
    if TorchElasticEnvironment.detect():
        return [TorchElasticEnvironment()]
    world, tasks = hardware.devices * hardware.nodes, int(os.environ.get("SLURM_NTASKS", "1"))
    if world == 1 or (hardware.nodes == 1 and tasks == 1):
        return [LightningEnvironment()]
    if SLURMEnvironment.detect() and tasks != world:
        raise ValueError(
            f"hardware.devices * hardware.nodes must be the number of tasks of srun (--nodes={hardware.nodes} "
            f"--ntasks-per-node={hardware.devices}), got {hardware.devices} * {hardware.nodes} and {tasks} tasks"
        )
    return []


def is_first(hardware: HardwareConfig) -> bool:
    """Whether this is the first process of a run, or its only one."""
    alone = hardware.devices * hardware.nodes == 1 and not TorchElasticEnvironment.detect()
    return alone or not getattr(rank_zero_only, "rank", 0)


def place() -> tuple[int, int]:
    """Return the number of processes and the rank."""
    return (dist.get_world_size(), dist.get_rank()) if dist.is_initialized() else (1, 0)


def agreed(value: float, device: torch.device) -> float:
    """Return the largest of the values that all processes pass."""
    votes = Votes()
    votes.begin([value], device)
    return votes.read()[0]


@contextlib.contextmanager
def runtime(hardware: HardwareConfig) -> Iterator[None]:
    """Set this process's threads and precision of matrix products for the duration of a run; both are put back."""
    threads, precision = torch.get_num_threads(), torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(hardware.matmul_precision)
    if hardware.threads is not None:
        torch.set_num_threads(hardware.threads)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(precision)


class Votes:
    """The largest of the values that processes pass, of one step.

    A vote begins before a step and is read behind it: a GPU has then been given the step, and what is waited for is the
    end of the one before.
    """

    def __init__(self) -> None:
        self._values: Tensor | None = None
        self._work: Any = None

    def begin(self, values: Sequence[float], device: torch.device) -> None:
        """Begin a vote; one process keeps its values."""
        self._values = torch.tensor(values, dtype=torch.float64)
        if dist.is_initialized():
            self._values = to_device(self._values, device)
            self._work = dist.all_reduce(self._values, dist.ReduceOp.MAX, async_op=True)

    def read(self) -> list[float]:
        """Return the values of the vote that was begun last; it may be read again.

        Raises
        ------
        RuntimeError
            If none was begun.
        """
        if self._values is None:
            raise RuntimeError("a vote must be begun before it is read")
        if self._work is not None:
            self._work.wait()
            self._work, self._values = None, self._values.cpu()
        found: list[float] = self._values.tolist()
        return found
