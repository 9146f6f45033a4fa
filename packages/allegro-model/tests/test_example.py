"""The shipped potential: found by name, small, and right where its card says so."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
import torch

import localgraph
from allegro_model.example import example_potential

WATER = torch.tensor([[0.0, 0.0, 0.0], [0.7, 0.6, 0.0], [-0.85, 0.65, 0.1]], dtype=torch.float64)
"""A water molecule away from its minimum, Å; GFN2-xTB labels below."""


@pytest.fixture(scope="module")
def model():
    return localgraph.load_model(example_potential())[0]


def test_the_package_announces_the_potential():
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["mlip.examples"] == {"example": "allegro_model.example:example_potential"}
    assert example_potential().stat().st_size < 3e6
    assert example_potential().with_name("CARD.md").is_file()


def test_isolated_atoms_have_the_energies_of_xtb(model):
    types = localgraph.types_of(["H", "C", "N", "O", "F", "P", "S", "Cl"], model.type_names)
    far = 100.0 * torch.arange(24, dtype=torch.float64).reshape(8, 3)
    expected = [-10.70721, -48.79808, -70.90809, -102.52181, -125.69864, -64.60470, -85.61945, -121.97572]
    energies = localgraph.evaluate(model, far, types).energies
    torch.testing.assert_close(energies, torch.tensor(expected, dtype=torch.float64), atol=1e-4, rtol=0)


def test_distorted_water_agrees_with_its_label(model):
    result = localgraph.evaluate(model, WATER, localgraph.types_of(["O", "H", "H"], model.type_names))
    forces = [[-4.2484, 1.1146, 0.3450], [1.7193, 1.1149, -0.0260], [2.5291, -2.2295, -0.3190]]
    assert abs(float(result.energies.sum()) + 137.70328) < 0.05
    assert float((result.forces - torch.tensor(forces, dtype=torch.float64)).abs().max()) < 0.2


def test_atoms_pushed_together_repel(model):
    names = model.type_names
    for a in range(len(names)):
        for b in range(len(names)):
            pair = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.0, 0.0]], dtype=torch.float64)
            assert localgraph.evaluate(model, pair, torch.tensor([a, b])).forces[0, 0] < -5.0
