"""Energies by workers forked from a process whose threads have worked: the argument is an exported model."""

import multiprocessing
import sys
from operator import methodcaller

import torch
from ase.build import molecule

from mlip_export.ase import Calculator

torch.set_num_threads(2)
matrix = torch.rand(800, 800)
matrix @ matrix
systems = []
for seed in range(4):
    atoms = molecule("H2O")
    atoms.rattle(0.1, seed=seed)
    atoms.calc = Calculator(sys.argv[1])
    systems.append(atoms)
here = [atoms.get_potential_energy() for atoms in systems]
for atoms in systems:
    atoms.calc.reset()
with multiprocessing.get_context("fork").Pool(2) as pool:
    there = pool.map_async(methodcaller("get_potential_energy"), systems).get(timeout=200)
assert there == here, (there, here)
assert torch.get_num_threads() == 2
