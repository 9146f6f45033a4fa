"""Bad input in every host: one line that says what was wrong, and the host goes on as if it had not been."""

import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data

from mlip_export import load
from mlip_export.ase import Calculator

GEOMETRIES = {
    "unknown element": r"Xe",
    "not a number": r"positions must be finite|[Nn]on-numeric atom coords",
    "overlap": r"longer than 0\.1|overlap",
    "missing cell": r"cell",
}
FILES = {
    "another device": r"cuda",
    "another torch": r"torch",
    "no exported model": r"must be a|must be an exported model",
    "another archive": r"must be an exported model|must be a",
    "cut off": r"complete|must be a",
    "no file": r"none\.pt2",
}


@pytest.fixture
def files(water_pt2, changed, tmp_path):
    """A file of each kind."""
    made = {}
    for name, fields in {
        "another device": {"device": "cuda"},
        "another torch": {"torch_version": "1.0.0"},
    }.items():
        made[name] = tmp_path / f"{name.replace(' ', '_')}.pt2"
        shutil.move(changed(water_pt2, **fields), made[name])
    made["no exported model"] = tmp_path / "text.pt2"
    made["no exported model"].write_text("no model\n" * 100)
    made["another archive"] = tmp_path / "archive.pt2"
    with zipfile.ZipFile(made["another archive"], "w") as archive:
        archive.writestr("archive/data.txt", "no model\n" * 100)
    made["cut off"] = tmp_path / "cut.pt2"
    made["cut off"].write_bytes(water_pt2.read_bytes()[:100_000])
    return made | {"no file": tmp_path / "none.pt2"}


def good():
    """A molecule of water in a periodic box."""
    return Atoms("OHH", [[1, 1, 1], [1.96, 1, 1], [0.76, 1.93, 1]], cell=[9, 9, 9], pbc=True)


def bad(case):
    """The same, spoiled."""
    atoms = good()
    if case == "unknown element":
        atoms.symbols[1] = "Xe"
    elif case == "not a number":
        atoms.positions[1] = np.nan
    elif case == "overlap":
        atoms.positions[1] = atoms.positions[0] + 0.01
    else:
        atoms.cell[:] = 0
    return atoms


class InPython:
    """Edges of a graph, without positions or a cell."""

    cases = ("unknown element",)
    open = staticmethod(load)

    def __init__(self, path):
        self.potential = load(path)

    def energy(self, atoms):
        types = self.potential.types_of(atoms.get_chemical_symbols())
        positions = torch.tensor(atoms.positions)
        index = torch.tensor([[0, 0, 1, 1, 2, 2], [1, 2, 0, 2, 0, 1]])
        return float(self.potential(positions[index[1]] - positions[index[0]], index, types)[0].sum())


class InASE:
    """The calculator, which i-PI drives through a socket."""

    cases = tuple(GEOMETRIES)
    open = staticmethod(Calculator)

    def __init__(self, path):
        self.calculator = Calculator(path)

    def energy(self, atoms):
        return self.calculator.get_potential_energy(atoms)


class InTorchSim:
    """The model, on states made by torch-sim."""

    cases = tuple(GEOMETRIES)

    def __init__(self, path):
        self.simulator = pytest.importorskip("torch_sim")
        from mlip_export.torchsim import Model

        self.model = Model(path)

    @staticmethod
    def open(path):
        return InTorchSim(path)

    def energy(self, atoms):
        state = self.simulator.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64)
        return float(self.model(state)["energy"])


class InOpenMM:
    """One context; a System always has a box, and its elements are those of the force."""

    cases = ("unknown element", "not a number", "overlap")

    def __init__(self, path):
        self.openmm = pytest.importorskip("openmm")
        from mlip_export.openmm import EV, force

        self.unit, self.path, self.force = EV, path, force
        system, atoms = self.openmm.System(), good()
        for mass in atoms.get_masses():
            system.addParticle(mass)
        system.setDefaultPeriodicBoxVectors(*(self.openmm.Vec3(*row) for row in atoms.cell.array / 10))
        system.addForce(force(path, atoms.get_chemical_symbols(), periodic=True))
        platform = self.openmm.Platform.getPlatformByName("Reference")
        self.context = self.openmm.Context(system, self.openmm.VerletIntegrator(0.001), platform)

    @staticmethod
    def open(path):
        return InOpenMM(path)

    def energy(self, atoms):
        if atoms.get_chemical_symbols() != good().get_chemical_symbols():
            return self.force(self.path, atoms.get_chemical_symbols())
        self.context.setPositions(atoms.positions / 10)
        state = self.context.getState(energy=True)
        return state.getPotentialEnergy()._value / self.unit


HOSTS = {"Python": InPython, "ASE": InASE, "torch-sim": InTorchSim, "OpenMM": InOpenMM}


@pytest.mark.parametrize(
    ("host", "case"), [(host, case) for host, kind in HOSTS.items() for case in kind.cases]
)
def test_geometries(water_pt2, host, case):
    opened = HOSTS[host](water_pt2)
    expected = opened.energy(good())
    with pytest.raises(Exception, match=GEOMETRIES[case]) as caught:
        opened.energy(bad(case))
    assert "\n" not in str(caught.value)
    assert (
        opened.energy(good()) == expected == pytest.approx(Calculator(water_pt2).get_potential_energy(good()))
    )


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("host", HOSTS)
def test_files(water_pt2, files, host, case):
    """A running host is not disturbed by a file that does not load."""
    running = HOSTS[host](water_pt2)
    expected = running.energy(good())
    with pytest.raises((ValueError, FileNotFoundError), match=FILES[case]) as caught:
        HOSTS[host].open(files[case])
    assert "\n" not in str(caught.value) and files[case].name in str(caught.value)
    assert running.energy(good()) == expected


def test_lammps(plugin, water_pt2, files, tmp_path):
    """All cases in one LAMMPS: errors that Python catches leave the pair style and its energies as they were."""
    write_lammps_data(tmp_path / "data", good(), specorder=["H", "O"], masses=True, atom_style="atomic")
    lines = f"units metal\natom_style atomic\nread_data data\npair_style allegro\npair_coeff * * {water_pt2} H O\n"
    script = Path(__file__).parent / "scripts" / "lammps_bad_input.py"
    named = json.dumps({name: str(path) for name, path in files.items()})
    command = [sys.executable, str(script), lines, str(water_pt2), named]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = Calculator(water_pt2).get_potential_energy(good())
    found = json.loads(done.stdout.splitlines()[-1])
    wanted = {name: message for name, message in GEOMETRIES.items() if name != "missing cell"} | FILES
    assert found.keys() == wanted.keys()
    for name, (message, energy) in found.items():
        assert message is not None, name
        first = message.splitlines()[0]  # LAMMPS adds the place in its source and the last input line
        assert first.startswith("ERROR") and re.search(wanted[name], first), (name, message)
        assert energy == pytest.approx(expected, abs=1e-9), name
