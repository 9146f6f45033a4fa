"""A small smooth potential of edges, registered for these tests, and packages compiled from it."""

import json
import math
import os
import re
import subprocess
import sysconfig
import zipfile
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
from ase import Atoms
from ase.io.lammpsdata import write_lammps_data
from filelock import FileLock
from torch import nn

import localgraph
import mlip_export
import mlip_export.lammps


class Toy(nn.Module):
    """A strictly local potential with densities of scalars and vectors, smooth at the cutoff."""

    model_name = "export_toy"

    def __init__(self, type_names, cutoff, cutoffs=None, width=16, seed=0, dtype="float64", shifts=None):
        super().__init__()
        self.type_names, self.cutoff, self.width, self.seed, self.dtype = (
            tuple(type_names),
            cutoff,
            width,
            seed,
            dtype,
        )
        count = len(self.type_names)
        self._cutoffs = [[cutoff] * count] * count if cutoffs is None else cutoffs
        self._shifts = [float(k) - 1.5 for k in range(count)] if shifts is None else list(shifts)
        generator = torch.Generator().manual_seed(seed)
        kind = getattr(torch, dtype)

        def weight(*shape):
            value = torch.randn(*shape, generator=generator, dtype=torch.float64) / math.sqrt(shape[0])
            return nn.Parameter(value.to(kind))

        self.embed = nn.Parameter(
            torch.randn(count * count, 6, generator=generator, dtype=torch.float64).to(kind)
        )
        self.first, self.second, self.last = weight(6, width), weight(2 * width, width), weight(width, 1)
        self.register_buffer("frequencies", torch.arange(1, 7, dtype=torch.float64), persistent=False)
        self.register_buffer("table", torch.tensor(self._cutoffs, dtype=torch.float64), persistent=False)
        self.register_buffer("shifts", torch.tensor(self._shifts, dtype=torch.float64), persistent=False)

    @property
    def cutoffs(self):
        return self.table

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def to_config(self):
        return {
            "type_names": list(self.type_names),
            "cutoff": self.cutoff,
            "cutoffs": self._cutoffs,
            "width": self.width,
            "seed": self.seed,
            "dtype": self.dtype,
            "shifts": self._shifts,
        }

    @classmethod
    def cutoffs_of(cls, config):
        return cls(**config).table

    def for_inference(self):
        return self

    def shift_energies(self, delta):
        self.shifts.add_(delta)
        self._shifts = self.shifts.tolist()

    def forward(self, edge_vectors, edge_index, types):
        atoms, count = types.shape[0], len(self.type_names)
        center, neighbor = edge_index[0], edge_index[1]
        kind = self.first.dtype
        pair = types[center] * count + types[neighbor]
        distance = edge_vectors.norm(dim=-1)
        x = distance / self.table.flatten()[pair]
        envelope = torch.where(x < 1, (1 - x) ** 4 * (1 + 4 * x + 10 * x**2 + 20 * x**3), 0.0)
        waves = torch.sin(math.pi * x[:, None] * self.frequencies) / x[:, None]
        basis = (waves * envelope[:, None]).to(kind)
        direction = (edge_vectors / distance[:, None]).to(kind)
        hidden = nn.functional.silu((basis * self.embed[pair]) @ self.first)
        scalars = torch.zeros(atoms, self.width, dtype=kind).index_add(0, center, hidden)
        outer = (hidden[:, :, None] * direction[:, None, :]).flatten(1)
        vectors = torch.zeros(atoms, self.width * 3, dtype=kind).index_add(0, center, outer)
        squares = vectors.view(atoms, self.width, 3).square().sum(-1)
        features = torch.cat([hidden * scalars[center], hidden * squares[center]], -1) / 8.0
        edge_energies = (nn.functional.silu(features @ self.second) @ self.last)[:, 0].double()
        energies = torch.zeros(atoms, dtype=torch.float64).index_add(0, center, edge_energies)
        return energies + self.shifts[types]


@pytest.fixture(scope="session")
def toy():
    """The class of the potential."""
    return Toy


localgraph.register(Toy)


@pytest.fixture(scope="session")
def water_model():
    """A float64 potential of H and O with a 3.5 Å cutoff and a shorter one between hydrogens."""
    return Toy(("H", "O"), 3.5, cutoffs=[[2.5, 3.5], [3.5, 3.5]])


@pytest.fixture(scope="session")
def shared(tmp_path_factory):
    """A folder of this run that all workers of pytest-xdist share, for what takes long to make."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def exports(shared):
    """The folder of exported models.

    ``MLIP_EXPORT_TEST_CACHE`` names one that stays, for repeated runs while nothing that compiles is changed.
    """
    folder = Path(os.environ.get("MLIP_EXPORT_TEST_CACHE", shared))
    folder.mkdir(exist_ok=True)
    return folder


def _compiled(exports, name, model, **options):
    """The exported model of that name, compiled by whichever worker asks first."""
    path = exports / name
    with FileLock(f"{path}.lock"):
        if not path.exists():
            mlip_export.compile(model, path, **options)
    return path


@pytest.fixture
def compiled(exports):
    """A function that compiles a model under a name, once per run."""
    return partial(_compiled, exports)


@pytest.fixture(scope="session")
def water_pt2(water_model, exports):
    """The path of the compiled ``water_model``."""
    return _compiled(exports, "water.pt2", water_model, training={"energy_mae_meV": 1.25})


@pytest.fixture
def changed(tmp_path):
    """A function that copies an exported model with other metadata."""

    def change(source, **fields):
        path = tmp_path / "changed.pt2"
        with zipfile.ZipFile(source) as old, zipfile.ZipFile(path, "w") as new:
            for entry in old.infolist():
                data = old.read(entry)
                if entry.filename.endswith("_metadata.json"):
                    data = json.dumps(json.loads(data) | fields).encode()
                new.writestr(entry, data)
        return path

    return change


@pytest.fixture(scope="session")
def second_pt2(exports):
    """A committee member: the same elements and cutoffs, other weights."""
    model = Toy(("H", "O"), 3.5, cutoffs=[[2.5, 3.5], [3.5, 3.5]], seed=1)
    return _compiled(exports, "second.pt2", model)


def water(side, triclinic=False, seed=0):
    """Liquid-like water: molecules of random orientation on a jittered lattice of 3.1 Å spacing."""
    generator = np.random.default_rng(seed)
    spacing = 3.1
    cell = np.eye(3) * side * spacing
    if triclinic:
        cell = cell @ np.array([[1.0, 0, 0], [0.2, 0.95, 0], [-0.15, 0.1, 1.05]])
    molecule = np.array([[0.0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]])
    positions = []
    for corner in np.ndindex(side, side, side):
        rotation, _ = np.linalg.qr(generator.normal(size=(3, 3)))
        center = (np.array(corner) + 0.5 + 0.05 * generator.normal(size=3)) / side @ cell
        positions.append(molecule @ rotation.T + center)
    return Atoms("OHH" * side**3, np.concatenate(positions), cell=cell, pbc=True)


@pytest.fixture
def make_water():
    """The function that makes boxes of water."""
    return water


@pytest.fixture(scope="session")
def plugin(shared):
    """The LAMMPS plugin, built into a cache of these tests; sets the environment of everything they start."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLIP_EXPORT_CACHE", str(shared / "cache"))
        patch.setenv("OMP_NUM_THREADS", "1")
        with FileLock(shared / "plugin.lock"):
            built = mlip_export.lammps.build()
        yield built


class LammpsFailed(RuntimeError):
    """What lmp printed when it did not exit with 0."""


@pytest.fixture
def lammps(plugin, tmp_path):
    """A function that runs an input on some ranks: its thermo columns, its output, and its last dump by id."""

    def run(text, atoms, ranks=1, **files):
        write_lammps_data(tmp_path / "data", atoms, specorder=["H", "O"], masses=True, atom_style="atomic")
        (tmp_path / "in").write_text(text)
        scripts = Path(sysconfig.get_path("scripts"))
        start = [str(scripts / "mpiexec"), "-n", str(ranks)] if ranks > 1 else []
        command = [*start, str(scripts / "lmp"), "-in", "in", "-log", "none"]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        if done.returncode != 0 or "ERROR" in done.stdout:
            raise LammpsFailed(done.stdout[-3000:] + done.stderr[-3000:])
        return Output(_thermo(done.stdout), done.stdout, _dump(tmp_path / "dump"))

    return run


class Output(NamedTuple):
    thermo: dict
    text: str
    dump: dict


def _thermo(text):
    """Columns of the last thermo table."""
    table, names = [], []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["Step"]:
            names, table = words, []
        elif len(words) == len(names) > 0 and re.fullmatch(r"\d+", words[0]):
            table.append([float(w) for w in words])
    return dict(zip(names, np.array(table).T, strict=True)) if table else {}


def _dump(path):
    """Columns of the last frame of a dump, sorted by id."""
    if not path.exists():
        return {}
    lines = path.read_text().splitlines()
    start = max(k for k, line in enumerate(lines) if line.startswith("ITEM: ATOMS"))
    names = lines[start].split()[2:]
    table = np.array([[float(w) for w in line.split()] for line in lines[start + 1 :]])
    table = table[np.argsort(table[:, names.index("id")])]
    return dict(zip(names, table.T, strict=True))
