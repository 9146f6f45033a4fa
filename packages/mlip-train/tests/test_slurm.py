"""Dry run of the job scripts for 32 and 64 processes: SLURM's commands are replaced, everything else is real."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from lightning.fabric.plugins.environments import SLURMEnvironment

from mlip_train._fit import dry_run
from mlip_train.config import load_config
from mlip_train.training.processes import cluster

SCRIPTS = Path(__file__).parents[3] / "benchmarks" / "slurm"
pytestmark = pytest.mark.skipif(not SCRIPTS.exists(), reason="job scripts are in the repository only")


def job(ranks: int) -> tuple[dict[str, str], list[str]]:
    """Options of SLURM and arguments of mlip-train in a script."""
    text = (SCRIPTS / f"spice_{ranks}.sbatch").read_text()
    options = dict(re.findall(r"^#SBATCH --([a-z-]+)=(\S+)", text, re.MULTILINE))
    (command,) = re.findall(r"^srun mlip-train fit (.+)$", text, re.MULTILINE)
    return options, command.split()


@pytest.mark.parametrize("ranks", [32, 64])
def test_processes_and_keys_are_consistent(ranks: int, monkeypatch: pytest.MonkeyPatch) -> None:
    options, (path, *overrides) = job(ranks)
    assert int(options["nodes"]) * int(options["ntasks-per-node"]) == ranks
    assert options["gpus-per-node"] == options["ntasks-per-node"]
    assert Path(path) == SCRIPTS.relative_to(SCRIPTS.parents[1]) / "spice.yaml"
    config = load_config(SCRIPTS / "spice.yaml", overrides)
    assert (config.hardware.nodes, config.hardware.devices) == (int(options["nodes"]), 4)
    assert config.data.loaders < int(options["cpus-per-task"])
    variables = {
        "NTASKS": str(ranks),
        "JOB_ID": "1",
        "JOB_NAME": "spice",
        "PROCID": "0",
        "LOCALID": "0",
        "NODEID": "0",
    }
    for name, value in variables.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    made = cluster(config.hardware)
    assert made == [] or isinstance(made[0], SLURMEnvironment)
    monkeypatch.setenv("SLURM_NTASKS", str(ranks // 2))
    with pytest.raises(ValueError, match=rf"--nodes={options['nodes']} --ntasks-per-node=4"):
        cluster(config.hardware)


@pytest.mark.parametrize("ranks", [32, 64])
@pytest.mark.parametrize(("status", "requeued"), [(0, False), (1, False), (138, True)])
def test_a_job_that_was_stopped_queues_itself_again(
    tmp_path: Path, ranks: int, status: int, requeued: bool
) -> None:
    for name, body in {
        "srun": f'echo "srun $@" >> log; exit {status}',
        "scontrol": 'echo "scontrol $@" >> log',
    }.items():
        command = tmp_path / name
        command.write_text(f"#!/bin/sh\n{body}\n")
        command.chmod(0o755)
    done = subprocess.run(
        ["bash", str(SCRIPTS / f"spice_{ranks}.sbatch")],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "77"},
        cwd=tmp_path,
    )
    assert done.returncode == status
    lines = (tmp_path / "log").read_text().splitlines()
    assert lines[0].startswith("srun mlip-train fit benchmarks/slurm/spice.yaml hardware.nodes=")
    assert lines[1:] == (["scontrol requeue 77"] if requeued else [])


def test_the_configuration_passes_a_check(toy: Any, frames_file: Path, tmp_path: Path) -> None:
    small = [
        f"data.train=[{{path: {frames_file}}}]",
        "data.validation=[]",
        "data.loaders=0",
        f"output={tmp_path}",
    ]
    config = load_config(SCRIPTS / "spice.yaml", [*small, "model={name: toy, config: {cutoff: 6.0}}"])
    facts = dry_run(config)
    assert facts["micro-batches per epoch"] == 1
    assert facts["training frames"] == 36
