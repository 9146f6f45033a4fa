"""The checks of benchmarks/physics.py on the shipped potential, and on a model that must fail them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
ase = pytest.importorskip("ase")
ROOT = Path(__file__).parents[2]


def test_the_shipped_potential_passes(tmp_path):
    command = [str(Path(sys.executable).parent / "mlip-export"), "compile", "example"]
    paths = {dtype: tmp_path / f"{dtype}.pt2" for dtype in ("float32", "float64")}
    for dtype, path in paths.items():
        subprocess.run([*command, "-o", path, "--dtype", dtype], check=True, cwd=tmp_path)
    picture, record = tmp_path / "physics.png", tmp_path / "physics.json"
    out = ["--json", str(record), "--picture", str(picture), "--quick"]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.physics", *map(str, paths.values()), *out], check=True, cwd=ROOT
    )
    checks = json.loads(record.read_text())["checks"]
    assert sorted(checks) == ["cutoff", "dimers", "energy", "extensivity", "random"]
    assert checks["extensivity"]["figures"]["largest difference, eV/atom"]["float64"] < 1e-10
    assert picture.stat().st_size > 10_000


def test_faults_are_found(monkeypatch):
    """A calculator with a hole in its repulsion, a step at the cutoff and an energy that is not extensive."""
    physics = pytest.importorskip("benchmarks.physics", exc_type=ImportError)
    import numpy as np
    import torch

    class Broken:
        class potential:
            type_names = ("H", "O")
            cutoffs = torch.full((2, 2), 5.0)

        def calculate(self, atoms):
            forces = np.zeros((len(atoms), 3))
            r = atoms.get_distance(0, 1) if len(atoms) > 1 else np.inf
            if len(atoms) == 2:
                forces[:, 0] = [-1.0, 1.0]  # a step at the cutoff, and beyond it
            self.results = {"energy": float(r if r < np.inf else 0.0) + len(atoms) ** 2, "forces": forces}

    models = physics.Models(Broken(), Broken())
    assert any("not repulsive" in fault for fault in physics.dimers(models, True).faults)
    faults = physics.cutoff(models, True).faults
    assert any("beyond its cutoff" in fault for fault in faults)
    assert any("order 0.00" in fault for fault in faults)
    assert any("extensive" in fault for fault in physics.extensivity(models, True).faults)
