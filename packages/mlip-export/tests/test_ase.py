"""The ASE calculator against the eager model, finite differences, and conservation of energy."""

import pickle

import ase.db
import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms, units
from ase.calculators.calculator import PropertyNotImplementedError
from ase.calculators.fd import calculate_numerical_forces, calculate_numerical_stress
from ase.calculators.singlepoint import SinglePointCalculator
from ase.md.verlet import VelocityVerlet
from ase.optimize import BFGS

import localgraph
import mlip_export
from mlip_export.ase import Calculator


def eager(model, atoms):
    """Energy, atom energies, forces and stress by localgraph and the eager model."""
    types = torch.tensor([model.type_names.index(s) for s in atoms.get_chemical_symbols()])
    positions = torch.tensor(atoms.positions)
    cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
    graph = localgraph.neighbors(
        positions, model.cutoffs, cell=cell, pbc=list(map(bool, atoms.pbc)), types=types
    )
    r = localgraph.edge_vectors(positions, graph, cell)
    energies, g = localgraph.energies_and_edge_forces(model, r, graph.edge_index, types)
    stress = None if cell is None else localgraph.stress(localgraph.virial(g, r), localgraph.volume(cell))
    return energies, localgraph.forces(g, graph.edge_index, graph.num_atoms), stress


@pytest.mark.parametrize("triclinic", [False, True])
@pytest.mark.parametrize("pbc", [True, (True, True, False)])
def test_equals_eager(water_pt2, water_model, make_water, triclinic, pbc):
    atoms = make_water(3, triclinic)
    atoms.pbc = pbc
    atoms.calc = Calculator(water_pt2, max_edges=200)
    energies, forces, stress = eager(water_model, atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(energies.sum()), abs=1e-10)
    np.testing.assert_allclose(atoms.get_potential_energies(), energies, rtol=0, atol=1e-11)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-11)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=0, atol=1e-12)
    np.testing.assert_allclose(atoms.get_stresses().sum(0), atoms.get_stress(), rtol=0, atol=1e-12)


def test_a_cell_smaller_than_the_cutoff(water_pt2, water_model):
    atoms = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[2.9, 3.0, 3.1], pbc=True)
    atoms.calc = Calculator(water_pt2)
    energies, forces, stress = eager(water_model, atoms)
    assert atoms.get_potential_energy() == pytest.approx(float(energies.sum()), abs=1e-11)
    np.testing.assert_allclose(atoms.get_forces(), forces, rtol=0, atol=1e-11)
    np.testing.assert_allclose(atoms.get_stress(voigt=False), stress, rtol=0, atol=1e-12)


def test_forces_and_stress_against_finite_differences(water_pt2, make_water):
    atoms = make_water(2, triclinic=True)
    atoms.calc = Calculator(water_pt2)
    numerical = calculate_numerical_forces(atoms, eps=1e-4, iatoms=[0, 5, 11])
    np.testing.assert_allclose(atoms.get_forces()[[0, 5, 11]], numerical, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        atoms.get_stress(), calculate_numerical_stress(atoms, eps=1e-5), rtol=0, atol=1e-7
    )


def test_molecules_isolated_atoms_and_no_atoms(water_pt2, water_model):
    molecule = Atoms("OH2", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
    molecule.calc = Calculator(water_pt2)
    energies, forces, _ = eager(water_model, molecule)
    assert molecule.get_potential_energy() == pytest.approx(float(energies.sum()), abs=1e-12)
    np.testing.assert_allclose(molecule.get_forces(), forces, rtol=0, atol=1e-12)
    with pytest.raises(PropertyNotImplementedError, match="stress must be of atoms with a cell"):
        molecule.get_stress()
    far = Atoms("HOH", [[0, 0, 0], [50, 0, 0], [0, 50, 0]])
    far.calc = Calculator(water_pt2)
    assert far.get_potential_energies().tolist() == [-1.5, -0.5, -1.5]
    assert not far.get_forces().any()
    none = Atoms(cell=[5, 5, 5], pbc=True)
    none.calc = Calculator(water_pt2)
    assert none.get_potential_energy() == 0.0 and none.get_forces().shape == (0, 3)


def test_types_that_are_no_elements(water_pt2, changed, make_water):
    """By their elements where that is unique, else by an array of type names."""
    atoms = make_water(1)
    atoms.calc = Calculator(water_pt2)
    expected = atoms.get_potential_energy()
    named = changed(water_pt2, type_names='["Hw", "Ow"]', elements='["H", "O"]')
    atoms.calc = Calculator(named)
    assert atoms.get_potential_energy() == expected
    atoms.calc = Calculator(changed(water_pt2, type_names='["H1", "H2"]', elements='["H", "H"]'))
    with pytest.raises(ValueError, match=r"atoms must be"):
        atoms.get_potential_energy()
    atoms.symbols[:] = "H"
    with pytest.raises(ValueError, match=r"named by type where an element has several"):
        atoms.get_potential_energy()
    atoms.arrays["type_names"] = np.array(["H2", "H1", "H1"])
    assert atoms.get_potential_energy() == expected
    atoms.arrays["type_names"] = np.array(["H1", "H1", "H1"])
    assert atoms.get_potential_energy() != expected


def test_stress_on_request(water_pt2, make_water):
    atoms = make_water(2)
    atoms.calc = Calculator(water_pt2, compute_stress=False)
    atoms.get_forces()
    assert "stress" not in atoms.calc.results
    with pytest.raises(PropertyNotImplementedError, match="compute_stress"):
        atoms.get_stress()


def test_provenance_in_files(water_pt2, second_pt2, make_water, tmp_path):
    """Trajectories and databases name the files and the checksums of their weights."""
    atoms = make_water(1)
    atoms.calc = Calculator([water_pt2, second_pt2])
    atoms.get_potential_energy()
    ase.io.write(tmp_path / "a.traj", atoms)
    with ase.db.connect(tmp_path / "a.json") as database:
        database.write(atoms)
        row = database.get(1)
    checksums = [mlip_export.read_metadata(p).checksum for p in (water_pt2, second_pt2)]
    expected = {"model": "export_toy", "files": [str(water_pt2), str(second_pt2)], "checksums": checksums}
    assert row.calculator == "mlip-export" and row.calculator_parameters == expected
    calculator = ase.io.read(tmp_path / "a.traj").calc
    assert calculator.name == "mlip-export" and calculator.parameters == expected


def test_the_heat_flux_is_the_time_derivative_of_the_energy_moment(water_pt2):
    """For a cluster, J = d/dt Σ x_i (E_i + m v²/2), by central differences along NVE."""
    generator = np.random.default_rng(3)
    positions = np.stack(np.meshgrid(*[np.arange(2) * 1.5] * 3), -1).reshape(-1, 3)
    atoms = Atoms("OHHOHOHH", positions + 0.1 * generator.normal(size=(8, 3)))
    atoms.calc = Calculator(water_pt2)
    atoms.set_momenta(0.3 * generator.normal(size=(8, 3)) * np.sqrt(atoms.get_masses())[:, None])
    step, moments = 1e-4, []
    flux = None
    dynamics = VelocityVerlet(atoms, timestep=step)
    for k in range(3):
        kinetic = 0.5 * atoms.get_masses() * (atoms.get_velocities() ** 2).sum(1)
        moments.append(((atoms.get_potential_energies() + kinetic)[:, None] * atoms.positions).sum(0))
        if k == 1:
            flux = atoms.calc.get_heat_flux(atoms)
        dynamics.run(1)
    np.testing.assert_allclose((moments[2] - moments[0]) / (2 * step), flux, rtol=0, atol=1e-4)
    assert np.abs(flux).max() > 0.1


def _drift(path, atoms, femtoseconds, total=20.0):
    atoms = atoms.copy()
    atoms.calc = Calculator(path)
    spread = np.sqrt(100 * units.kB * atoms.get_masses())[:, None]
    atoms.set_momenta(spread * np.random.default_rng(0).normal(size=(len(atoms), 3)))
    md = VelocityVerlet(atoms, timestep=femtoseconds * units.fs)
    energies = []
    md.attach(lambda: energies.append(atoms.get_total_energy()))
    md.run(round(total / femtoseconds))
    assert atoms.calc.edges.searches < len(energies) / 2
    return float(np.std(energies))


def test_energy_error_scales_as_the_square_of_the_time_step(water_pt2, make_water):
    atoms = make_water(2)
    atoms.calc = Calculator(water_pt2)
    BFGS(atoms, logfile=None).run(fmax=0.5, steps=40)
    ratio = _drift(water_pt2, atoms, 0.2) / _drift(water_pt2, atoms, 0.1)
    assert 3.5 < ratio < 4.5


def test_bad_geometries(water_pt2):
    calculator = Calculator(water_pt2)
    with pytest.raises(ValueError, match=r"atoms must be among the types \['H', 'O'\], got also \['Si'\]"):
        Atoms("SiO", [[0, 0, 0], [0, 0, 1]], calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match=r"must be finite and longer than 0.1 Å"):
        Atoms("HO", [[0, 0, 0], [0, 0, 0.01]], calculator=calculator).get_potential_energy()
    with pytest.raises(ValueError, match="positions must be finite"):
        Atoms("HO", [[0, 0, 0], [0, 0, np.nan]], calculator=calculator).get_potential_energy()


def test_options(water_pt2):
    for options, kind, message in (
        ({"max_edge": 3}, TypeError, "max_edge"),
        ({"max_edges": 0}, ValueError, "max_edges must be at least 1 and at most .*, got 0"),
        ({"skin": -0.1}, ValueError, "skin must be a finite number ≥ 0, got -0.1"),
    ):
        with pytest.raises(kind, match=message):
            Calculator(water_pt2, **options)
    with pytest.raises(ValueError, match=r"options of set must be none .*, got \['skin'\]"):
        Calculator(water_pt2).set(skin=2.0)


def test_a_failed_evaluation_keeps_no_results(water_pt2):
    calculator = Calculator(water_pt2)
    good = Atoms("HO", [[0, 0, 0], [0, 0, 1]])
    calculator.calculate(good)
    with pytest.raises(ValueError, match=r"longer than 0\.1 Å"):
        calculator.calculate(Atoms("HO", [[0, 0, 0], [0, 0, 0.01]]))
    assert calculator.results == {} and calculator.spread is None
    calculator.calculate(good)
    assert calculator.results["energy"] == Calculator(water_pt2).get_potential_energy(good)


def test_pickles_and_results_that_ase_takes(water_pt2, make_water, tmp_path, monkeypatch):
    """Of a committee, found by relative paths, in another folder."""
    monkeypatch.chdir(water_pt2.parent)
    atoms = make_water(2)
    atoms.calc = Calculator([water_pt2.name] * 2, skin=0.2, max_edges=300)
    energy = atoms.get_potential_energy()
    monkeypatch.chdir(tmp_path)
    again = pickle.loads(pickle.dumps(atoms.calc))
    assert again.edges.skin == 0.2 and again.max_edges == 300 and len(again.members) == 2
    assert again.get_potential_energy(atoms) == energy
    assert SinglePointCalculator(atoms, **atoms.calc.results).get_potential_energy() == energy
    assert atoms.calc.export_properties()["energy"] == energy
    assert atoms.calc.spread.energy == 0.0 and not atoms.calc.spread.forces.any()


@pytest.mark.slow
def test_a_committee(water_pt2, second_pt2, make_water):
    atoms = make_water(2)
    single = []
    for path in (water_pt2, second_pt2):
        atoms.calc = Calculator(path)
        single.append((atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()))
    atoms.calc = Calculator([water_pt2, second_pt2])
    assert atoms.get_potential_energy() == pytest.approx((single[0][0] + single[1][0]) / 2, abs=1e-10)
    mean = (single[0][1] + single[1][1]) / 2
    np.testing.assert_allclose(atoms.get_forces(), mean, rtol=0, atol=1e-11)
    np.testing.assert_allclose(atoms.get_stress(), (single[0][2] + single[1][2]) / 2, rtol=0, atol=1e-12)
    found = atoms.calc.spread
    assert found.energy == pytest.approx(abs(single[0][0] - single[1][0]) / 2, abs=1e-10)
    spread = np.linalg.norm(single[0][1] - single[1][1], axis=1) / 2
    np.testing.assert_allclose(found.forces, spread, rtol=0, atol=1e-11)
    assert found.energies.shape == (24,) and spread.max() > 1e-3


def test_values_of_edges_stay_on_the_device(water_pt2, make_water, monkeypatch):
    """What passes between the host and a GPU in a step is of atoms alone."""
    moved = []
    for name in ("cpu", "to"):
        whole = getattr(torch.Tensor, name)

        def counted(self, *given, whole=whole, **named):
            place = given[0] if given else "cpu"
            if isinstance(place, (str, torch.device)):
                moved.append(self.numel())
            return whole(self, *given, **named)

        monkeypatch.setattr(torch.Tensor, name, counted)
    atoms = make_water(3)
    calculator = Calculator(water_pt2)
    calculator.calculate(atoms)
    assert calculator.edge_count > 6 * len(atoms)
    assert moved and max(moved) <= 6 * len(atoms)
