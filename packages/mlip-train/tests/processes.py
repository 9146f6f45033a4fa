"""Runs of a script in processes of their own, alone or several together."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).parent
QUIET = {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


class Ended(NamedTuple):
    """How a process ended."""

    returncode: int
    stderr: str


def run_alone(script: str, runs: Sequence[list[str]]) -> list[Ended]:
    """Run a script with each list of arguments, one after the other, each in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        jobs = [(arguments, {}, f"{folder}/{number}") for number, arguments in enumerate(runs)]
        _finish([_start(script, jobs, {})])
        return [_ended(errors) for _, _, errors in jobs]


def run_together(script: str, runs: Sequence[tuple[list[str], int]]) -> list[list[Ended]]:
    """Run a script with each list of arguments in that number of processes at a time, as torchrun would."""
    with tempfile.TemporaryDirectory() as folder:
        ranks: list[list[tuple[list[str], dict[str, str], str]]] = [
            [] for _ in range(max(w for _, w in runs))
        ]
        for number, (arguments, world) in enumerate(runs):
            common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            common |= {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "GROUP_RANK": "0"}
            for rank in range(world):
                ranks[rank].append((arguments, common, f"{folder}/{number}.{rank}"))
        _finish(
            [
                # before the imports, as Lightning reads it then
                _start(script, jobs, {"RANK": str(r), "LOCAL_RANK": str(r), "TORCHELASTIC_RUN_ID": "x"})
                for r, jobs in enumerate(ranks)
            ]
        )
        return [
            [_ended(f"{folder}/{number}.{rank}") for rank in range(world)]
            for number, (_, world) in enumerate(runs)
        ]


def _start(script: str, jobs: object, environment: dict[str, str]) -> subprocess.Popen[str]:
    scripts = HERE / "scripts"
    arguments = [str(HERE / "conftest.py"), str(scripts / script), json.dumps(jobs)]
    return subprocess.Popen(
        [sys.executable, str(scripts / "forks.py"), *arguments],
        env=os.environ | QUIET | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def _finish(running: list[subprocess.Popen[str]]) -> None:
    ends = [(p.communicate(timeout=1800)[1], p.returncode) for p in running]
    assert all(code == 0 for _, code in ends), "\n".join(text[-2000:] for text, _ in ends)


def _ended(errors: str) -> Ended:
    return Ended(int(Path(errors + ".status").read_text()), Path(errors).read_text())


def _free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]
