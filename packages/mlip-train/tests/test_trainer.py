"""Processes and environments of the Trainer."""

from __future__ import annotations

from typing import Any

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment
from lightning.pytorch.loggers.logger import DummyLogger

from mlip_train import TrainConfig, from_plain
from mlip_train.config import HardwareConfig
from mlip_train.training.processes import cluster, is_first
from mlip_train.training.trainer import make_trainer

SLURM = {
    "SLURM_JOB_ID": "1",
    "SLURM_JOB_NAME": "run",
    "SLURM_PROCID": "0",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "0",
    "SLURM_NODELIST": "localhost",
}


@pytest.mark.parametrize(
    ("tasks", "devices", "nodes", "expected"),
    [
        (1, 1, 1, [LightningEnvironment]),
        (1, 2, 1, [LightningEnvironment]),  # an interactive job
        (4, 1, 1, [LightningEnvironment]),
        (4, 4, 1, []),  # Lightning reads SLURM's variables
        (4, 2, 2, []),
        (4, 2, 1, None),
        (1, 2, 2, None),
    ],
)
def test_f9_processes_are_those_asked_for(
    monkeypatch: pytest.MonkeyPatch, tasks: int, devices: int, nodes: int, expected: list[type] | None
) -> None:
    for name, value in (SLURM | {"SLURM_NTASKS": str(tasks)}).items():
        monkeypatch.setenv(name, value)
    hardware = HardwareConfig(devices=devices, nodes=nodes)
    if expected is None:
        with pytest.raises(
            ValueError,
            match=rf"must be the number of tasks of srun \(--nodes={nodes} --ntasks-per-node={devices}\), got "
            rf"{devices} \* {nodes} and {tasks} tasks",
        ):
            cluster(hardware)
    else:
        assert [type(found) for found in cluster(hardware)] == expected


def test_torchrun_gives_its_own_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "x")
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert [type(found) for found in cluster(HardwareConfig(devices=2))] == [TorchElasticEnvironment]
    assert is_first(HardwareConfig())


def test_wandb_continues_the_same_run(plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    class Recorder(DummyLogger):
        def __init__(self, **options: Any):
            super().__init__()
            made.append(options)

    monkeypatch.setattr("lightning.pytorch.loggers.WandbLogger", Recorder)
    logging = {"progress": False, "loggers": ["wandb"], "wandb_project": "water"}
    config = from_plain(TrainConfig, plain_run | {"logging": logging})
    for _ in range(2):
        make_trainer(config, 1, [])
    assert made[0] == made[1]
    assert (made[0]["project"], made[0]["entity"], made[0]["resume"]) == ("water", None, "allow")
    other = from_plain(TrainConfig, plain_run | {"logging": logging, "output": plain_run["output"] + "2"})
    make_trainer(other, 1, [])
    assert len(made[2]["id"]) == 16
    assert made[2]["id"] != made[0]["id"]
