"""Processes and environments of the Trainer."""

from __future__ import annotations

import pytest
from lightning.fabric.plugins.environments import LightningEnvironment, TorchElasticEnvironment

from mlip_train.config import HardwareConfig
from mlip_train.training.trainer import cluster, is_first

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
