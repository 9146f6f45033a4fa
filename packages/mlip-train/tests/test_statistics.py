"""Constants of the model from the training frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from samples import table_of

from mlip_train.config import SourceConfig, StatisticsConfig
from mlip_train.data.build import build_table
from mlip_train.data.statistics import gather_statistics


def test_statistics(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(30)
    table = table_of(frames, tmp_path)
    s = gather_statistics(table, StatisticsConfig())
    counts = np.array([[(a.numbers == 1).sum(), (a.numbers == 8).sum()] for a in frames], float)
    n, e = counts.sum(1), np.array([a.get_potential_energy() for a in frames])
    assert s.avg_num_neighbors == pytest.approx(table.edge_counts.sum() / n.sum())
    f = np.concatenate([a.get_forces() for a in frames])
    assert s.force_rms == pytest.approx(np.sqrt((f**2).mean()), rel=1e-6)
    ridged = gather_statistics(table, StatisticsConfig(ridge=0.5)).energy_shifts
    x, mean = counts / n[:, None], (e / n).mean()
    expected = mean + np.linalg.solve(x.T @ x + 0.5 * np.eye(2), x.T @ (e / n - mean * x.sum(1)))
    assert np.allclose(ridged, expected, atol=1e-6)


def test_statistics_when_composition_is_constant_or_isolated(
    make_frames: Callable[..., Any], tmp_path: Path
) -> None:
    same = [a for a in make_frames(20) if len(a) == 3]
    s = gather_statistics(table_of(same, tmp_path), StatisticsConfig())
    assert np.isfinite(s.energy_shifts).all()
    energies = np.array([a.get_potential_energy() for a in same])
    assert abs(s.energy_shifts @ [2, 1] - energies.mean()) < 1e-3 * abs(energies.mean())
    with pytest.raises(ValueError, match=r"each element has a frame of one atom .* none of \['H', 'O'\]"):
        gather_statistics(table_of(same, tmp_path), StatisticsConfig(energy_shifts="isolated"))


def test_atomic_energies_of_a_rare_element(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    energies = {"H": -16.3, "C": -1037.5, "Br": -70046.0}
    written = []
    for k in range(40):
        symbols = ["H"] * int(rng.integers(2, 9)) + ["C"] * int(rng.integers(1, 5)) + ["Br"] * (k == 7)
        atoms = Atoms(symbols, rng.normal(size=(len(symbols), 3)))
        atoms.calc = SinglePointCalculator(
            atoms, energy=sum(energies[s] for s in symbols), forces=np.zeros((len(symbols), 3))
        )
        written.append(atoms)
    ase.io.write(tmp_path / "f.xyz", written)
    names = list(energies)
    cutoffs = torch.full((3, 3), 4.0, dtype=torch.float64)
    table = build_table([SourceConfig(path=str(tmp_path / "f.xyz"))], names, cutoffs, tmp_path / "c")
    found = gather_statistics(table, StatisticsConfig()).energy_shifts
    assert np.abs(found - list(energies.values())).max() < 0.01
