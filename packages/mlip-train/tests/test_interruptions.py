"""Runs interrupted at random moments end in the model of an uninterrupted run, to the last bit."""

from __future__ import annotations

import copy
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

MOMENTS = int(os.environ.get("MLIP_INTERRUPTIONS", "4"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SIGTERM", "SIGKILL", "SIGINT"])
def test_interrupted_at_random_moments(plain_run: dict[str, Any], tmp_path: Path, name: str) -> None:
    plain = copy.deepcopy(plain_run) | {"ema": 0.95, "stages": [{"epoch": 2, "energy": 5.0, "lr": 0.003}]}
    plain["batch"] = {"frames": 3, "accumulate": 2}
    plain["stop"]["epochs"] = 6
    plain["optimizer"]["clip"] = 1.0
    plain["schedule"] = {"name": "plateau", "patience": 0, "warmup": 7}
    plain["logging"] |= {"checkpoint_steps": 1, "report": False}
    here = Path(__file__).parent
    arguments = [str(here / "conftest.py"), json.dumps(plain), name, str(MOMENTS), "0"]
    done = subprocess.run(
        [sys.executable, str(here / "scripts" / "interruptions.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    print(*rows, sep="\n")
    assert len(rows) == MOMENTS
    expected = 128 + getattr(signal, name)
    assert all(row["same"] and row["then"] == 0 and row["status"] in (0, expected) for row in rows), rows
    assert sum(row["status"] == expected for row in rows) >= MOMENTS // 2  # the others had ended before
