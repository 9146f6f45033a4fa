"""The main job on the shipped data with two epochs: every command of the demo, from data to LAMMPS."""

import json
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_demo(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "benchmarks.demo.run", "--output", str(out), "--epochs", "2"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=1500, cwd=ROOT)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    summary = json.loads((out / "demo.json").read_text())
    assert summary["LAMMPS − ASE at step 0, eV"] < 1e-8
    assert (out / "demo.png").stat().st_size > 10_000
    assert (out / "run" / "report.html").exists() and (out / "model.pt2").exists()
