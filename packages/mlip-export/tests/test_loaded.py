"""One loaded copy of a model per content, device and process, in threads, forks and workers."""

import gc
import multiprocessing
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path

import numpy as np
import pytest
import torch
from ase.build import molecule
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import read, write

from mlip_export import load
from mlip_export.ase import Calculator
from mlip_export.loaded import open_function


def resident():
    """Memory of this process, MB."""
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) / 1024


def rattled(seed):
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=seed)
    return atoms


def energy(path, seed=0):
    atoms = rattled(seed)
    atoms.calc = Calculator(path)
    return atoms.get_potential_energy()


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_thousand_loads_take_no_memory(water_pt2):
    """F3: with an evaluation after each of them."""
    before = 0.0
    for k in range(1000):
        energy(water_pt2)
        if k == 50:
            gc.collect()
            before = resident()
    gc.collect()
    assert resident() - before < 5


def test_equal_contents_are_shared_and_a_replaced_file_is_not(water_pt2, second_pt2, tmp_path):
    path = tmp_path / "model.pt2"
    shutil.copy(water_pt2, path)
    first = load(path)
    assert first._function is load(water_pt2)._function
    stamp = path.stat()
    shutil.copy(second_pt2, path)
    os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    assert energy(path) == energy(second_pt2) != energy(water_pt2)


def in_pool(context, path):
    """Energies by two workers, to which the calculators are pickled."""
    systems = [rattled(seed) for seed in range(4)]
    for atoms in systems:
        atoms.calc = Calculator(path)
    with multiprocessing.get_context(context).Pool(2) as pool:
        return pool.map_async(methodcaller("get_potential_energy"), systems).get(timeout=200)


def test_forks_after_threads_answer(water_pt2):
    """F4: OpenMP's threads of the parent do not exist in its children."""
    script = Path(__file__).parent / "scripts" / "fork_after_threads.py"
    done = subprocess.run(
        [sys.executable, script, water_pt2],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists mapped files")
@pytest.mark.parametrize("how", ["fork", "spawn"])
def test_workers_leave_no_unpacked_model(water_pt2, tmp_path, monkeypatch, how):
    """F5: nor do processes that end at once."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    expected = [energy(water_pt2, seed) for seed in range(4)]
    found = in_pool(how, water_pt2)
    assert found == expected
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lists mapped files")
def test_the_kernels_of_a_gpu_stay_unpacked(water_pt2, tmp_path, monkeypatch):
    """They are read when they first run: removed as a CPU's are, no export for CUDA could be verified."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    kept = open_function(water_pt2, torch.device("cuda"))
    assert kept and list(tmp_path.rglob("*.so"))
    removed = tmp_path / "cpu"
    removed.mkdir()
    monkeypatch.setenv("TMPDIR", str(removed))
    assert open_function(water_pt2, torch.device("cpu")) and not list(removed.rglob("*.so"))


def test_threads_that_share_a_calculator_get_their_own_results(water_pt2):
    """F10: threads take turns."""
    calculator = Calculator(water_pt2)
    systems = [rattled(seed) for seed in range(16)]
    expected = [(energy(water_pt2, seed), calculator.get_forces(a)) for seed, a in enumerate(systems)]
    for atoms in systems:
        atoms.calc = calculator
    with ThreadPoolExecutor(4) as pool:
        for _ in range(5):
            found = list(pool.map(lambda a: (a.get_potential_energy(), a.calc.get_forces(a)), systems))
            for (e, f), (e_expected, f_expected) in zip(found, expected, strict=True):
                assert e == pytest.approx(e_expected, abs=1e-11)
                np.testing.assert_allclose(f, f_expected, rtol=0, atol=1e-11)


def test_structures_that_share_a_calculator_are_written_with_their_own_results(water_pt2, tmp_path):
    """F11: the line of the calculator's documentation."""
    calculator = Calculator(water_pt2)
    systems = [rattled(seed) for seed in range(3)]
    expected = []
    for atoms in systems:
        atoms.calc = calculator
        expected.append(atoms.get_potential_energy())
        atoms.calc = SinglePointCalculator(atoms, **atoms.calc.results)
    write(tmp_path / "systems.xyz", systems)
    found = [atoms.get_potential_energy() for atoms in read(tmp_path / "systems.xyz", ":")]
    assert found == pytest.approx(expected, abs=1e-6)
    assert len({round(e, 4) for e in found}) == 3
