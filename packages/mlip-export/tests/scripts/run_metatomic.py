"""Print the energy of a structure, eV: arguments are a metatomic model, its extensions and a structure."""

import sys
from pathlib import Path

import ase.io
from metatomic_ase import MetatomicCalculator

model, extensions, structure = sys.argv[1:]
atoms = ase.io.read(structure)
atoms.calc = MetatomicCalculator(model, extensions_directory=extensions)
assert "mlip_export" not in sys.modules
maps = Path("/proc/self/maps")
assert not maps.exists() or f"{extensions}/" in maps.read_text()  # that library, not the one of the cache
print(atoms.get_potential_energy())
