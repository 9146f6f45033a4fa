"""A small smooth potential of edges that is registered for the tests, frames drawn at random, and a run on them."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from ase import Atoms
from ase.calculators.singlepoint import SinglePointCalculator
from torch import Tensor, nn

import localgraph

sys.path.insert(0, str(Path(__file__).parent))  # import-mode importlib does not let tests import samples.py

KEYS = {"type_names", "cutoff", "avg_num_neighbors", "energy_shifts", "energy_scales", "width", "dtype"}


class ToyModel(nn.Module):
    """E_i = μ + σ·(Σ_j φ(r)·w + tanh(Σ_j ρ(r))·v): pair terms and an embedded density, smooth at the cutoff."""

    model_name = "toy"

    def __init__(self, config: Mapping[str, Any]):
        super().__init__()
        unknown = sorted(set(config) - KEYS)
        if unknown:
            raise ValueError(f"config: required keys among {sorted(KEYS)}, got {unknown}")
        self.config = {
            "width": 4,
            "avg_num_neighbors": 1.0,
            "energy_shifts": 0.0,
            "energy_scales": 1.0,
        } | dict(config)
        self.type_names = tuple(config["type_names"])
        self.cutoff = float(config["cutoff"])
        t, w = len(self.type_names), self.config["width"]
        dtype = getattr(torch, self.config.get("dtype", "float64"))
        self.pair = nn.Parameter(0.3 * torch.randn(t, t, w, dtype=dtype))
        self.density = nn.Parameter(0.3 * torch.randn(t, t, w, dtype=dtype))
        self.readout = nn.Parameter(0.3 * torch.randn(w, dtype=dtype))
        shifts = torch.as_tensor(self.config["energy_shifts"], dtype=torch.float64)
        self.register_buffer("shifts", shifts.expand(t).clone())
        self.register_buffer("scale", torch.as_tensor(self.config["energy_scales"], dtype=torch.float64))
        self.register_buffer("frequencies", torch.arange(1, w + 1, dtype=dtype))

    @property
    def cutoffs(self) -> Tensor:
        t = len(self.type_names)
        return torch.full((t, t), self.cutoff, dtype=torch.float64)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> ToyModel:
        return cls(config)

    def to_config(self) -> dict[str, Any]:
        return dict(self.config)

    @classmethod
    def cutoffs_of(cls, config: Mapping[str, Any]) -> Tensor:
        count = len(config["type_names"])
        return torch.full((count, count), float(config["cutoff"]), dtype=torch.float64)

    def for_inference(self) -> ToyModel:
        return self

    def shift_energies(self, delta: Tensor) -> None:
        self.shifts.add_(delta)
        self.config["energy_shifts"] = self.shifts.tolist()

    def forward(self, edge_vectors: Tensor, edge_index: Tensor, types: Tensor) -> Tensor:
        n = types.shape[0]
        x = (edge_vectors * edge_vectors).sum(1).sqrt() / self.cutoff
        envelope = (1 - x) ** 2 * (1 + 2 * x)
        basis = torch.cos(x[:, None].to(self.pair.dtype) * self.frequencies) * envelope[:, None].to(
            self.pair.dtype
        )
        kinds = localgraph.gather(types, edge_index[0]), localgraph.gather(types, edge_index[1])
        pair = (basis * self.pair[kinds]).sum(1)
        rho = localgraph.segment_sum(basis * self.density[kinds], edge_index[0], n)
        energy = localgraph.segment_sum(pair, edge_index[0], n) + torch.tanh(rho) @ self.readout
        scaled = energy.double() / self.config["avg_num_neighbors"] ** 0.5 * self.scale
        return scaled + localgraph.gather(self.shifts, types)


localgraph.register(ToyModel)


@pytest.fixture
def toy() -> type[ToyModel]:
    """The toy model, registered under the name ``toy``."""
    return ToyModel


def random_frames(count: int, seed: int = 0, periodic: bool = False, labels: bool = True) -> list[Atoms]:
    """Water-like clusters of 3–9 atoms labeled by a pair potential, energies about −10 eV per atom."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        molecules = int(rng.integers(1, 4))
        corner = np.array([[0.0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
        x = np.concatenate([corner + np.array([2.8 * m, 0.3 * m, 0.1]) for m in range(molecules)])
        atoms = Atoms("OHH" * molecules, x + 0.08 * rng.normal(size=x.shape))
        if periodic:
            atoms.set_cell([10.0, 9.0, 9.5])
            atoms.pbc = True
        if labels:
            label(atoms)
        frames.append(atoms)
    return frames


def label(atoms: Atoms) -> None:
    x, z = atoms.positions, atoms.numbers
    d = x[:, None] - x[None]
    r = np.sqrt((d**2).sum(-1)) + np.eye(len(x)) * 1e6
    k = np.sqrt(np.outer(z, z))
    pair = k * np.exp(-1.5 * r)
    energy = 0.5 * pair.sum() - 12.0 * (z == 8).sum() - 9.0 * (z == 1).sum()
    forces = (1.5 * pair / r)[:, :, None] * d
    results: dict[str, Any] = {"energy": float(energy), "forces": forces.sum(1)}
    if atoms.pbc.all():
        g = -(1.5 * pair / r)[:, :, None] * d
        results["stress"] = 0.5 * np.einsum("abi,abj->ij", d, g) / atoms.get_volume()
    atoms.calc = SinglePointCalculator(atoms, **results)


@pytest.fixture(scope="session")
def make_frames() -> Callable[..., list[Atoms]]:
    """:func:`random_frames`."""
    return random_frames


@pytest.fixture
def frames_file(tmp_path: Path) -> Path:
    """A file of 40 labeled clusters."""
    path = tmp_path / "frames.xyz"
    ase.io.write(path, random_frames(40))
    return path


@pytest.fixture
def plain_run(frames_file: Path, tmp_path: Path) -> dict[str, Any]:
    """Plain data of a short run with the toy model in float64."""
    return {
        "output": str(tmp_path / "run"),
        "model": {"name": "toy", "config": {"cutoff": 4.0}},
        "data": {"train": [{"path": str(frames_file)}], "validation_fraction": 0.25, "loaders": 0},
        "batch": {"frames": 4},
        "optimizer": {"lr": 0.01},
        "schedule": {"name": "plateau", "warmup": 0},
        "stop": {"epochs": 2},
        "compile": {"mode": "eager"},
        "hardware": {"accelerator": "cpu", "threads": 1},
        "logging": {"progress": False},
    }


@pytest.fixture
def shared_data() -> Path:
    """Real data beside the repository, or a skip."""
    path = Path(os.environ.get("MLIP_SHARED_DATA", Path(__file__).parents[4] / "shared" / "data"))
    if not path.exists():
        pytest.skip("shared data are absent (MLIP_SHARED_DATA)")
    return path


@pytest.fixture
def table(make_frames: Callable[..., list[Atoms]], tmp_path: Path) -> Any:
    """The table of 16 frames, half of them periodic."""
    from samples import table_of

    return table_of([*make_frames(8, periodic=True), *make_frames(8, seed=1)], tmp_path)
