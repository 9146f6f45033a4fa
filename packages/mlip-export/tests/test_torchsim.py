"""The torch-sim model: a batch gives what ASE gives for each structure."""

import pickle

import numpy as np
import pytest
import torch
from ase import Atoms

from mlip_export.ase import Calculator

torch_sim = pytest.importorskip("torch_sim")

from torch_sim.models.interface import validate_model_outputs  # noqa: E402

from mlip_export.torchsim import Model  # noqa: E402


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_a_batch_equals_ase(water_pt2, make_water, dtype):
    boxes = [make_water(2, triclinic=True), make_water(3, seed=1), make_water(2, seed=2)]
    model = Model(water_pt2, dtype=dtype, max_edges=300)
    generator = np.random.default_rng(0)
    tolerance = (
        1e-10 if dtype == torch.float64 else 2e-3
    )  # eV of an energy near 100 eV, from positions in float32
    for _ in range(3):
        found = model(torch_sim.io.atoms_to_state(boxes, torch.device("cpu"), dtype))
        assert found["energy"].shape == (3,) and found["stress"].shape == (3, 3, 3)
        start = 0
        for k, atoms in enumerate(boxes):
            atoms.calc = Calculator(water_pt2)
            stop = start + len(atoms)
            assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=tolerance)
            np.testing.assert_allclose(
                found["forces"][start:stop], atoms.get_forces(), rtol=0, atol=tolerance
            )
            np.testing.assert_allclose(
                found["stress"][k], atoms.get_stress(voigt=False), rtol=0, atol=tolerance
            )
            start = stop
        for atoms in boxes:
            atoms.positions += 0.05 * generator.normal(size=atoms.positions.shape)
            atoms.set_cell(atoms.cell.array * 1.003, scale_atoms=True)


def test_molecules_change_the_list_and_unknown_elements(water_pt2):
    model = Model(water_pt2, open_cells=True)
    cpu = torch.device("cpu")
    for symbols in ("OHH", "HOH"):
        atoms = Atoms(symbols, [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], cell=[9, 9, 9], pbc=False)
        found = model(torch_sim.io.atoms_to_state([atoms], cpu, torch.float64))
        atoms.calc = Calculator(water_pt2)
        assert float(found["energy"][0]) == pytest.approx(atoms.get_potential_energy(), abs=1e-11)
    with pytest.raises(ValueError, match=r"atoms must be among the types \['H', 'O'\], got also \['Si'\]"):
        model(torch_sim.io.atoms_to_state([Atoms("Si", cell=[5, 5, 5])], cpu, torch.float64))


def test_options(water_pt2):
    for options in ({"max_edges": 0}, {"skin": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}(:| must be)"):
            Model(water_pt2, **options)


def test_the_interface_of_torch_sim(tmp_path, water_pt2, make_water):
    """A short NVE of torch-sim itself, two structures at once."""
    boxes = [make_water(2), make_water(2, seed=1)]
    final = torch_sim.integrate(
        system=boxes,
        model=Model(water_pt2),
        integrator=torch_sim.nve,
        n_steps=3,
        temperature=50,
        timestep=0.0002,
    )
    assert final.energy.shape == (2,) and bool(torch.isfinite(final.energy).all())


@pytest.mark.parametrize("pbc", [(True, True, False), (True, False, False), (False, False, False)])
def test_partial_periodicity_is_right_or_refused(water_pt2, make_water, pbc):
    """F6: torch-sim before 0.6 reduces the axes of a slab to False."""
    atoms = make_water(2)
    atoms.pbc = pbc
    state = torch_sim.io.atoms_to_state([atoms], torch.device("cpu"), torch.float64)
    atoms.calc = Calculator(water_pt2)
    if state.pbc is False:
        with pytest.raises(ValueError, match="pbc must name the periodic axes of structures with a cell"):
            Model(water_pt2)(state)
    model = Model(water_pt2, open_cells=True)
    if state.pbc is not False or not any(pbc):
        assert float(model(state)["energy"]) == pytest.approx(atoms.get_potential_energy(), abs=1e-10)


def test_switches_precision_and_pickles(water_pt2, make_water):
    atoms = make_water(2)
    atoms.calc = Calculator(water_pt2)
    state = torch_sim.io.atoms_to_state([atoms], torch.device("cpu"), torch.float32)
    model = Model(water_pt2, dtype=torch.float32, energy_dtype=torch.float64, compute_stress=False)
    for copy in (model, pickle.loads(pickle.dumps(model))):
        found = copy(state)
        assert sorted(found) == ["energies", "energy", "forces"]
        assert found["energy"].dtype == torch.float64 and found["forces"].dtype == torch.float32
        assert copy.dtype == torch.float32
    model.compute_forces, model.compute_stress = False, True
    assert sorted(model(state)) == ["energies", "energy", "stress"]


def test_a_committee(water_pt2, second_pt2, make_water):
    boxes = [make_water(2), make_water(2, seed=1)]
    model = Model([water_pt2, second_pt2])
    for copy in (model, pickle.loads(pickle.dumps(model))):
        found = copy(torch_sim.io.atoms_to_state(boxes, torch.device("cpu"), torch.float64))
        for k, atoms in enumerate(boxes):
            atoms.calc = Calculator([water_pt2, second_pt2])
            part = slice(k * len(atoms), (k + 1) * len(atoms))
            assert float(found["energy"][k]) == pytest.approx(atoms.get_potential_energy(), abs=1e-10)
            spread = atoms.calc.spread
            assert float(found["energy_spread"][k]) == pytest.approx(spread.energy, abs=1e-10)
            np.testing.assert_allclose(found["energies_spread"][part], spread.energies, rtol=0, atol=1e-11)
            np.testing.assert_allclose(found["forces_spread"][part], spread.forces, rtol=0, atol=1e-11)
            assert spread.forces.max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_validation_of_torch_sim(toy, compiled, dtype):
    path = compiled("metals.pt2", toy(("Si", "Fe"), 4.0))
    validate_model_outputs(Model(path, dtype=dtype, compute_stress=False), torch.device("cpu"), dtype)
