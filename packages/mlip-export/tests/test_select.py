"""Choosing frames by spread and diversity."""

import ase.io
import numpy as np
import pytest
from ase import Atoms

from mlip_export import select
from mlip_export.ase import Calculator
from mlip_export.cli import main


@pytest.fixture
def trajectory(make_water, tmp_path):
    """Nine frames: water rattled more and more, of which each of the last three repeats; one with overlapping atoms."""
    frames = []
    for k in range(6):
        atoms = make_water(1, seed=k)
        atoms.rattle(0.02 * k, seed=k)
        frames.append(atoms)
    frames += [frames[5].copy(), frames[5].copy()]
    frames.insert(2, Atoms("OHH", [[0, 0, 0], [0, 0, 0.01], [1, 0, 0]], cell=[5, 5, 5], pbc=True))
    ase.io.write(tmp_path / "run.xyz", frames)
    return tmp_path / "run.xyz"


def test_the_order_of_choice(trajectory, water_pt2, second_pt2):
    models = [water_pt2, second_pt2]
    found = select(trajectory, models, 9)
    assert (found.evaluated, found.skipped) == (8, 1)
    calculator, spreads = Calculator(models), {}
    for index, atoms in enumerate(ase.io.read(trajectory, ":")):
        if index != 2:
            calculator.calculate(atoms)
            spreads[index] = calculator.spread.forces.max()
    assert found.frames[0] == max(spreads, key=spreads.get)
    assert found.spreads == [spreads[index] for index in found.frames]
    assert len(found.frames) == 6  # the repeated frames are chosen once
    assert len({6, 7, 8} & set(found.frames)) == 1
    assert select(trajectory, models, 2).frames == found.frames[:2]


def test_limits(trajectory, water_pt2, second_pt2):
    models = [water_pt2, second_pt2]
    every = select(trajectory, models, 9, every=3)
    assert set(every.frames) <= {0, 3, 6} and every.evaluated == 3
    limit = np.median(every.spreads)
    assert min(select(trajectory, models, 9, at_least=limit).spreads) >= limit


@pytest.mark.parametrize(
    "change, message",
    [
        ({"models": 1}, "models must be at least two members"),
        ({"count": 0}, "count must be at least 1, got 0"),
        ({"every": 0}, "every must be at least 1, got 0"),
        ({"at_least": 1e9}, "trajectory must hold frames with a force spread of at least"),
        ({"trajectory": "text"}, "trajectory must be a file that ASE reads"),
    ],
)
def test_bad_arguments(trajectory, water_pt2, second_pt2, tmp_path, change, message):
    arguments = {"trajectory": trajectory, "models": [water_pt2, second_pt2], "count": 3} | change
    if change.get("models"):
        arguments["models"] = [water_pt2]
    if change.get("trajectory"):
        arguments["trajectory"] = tmp_path / "text.foo"
        arguments["trajectory"].write_text("no frames\n")
    with pytest.raises(ValueError, match=message):
        select(**arguments)


def test_the_command(trajectory, water_pt2, second_pt2, tmp_path, capsys):
    output = tmp_path / "selected.xyz"
    models = ["--models", str(water_pt2), str(second_pt2)]
    assert main(["select", str(trajectory), *models, "-n", "3", "-o", str(output)]) == 0
    assert "wrote 3 frames" in capsys.readouterr().out
    found = select(trajectory, [water_pt2, second_pt2], 3)
    frames = ase.io.read(output, ":")
    assert [atoms.info["frame"] for atoms in frames] == sorted(found.frames)
    assert all(atoms.calc is None for atoms in frames)
    assert max(atoms.info["force_spread"] for atoms in frames) == pytest.approx(found.spreads[0], rel=1e-6)
