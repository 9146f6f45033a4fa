"""Grand-canonical Monte Carlo of an ideal gas, whose mean number of atoms is known."""

import numpy as np
import pytest
import torch
from ase import Atoms

INPUT = """
units metal
atom_style atomic
boundary p p p
read_data data
pair_style allegro
pair_coeff * * {model} H O
neighbor 1.0 bin
compute_modify thermo_temp dynamic/dof yes
fix g all gcmc 1 60 0 1 29494 1000 {potential} 0.01 full_energy
thermo_style custom step atoms
thermo 1
run {steps}
"""
SHIFT = -13.6  # eV
IDEAL = -0.67092  # eV, the chemical potential at which 20 H atoms are in a box of 20 Å at 1000 K


@pytest.mark.slow
@pytest.mark.parametrize(
    ("ranks", "steps"), [(1, 200), (2, 80)]
)  # two ranks wait for each other, by spinning
def test_the_mean_number_of_atoms(lammps, toy, compiled, ranks, steps):
    """F1, F2: trial deletions take the whole energy of an atom, its shift too; insertions that overlap are rejected."""
    model = toy(("H", "O"), 3.5, shifts=[SHIFT, 0.0])
    with torch.no_grad():
        model.last *= 1e-4  # an ideal gas but for 1e-4 of the interaction
    path = compiled("gas.pt2", model)
    positions = np.random.default_rng(0).random((20, 3)) * 20
    atoms = Atoms("H20", positions, cell=[20, 20, 20], pbc=True)
    found = lammps(INPUT.format(model=path, potential=IDEAL + SHIFT, steps=steps), atoms, ranks)
    assert found.thermo["Atoms"][steps // 4 + 1 :].mean() == pytest.approx(20, abs=2), found.thermo["Atoms"]
