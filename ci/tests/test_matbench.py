"""The protocols of matbench-discovery with EMT on both sides, and with one that is wrong."""

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from benchmarks.protocols import matbench


class Softer(EMT):
    """EMT with forces and energies a tenth smaller."""

    def calculate(self, *arguments, **options):
        super().calculate(*arguments, **options)
        for name in ("energy", "free_energy", "energies", "forces", "stress"):
            if name in self.results:
                self.results[name] = 0.9 * self.results[name]


def test_discovery_gives_formation_energies_of_relaxed_structures():
    alloy = bulk("CuAu", "rocksalt", a=5.3)
    rows = matbench.discovery(EMT, [alloy, *matbench.polymorphs("Cu", 3.7)[:3], bulk("Au", a=4.1)])
    assert all(row["converged"] and 0 < row["steps"] <= 500 for row in rows)
    energy = {row["structure"]: row["formation_energy"] for row in rows}
    assert energy["Cu, fcc"] == 0 and 0.02 < energy["Cu, bcc"] < 0.05 and energy["AuCu"] > 0.1
    assert abs(rows[0]["volume"] - 11.565) < 0.05  # of relaxed copper, Å³


def test_discovery_needs_each_element_alone():
    alloy = bulk("CuAu", "rocksalt", a=5.3)
    with pytest.raises(SystemExit, match="a structure of each element alone, got none of"):
        matbench.discovery(EMT, [alloy])


def test_kappa_and_its_error():
    copper = bulk("Cu", a=3.6, cubic=True)
    found, softer = (matbench.kappa(make, copper) for make in (EMT, Softer))
    assert 5 < found["kappa"] < 30 and abs(found["modes"].sum() - found["kappa"]) < 1e-6
    assert matbench.srme(found, found) == 0
    assert 0 < matbench.srme(softer, found) < 0.5
    assert matbench.srme({**found, "lowest_THz": -1.0}, found) == 2.0


def test_diatomics_of_a_smooth_and_of_a_rough_curve():
    smooth = matbench.diatomics(EMT, "Cu")
    assert (
        smooth["energy_flips"] == 1 and 2.0 < smooth["minimum"] < 2.6 and abs(smooth["tortuosity"] - 1) < 1e-9
    )

    class Rough(EMT):
        def calculate(self, atoms, *arguments):
            super().calculate(atoms, *arguments)
            self.results["energy"] += 0.5 * np.sin(20 * atoms.get_distance(0, 1))

    rough = matbench.diatomics(Rough, "Cu")
    assert rough["energy_flips"] > 5 and rough["tortuosity"] > 1.1
    assert rough["conservation"] > 10 * smooth["conservation"]


def test_dynamics_and_its_time():
    copper = bulk("Cu", a=3.6, cubic=True) * 2
    cold, hot = (matbench.dynamics(EMT, copper, t, steps=40) for t in (100, 3000))
    assert matbench.rdf_error(cold, cold) == 0 and matbench.rdf_error(hot, cold) > 10
    runs = [{"atoms": 32, "seconds_per_step": 0.01}, {"atoms": 64, "seconds_per_step": 0.02}]
    assert np.isclose(matbench.full_seconds(runs), 17 * 80_000 * 0.015)
