"""Metatomic models against the ASE calculator of the same exported model."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ase import Atoms, units

from mlip_export import ExportedModelError
from mlip_export.ase import Calculator

metatomic = pytest.importorskip("metatomic.torch")
metatomic_ase = pytest.importorskip("metatomic_ase")

from metatensor.torch import Labels  # noqa: E402
from vesin.metatomic import NeighborList  # noqa: E402

from mlip_export.metatomic import atomistic_model, export  # noqa: E402


@pytest.fixture(scope="module")
def cache(shared):
    """The compiled library, built once per run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLIP_EXPORT_CACHE", str(shared / "cache"))
        yield


@pytest.fixture(scope="module")
def written(cache, water_pt2, tmp_path_factory):
    """A written metatomic model and the folder of its library."""
    folder = tmp_path_factory.mktemp("metatomic")
    export(water_pt2, folder / "water.pt", extensions=folder / "extensions")
    return folder


@pytest.mark.parametrize("case", ["molecule", "box", "triclinic", "slab", "isolated"])
def test_equals_the_ase_calculator(written, water_pt2, make_water, case):
    atoms = make_water(3 if case == "box" else 2, triclinic=case == "triclinic")
    atoms.pbc = {"molecule": False, "slab": [True, True, False], "isolated": False}.get(case, True)
    if case == "isolated":
        atoms = Atoms("HO", [[0, 0, 0], [50, 0, 0]])
    calculator = metatomic_ase.MetatomicCalculator(
        str(written / "water.pt"), extensions_directory=str(written / "extensions"), check_consistency=True
    )
    reference = atoms.copy()
    atoms.calc, reference.calc = calculator, Calculator(water_pt2)
    assert atoms.get_potential_energy() == pytest.approx(reference.get_potential_energy(), abs=1e-10)
    np.testing.assert_allclose(atoms.get_forces(), reference.get_forces(), rtol=0, atol=1e-10)
    np.testing.assert_allclose(
        atoms.get_potential_energies(), reference.get_potential_energies(), rtol=0, atol=1e-10
    )
    if atoms.pbc.all():
        np.testing.assert_allclose(atoms.get_stress(), reference.get_stress(), rtol=0, atol=1e-12)


def test_atoms_of_a_domain_and_their_derivatives(cache, water_pt2, make_water):
    """An engine that asks for the energies of some atoms gets those, and the gradient of their sum."""
    atoms = make_water(2)
    positions = torch.tensor(atoms.positions, requires_grad=True)
    system = metatomic.System(
        torch.tensor(atoms.numbers, dtype=torch.int32),
        positions,
        torch.tensor(atoms.cell.array),
        torch.tensor([True] * 3),
    )
    model = atomistic_model(water_pt2)
    for options in model.requested_neighbor_lists():
        NeighborList(options, length_unit="angstrom").add_neighbor_list(system)
    chosen = Labels(["system", "atom"], torch.tensor([[0, 0], [0, 5], [0, 6]], dtype=torch.int32))
    outputs = {"energy": metatomic.ModelOutput(unit="eV", sample_kind="system")}
    options = metatomic.ModelEvaluationOptions("angstrom", outputs, selected_atoms=chosen)
    energy = model([system], options, check_consistency=True)["energy"].block().values.sum()
    atoms.calc = Calculator(water_pt2)
    assert energy.item() == pytest.approx(atoms.get_potential_energies()[[0, 5, 6]].sum(), abs=1e-10)
    (gradient,) = torch.autograd.grad(energy, positions)
    step = 1e-5
    for atom, axis in [(0, 0), (5, 1), (7, 2)]:
        sides = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[atom, axis] += sign * step
            sides.append(atoms.calc.get_property("energies", moved)[[0, 5, 6]].sum())
        assert float(gradient[atom, axis]) == pytest.approx((sides[0] - sides[1]) / (2 * step), abs=1e-7)


def test_another_process_needs_the_two_files_alone(written, make_water, water_pt2, tmp_path):
    """Written model and library, without mlip-export."""
    atoms = make_water(2)
    atoms.write(tmp_path / "atoms.xyz")
    script = Path(__file__).parent / "scripts" / "run_metatomic.py"
    command = [sys.executable, script, written / "water.pt", written / "extensions", tmp_path / "atoms.xyz"]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    atoms.calc = Calculator(water_pt2)
    assert float(done.stdout.split()[-1]) == pytest.approx(atoms.get_potential_energy(), abs=1e-6)


def test_the_driver_of_ipi(written, water_pt2, make_water, tmp_path):
    """Energy, forces and virial in atomic units."""
    driver = pytest.importorskip("ipi.pes.metatomic")
    atoms = make_water(2)
    atoms.write(tmp_path / "start.xyz")
    drive = driver.MetatomicDriver(
        template=str(tmp_path / "start.xyz"),
        model=str(written / "water.pt"),
        extensions=str(written / "extensions"),
    )
    length, energy_unit = 1 / units.Bohr, 1 / units.Hartree
    energy, forces, virial, _ = drive(atoms.cell.array.T * length, atoms.positions * length)
    atoms.calc = Calculator(water_pt2)
    assert energy == pytest.approx(atoms.get_potential_energy() * energy_unit, rel=1e-6)
    scale = energy_unit / length
    np.testing.assert_allclose(forces, atoms.get_forces() * scale, rtol=1e-5, atol=1e-7)
    expected = -atoms.get_stress(voigt=False) * atoms.get_volume() * energy_unit
    np.testing.assert_allclose(virial, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("symbols", "positions", "message"),
    [
        ("OSi", [[0, 0, 0], [1, 0, 0]], "does not support the atomic type '14'"),
        ("OH", [[0, 0, 0], [0.05, 0, 0]], "longer than 0.1 Angstrom, got 0.05"),
    ],
)
def test_bad_geometries(cache, water_pt2, symbols, positions, message):
    atoms = Atoms(symbols, positions)
    atoms.calc = metatomic_ase.MetatomicCalculator(atomistic_model(water_pt2))
    with pytest.raises(Exception, match=message):
        atoms.get_potential_energy()
    good = Atoms("OH", [[0, 0, 0], [1, 0, 0]])
    good.calc = atoms.calc
    assert good.get_potential_energy() == pytest.approx(Calculator(water_pt2).get_potential_energy(good))


def test_second_derivatives_are_refused(cache, water_pt2):
    potential = atomistic_model(water_pt2).module.potential
    r = torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]], dtype=torch.float64, requires_grad=True)
    index, types = torch.tensor([[0, 1], [1, 0]]), torch.tensor([0, 1])
    energy = potential.energies(r, index, types).sum()
    with pytest.raises(RuntimeError, match="got a second derivative"):
        torch.autograd.grad(energy, r, create_graph=True)


def test_models_that_metatomic_cannot_name(cache, water_pt2, changed, tmp_path):
    with pytest.raises(ExportedModelError, match="one type per element"):
        export(changed(water_pt2, type_names='["H1", "H2"]', elements='["H", "H"]'), tmp_path / "a.pt")
