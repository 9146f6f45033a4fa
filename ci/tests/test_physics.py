"""The checks of benchmarks/physics on the shipped potential, on models of known answers, and on ones that must fail."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("scipy")
pytest.importorskip("ase")

import numpy as np
from ase import units
from ase.calculators.emt import EMT
from ase.calculators.lj import LennardJones
from ase.calculators.morse import MorsePotential
from benchmarks.physics import pairs, silicon, water
from benchmarks.physics.outcome import Models
from benchmarks.result_tables import records, runs

ROOT = Path(__file__).parents[2]


def test_the_shipped_potential_passes(tmp_path):
    command = [str(Path(sys.executable).parent / "mlip-export"), "compile", "example"]
    paths = {dtype: tmp_path / f"{dtype}.pt2" for dtype in ("float32", "float64")}
    for dtype, path in paths.items():
        subprocess.run([*command, "-o", path, "--dtype", dtype], check=True, cwd=tmp_path)
    picture, record = tmp_path / "physics.png", tmp_path / "physics.json"
    names = ["cutoff", "dimers", "energy", "extensivity", "random", "water"]
    out = ["--json", str(record), "--picture", str(picture), "--quick", "--only", *names]
    subprocess.run(
        [sys.executable, "-m", "benchmarks.physics", *map(str, paths.values()), *out], check=True, cwd=ROOT
    )
    checks = json.loads(record.read_text())["checks"]
    assert sorted(checks) == names
    assert checks["extensivity"]["figures"]["largest difference, eV/atom"]["float64"] < 1e-10
    energy = checks["energy"]["figures"][runs.DRIFT]
    assert sorted(energy) == ["exported", "float64"]
    assert all(abs(found["0.25"]) <= pairs.DRIFT["quick"] for found in energy.values())
    assert picture.stat().st_size > 10_000


class Leaking(EMT):
    """EMT whose energy grows by ``step`` with every new structure, so by a constant per step of dynamics."""

    step = 0.0

    def calculate(self, *args, **kwargs):
        super().calculate(*args, **kwargs)
        self.count = getattr(self, "count", 0) + 1
        for key in ("energy", "free_energy"):
            self.results[key] += self.count * self.step


@pytest.mark.filterwarnings("ignore:Use thermalize_momenta:DeprecationWarning")  # ASE before 3.29 has none
def test_a_drift_is_measured_and_refused():
    """Of 5 meV/atom/ps with steps of 0.25 fs in one precision alone."""
    assert pairs.drift([0.0, 500.0, 1000.0], [7.0, 7.05, 7.1], 4) == pytest.approx(25.0)
    leaking, atoms = Leaking(), 9
    leaking.step = 5e-3 * atoms / 4000
    found = pairs.energy(Models(leaking, EMT()), True)
    slopes = found.figures[runs.DRIFT]
    for dt, planted in (("0.25", 5.0), ("0.5", 2.5), ("1.0", 1.25)):
        assert slopes["exported"][dt] - slopes["float64"][dt] == pytest.approx(planted, rel=0.02)
    drifts = [fault for fault in found.faults if "drifts" in fault]
    assert len(drifts) == 1 and drifts[0].startswith("exported: the energy drifts by")


def test_a_record_without_drift_has_dashes(tmp_path, monkeypatch):
    figures = {runs.SPREAD: {"exported": {"0.25": 0.012}, "float64": {"0.25": 0.013}}}
    monkeypatch.setattr(records, "RESULTS", tmp_path)

    def rows():
        (tmp_path / "physics.json").write_text(json.dumps({"checks": {"energy": {"figures": figures}}}))
        return runs.conservation().splitlines()[2:]

    assert rows() == ["| float32 | 0.25 | 0.012 | – |", "| float64 | 0.25 | 0.013 | – |"]
    figures[runs.DRIFT] = {"exported": {"0.25": 0.00123}, "float64": {"0.25": -0.5}}
    assert rows() == ["| float32 | 0.25 | 0.012 | 0.0012 |", "| float64 | 0.25 | 0.013 | -0.5 |"]


def test_faults_are_found():
    """A calculator with a hole in its repulsion, a step at the cutoff and an energy that is not extensive."""
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

    models = Models(Broken(), Broken())
    assert any("not repulsive" in fault for fault in pairs.dimers(models, True).faults)
    faults = pairs.cutoff(models, True).faults
    assert any("beyond its cutoff" in fault for fault in faults)
    assert any("order 0.00" in fault for fault in faults)
    assert any("extensive" in fault for fault in pairs.extensivity(models, True).faults)


def test_bonds_alone_make_a_crystal_of_known_answers():
    """Springs k between nearest neighbors: Γ has sqrt(8k/3m), the bulk modulus is √3 k/12d, and shear costs nothing."""
    d, depth, stiffness = 5.469 * np.sqrt(3) / 4, 2.3, 3.5
    k = 2 * depth * (stiffness / d) ** 2
    morse = MorsePotential(epsilon=depth, r0=d, rho0=stiffness, rcut1=1.25, rcut2=1.45)
    found = silicon.silicon(Models(morse, morse), True)
    mass = silicon.bulk("Si").get_masses()[0]
    optical = np.sqrt(8 * k / (3 * mass)) / (2 * np.pi) * units.second * 1e-12
    expected = {
        "lattice constant, Å (data: 5.469)": (5.469, 1e-4),
        "bulk modulus, GPa (data: 88.5)": (np.sqrt(3) * k / (12 * d) / units.GPa, 2e-3),
        "bulk modulus from pressures, GPa": (np.sqrt(3) * k / (12 * d) / units.GPa, 2e-3),
        "optical frequency at Γ, THz (measured 15.5)": (optical, 1e-3),
    }
    for name, (value, error) in expected.items():
        assert found.figures[name] == pytest.approx(value, rel=error), name
    assert found.figures["largest acoustic frequency at Γ, THz"] < 1e-4
    assert len(found.faults) == 2 and "bulk modulus" in found.faults[0] and "imaginary" in found.faults[1]


def test_energies_that_lack_the_stress_and_twins_that_differ_are_found():
    """A Morse crystal whose stresses are a third too large, and a twin that is softer."""
    d = 5.469 * np.sqrt(3) / 4
    options = {"r0": d, "rho0": 3.5, "rcut1": 1.25, "rcut2": 1.45}

    class Wrong(MorsePotential):
        def calculate(self, *args, **kwargs):
            super().calculate(*args, **kwargs)
            self.results["stress"] = self.results["stress"] * 4 / 3 + 0.001

    models = Models(MorsePotential(epsilon=2.2, **options), Wrong(epsilon=2.3, **options))
    faults = silicon.silicon(models, True).faults
    for words in ("pressure at the minimum", "pressures give a bulk modulus", "exported model's optical"):
        assert any(words in fault for fault in faults), words


def test_what_is_no_diamond_is_found():
    """The Lennard-Jones potential holds no diamond."""
    atoms = LennardJones(sigma=2.1, epsilon=0.5, rc=6.0)
    faults = silicon.silicon(Models(atoms, atoms), True).faults
    assert any("imaginary" in fault or "no minimum" in fault for fault in faults)


def gas(rng, frames, per_side, stretched=1.0):
    """Return a run of molecules at independent random places, in a cube of the water's density."""
    atoms = water.box(per_side, rng)
    side = float(atoms.cell[0, 0])
    inner = (atoms.positions.reshape(-1, 3, 3) - atoms.positions[0::3, None]) * stretched
    places = rng.uniform(0, side, (frames, len(inner), 1, 3))
    positions = (places + inner).reshape(frames, -1, 3)
    return water.Run(positions, np.zeros(frames), np.full(frames, 300.0)), side


def test_distributions_of_a_gas_are_one():
    run, side = gas(np.random.default_rng(0), 400, 3)
    edges = np.linspace(0.0, side / 2, 9)
    found = {
        name: water.in_blocks(values, 4) for name, values in water.distributions(run, side, edges).items()
    }
    mean, error = found["O-O"]
    assert np.abs(mean - 1).max() < 0.3 and (np.abs(mean - 1) < 5 * error + 0.02).all()
    assert found["O-H"][0][2:] == pytest.approx(np.ones(6), abs=0.1)  # beyond the molecule's own
    faults = water.structure(run, side, water.QUICK).faults
    assert any("O-O pairs" in fault for fault in faults)


def test_molecules_that_are_not_whole_are_found():
    rng = np.random.default_rng(1)
    good, side = water.box(3, rng).positions, float(water.box(3, rng).cell[0, 0])
    assert water.whole(good, side)
    moved = good.copy()
    moved[[1, 4]] = moved[[4, 1]]  # two molecules exchange a hydrogen: the counts stay
    assert not water.whole(moved, side)
    assert not water.whole(gas(rng, 1, 3, stretched=1.4)[0].positions[0], side)


def test_a_random_walk_diffuses_as_it_must():
    """Steps of variance s² along each axis in a time t are a diffusion of s²/2t."""
    rng, frames, oxygen = np.random.default_rng(2), 1601, 64
    walk = np.repeat(rng.normal(0, 0.1, (frames, oxygen, 3)).cumsum(0), 3, axis=1)
    run = water.Run(walk, np.zeros(frames), np.full(frames, 300.0))
    d, error, _, _ = water.diffusion(run, water.FULL)
    exact = 0.1**2 / (2 * water.STEP * water.EVERY / 1000) * 10 * (1 - 1 / oxygen)  # the mean is at rest
    assert d == pytest.approx(exact, abs=4 * error) and error < 0.1 * d
    assert not any("diffusion is" in fault for fault in water.motion(run, 12.4, water.FULL).faults)
    still = run._replace(positions=np.zeros_like(walk), energies=np.linspace(0, 0.1, frames))
    faults = water.motion(still, 12.4, water.FULL).faults
    assert any("diffusion is" in fault for fault in faults) and any("drifts" in fault for fault in faults)
