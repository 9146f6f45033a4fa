"""The Hessian against finite differences of the exported model's forces."""

import numpy as np
import pytest
from ase import Atoms

import localgraph
import mlip_export
from mlip_export.ase import Calculator

MOLECULE = Atoms(
    "OHHOHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0], [0, 0, 2.8], [0.9, 0, 3], [-0.2, 0.9, 3]]
)


@pytest.mark.parametrize("periodic", [False, True])
def test_equals_differences_of_forces(water_pt2, water_model, tmp_path, periodic):
    atoms = MOLECULE.copy()
    if periodic:
        atoms.set_cell([4.0, 4.1, 5.5])
        atoms.pbc = True
    localgraph.save_model(tmp_path / "model.safetensors", water_model)
    found = mlip_export.hessian(tmp_path / "model.safetensors", atoms, rows=5)
    np.testing.assert_array_equal(found, mlip_export.hessian(water_model, atoms))
    atoms.calc = Calculator(water_pt2)
    step, expected = 1e-5, np.zeros((18, 18))
    for k in range(18):
        sides = []
        for sign in (1, -1):
            moved = atoms.copy()
            moved.positions[k // 3, k % 3] += sign * step
            sides.append(atoms.calc.get_forces(moved).flatten())
        expected[k] = (sides[1] - sides[0]) / (2 * step)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(found.reshape(18, 6, 3).sum(1), 0, rtol=0, atol=1e-9)
    assert np.abs(found).max() > 1


def test_bad_input(water_model):
    with pytest.raises(ValueError, match="rows must be at least 1, got 0"):
        mlip_export.hessian(water_model, MOLECULE, rows=0)
    with pytest.raises(ValueError, match=r"atoms must be among the types \['H', 'O'\], got also \['Si'\]"):
        mlip_export.hessian(water_model, Atoms("Si"))
