"""Implausible labels: each case changes good data in one way, and is found with its frame."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ase.build import bulk
from ase.calculators.emt import EMT
from ase.calculators.singlepoint import SinglePointCalculator
from samples import table_of

from mlip_train.data.plausible import findings

NONE = np.zeros(0, np.int64)


def labeled(atoms: Any) -> Any:
    """Give a structure of copper fixed labels by EMT."""
    atoms.calc = EMT()
    results = {"energy": atoms.get_potential_energy(), "forces": atoms.get_forces()}
    atoms.calc = SinglePointCalculator(atoms, **results, stress=atoms.get_stress())
    return atoms


@pytest.fixture(scope="module")
def copper() -> list[Any]:
    """40 steps of a straight path, then 30 structures of other volumes."""
    start = bulk("Cu", cubic=True) * (2, 1, 1)
    step = 0.003 * np.random.default_rng(0).standard_normal((len(start), 3))
    frames = []
    for k in range(40):
        frames.append(start.copy())
        frames[-1].positions += k * step
    for k in range(30):
        frames.append(start.copy())
        frames[-1].set_cell(start.cell * (0.95 + 0.003 * k), scale_atoms=True)
        frames[-1].rattle(0.02, seed=k)
    return [labeled(atoms) for atoms in frames]


def high_energy(results: dict[str, Any], i: int) -> None:
    results["energy"] += 30.0 * (i == 50)


def high_force(results: dict[str, Any], i: int) -> None:
    if i == 50:
        results["forces"][0] += [300.0, 0, 0]
        results["forces"][1] -= [300.0, 0, 0]


def net_force(results: dict[str, Any], i: int) -> None:
    results["forces"][:] += [0.5, 0, 0]


def gigapascals(results: dict[str, Any], i: int) -> None:
    results["stress"] *= 160.2


def pressures(results: dict[str, Any], i: int) -> None:
    results["stress"] *= -1


def gradients(results: dict[str, Any], i: int) -> None:
    results["forces"] *= -1


def other_energy_unit(results: dict[str, Any], i: int) -> None:
    results["energy"] /= 27.2114


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (high_energy, r"frame 50: energy \+3\.\d+ eV/atom from the middle of frames of its composition"),
        (
            high_force,
            r"frame 50: force of 300.* eV/Å, where the root mean square of a frame is .* \(1 such frames\)",
        ),
        (
            net_force,
            r"frame \d+: net force of 4 eV/Å on 8 atoms \(70 of 70 frames above 0.05 eV/Å per atom\)",
        ),
        (gigapascals, r"stress of .* eV/Å³ \(.* GPa\); set stress_unit"),
        (pressures, r"stress falls as the volume grows \(correlation -0\.\d+\); .* set stress_scale: -1"),
        (
            gradients,
            r"energy differences are -1(\.0\d*)? times the work of the forces; .* the sign of force_scale",
        ),
        (
            other_energy_unit,
            r"energy differences are 0\.036\d* times the work of the forces; check energy_unit",
        ),
    ],
)
def test_f11_implausible_labels_are_found(
    copper: list[Any], tmp_path: Path, change: Callable[..., None], message: str
) -> None:
    def table(change: Callable[..., None] | None, folder: Path) -> Any:
        frames = [atoms.copy() for atoms in copper]
        for i, (atoms, original) in enumerate(zip(frames, copper, strict=True)):
            results = {name: np.array(value) for name, value in original.calc.results.items()}
            if change is not None:
                change(results, i)
            atoms.calc = SinglePointCalculator(atoms, **results)
        folder.mkdir()
        return table_of(frames, folder, names=["Cu"])

    assert findings({"train": table(None, tmp_path / "good")}, NONE) == []
    found = findings({"train": table(change, tmp_path / "bad")}, NONE)
    assert len(found) == 1
    assert re.search(message, found[0]), found


def test_displacements_beyond_the_harmonic_are_no_finding(tmp_path: Path) -> None:
    """The trapezoid rule overestimates the work between independent displacements of 0.1 Å by a quarter."""
    frames = []
    for seed in range(24):
        atoms = bulk("Cu", cubic=True) * (2, 1, 1)
        atoms.rattle(0.1, seed=seed)
        frames.append(labeled(atoms))
    table = table_of(frames, tmp_path, names=["Cu"])
    work, energy = np.array(table.arrays["work"][1:]), np.diff(table.arrays["energy"])
    assert 0.7 < (work * energy).sum() / (work * work).sum() < 0.85
    assert findings({"train": table}, NONE) == []


def test_f11_structures_in_two_parts_or_with_two_energies_are_found(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    frames = make_frames(8)
    repeated = frames[2].copy()
    repeated.calc = SinglePointCalculator(repeated, energy=-1.0, forces=np.zeros((len(repeated), 3)))
    tables = {}
    for part, chosen in {"train": [*frames[:6], repeated], "validation": frames[5:]}.items():
        (tmp_path / part).mkdir()
        tables[part] = table_of(chosen, tmp_path / part)
    twice, shared = findings(tables, NONE)
    assert "frame 6: energy of -1 eV, and " in twice and "frame 2 (1 such frames)" in twice
    assert "frame 0: structure of data.validation that is trained on (1 such frames)" in shared
    found = findings({"train": tables["train"]}, np.array([6]))
    assert "frame 6: structure of the frames held out that is trained on" in found[-1]
