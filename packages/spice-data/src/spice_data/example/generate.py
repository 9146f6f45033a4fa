"""Generate the example dataset: RDKit geometries, GFN2-xTB dynamics and labels, written in SPICE's layout.

Run as ``python -m spice_data.example.generate [path]`` with the extra ``spice-data[generate]`` installed.
The recipe follows SPICE's: molecular dynamics at 500 K (300 K for complexes, held together by a wall that
the labels do not contain), and from each snapshot a second conformation after a few steps of relaxation.
"""

from __future__ import annotations

import argparse
import functools
import os
import zlib
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from rdkit import Chem
from rdkit.Chem import rdDistGeom

from spice_data.example.locate import example_path
from spice_data.example.molecules import ENTRIES, IONS, Entry
from spice_data.units import BOHR, HARTREE

SNAPSHOTS = 5
STEPS_BETWEEN = 150
FRICTION = 0.01  # per fs
MAX_FORCE = 10.0
FS = 0.09822694788464063  # fs in units of Å sqrt(amu / eV)
KB = 8.617333262e-5  # eV / K


class Surface:
    """GFN2-xTB energy and gradient of one molecule of given charge and unpaired electrons."""

    def __init__(self, numbers: np.ndarray, charge: int, unpaired: int = 0) -> None:
        self.numbers = numbers
        self.charge, self.unpaired = charge, unpaired

    def __call__(self, positions: np.ndarray) -> tuple[float, np.ndarray]:
        """Return energy (hartree) and gradient (N, 3) (hartree/bohr) at ``positions`` (N, 3) (Å)."""
        from tblite.interface import Calculator

        calculator = Calculator("GFN2-xTB", self.numbers, positions / BOHR, self.charge, self.unpaired)
        calculator.set("verbosity", 0)
        result = calculator.singlepoint()
        return float(result.get("energy")), np.asarray(result.get("gradient"))


@functools.cache
def atom_energy(number: int, charge: int) -> float:
    """Return the energy (hartree) of an isolated atom or ion, with the unpaired electrons of Hund's rule."""
    if number - charge == 0:
        return 0.0
    core = 0 if number <= 2 else 2 if number <= 10 else 10
    valence = number - core - charge
    unpaired = (
        valence if number <= 2 else min(max(valence - 2, 0), 8 - valence) if valence > 2 else valence % 2
    )
    return Surface(np.array([number]), charge, unpaired)(np.zeros((1, 3)))[0]


def build(entry: Entry, rng: np.random.Generator) -> tuple[Chem.Mol, np.ndarray]:
    """Return the molecule with hydrogens, and positions (N, 3) in Å; fragments packed around the first one."""
    whole = Chem.AddHs(Chem.MolFromSmiles(entry.smiles))
    positions = np.empty((whole.GetNumAtoms(), 3))
    placed: list[int] = []
    fragments = Chem.GetMolFrags(whole)
    for atoms, fragment in zip(fragments, Chem.GetMolFrags(whole, asMols=True), strict=True):
        if fragment.GetNumAtoms() == 1:
            local = np.zeros((1, 3))
        else:
            rdDistGeom.EmbedMolecule(fragment, randomSeed=int(rng.integers(1 << 30)))
            local = fragment.GetConformer().GetPositions()
        local = local - local.mean(axis=0)
        distance = 1.5
        while placed:
            rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
            direction = rng.normal(size=3)
            trial = local @ (rotation * np.linalg.det(rotation)).T
            trial += positions[placed].mean(axis=0) + distance * direction / np.linalg.norm(direction)
            if np.linalg.norm(trial[:, None] - positions[placed][None], axis=-1).min() > 1.9:
                local = trial
                break
            distance += 0.05
        positions[list(atoms)] = local
        placed.extend(atoms)
    return whole, positions


def relax(surface: Surface, positions: np.ndarray, steps: int) -> np.ndarray:
    """Return positions after ``steps`` of damped descent, each atom moving at most 0.06 Å a step."""
    x, previous, gain = positions.copy(), None, 0.04
    for _ in range(steps):
        force = -surface(x)[1] * HARTREE / BOHR
        gain = min(gain * 1.1, 0.08) if previous is None or np.vdot(force, previous) > 0 else gain * 0.5
        move = gain * force
        x, previous = x + move * min(1.0, 0.06 / np.linalg.norm(move, axis=1).max()), force
    return x


def bonded(molecule: Chem.Mol, positions: np.ndarray) -> bool:
    """Return whether every bond of the SMILES is intact and no unbonded pair has come as near as a bond."""
    table = Chem.GetPeriodicTable()
    radii = np.array([table.GetRcovalent(a.GetAtomicNum()) for a in molecule.GetAtoms()])
    ratio = np.linalg.norm(positions[:, None] - positions[None], axis=-1) / (radii[:, None] + radii[None])
    bonds = Chem.GetAdjacencyMatrix(molecule).astype(bool)
    return bool(
        (ratio[bonds] < 1.45).all() and (ratio[~bonds & ~np.eye(len(bonds), dtype=bool)] > 1.15).all()
    )


def langevin(
    force: Callable[[np.ndarray], np.ndarray],
    masses: np.ndarray,
    state: tuple[np.ndarray, np.ndarray, np.ndarray],
    kt: float,
    decay: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return positions, velocities and forces after a step of 1 fs of Langevin dynamics (BAOAB).

    ``decay`` is exp(−friction · step); units are Å, eV, amu, and Å √(eV / amu) for velocities.
    """
    x, v, f = state
    v = v + 0.5 * FS * f / masses
    x = x + 0.5 * FS * v
    v = decay * v + np.sqrt((1 - decay**2) * kt / masses) * rng.normal(size=v.shape)
    x = x + 0.5 * FS * v
    f = force(x)
    return x, v + 0.5 * FS * f / masses, f


def sample(entry: Entry, molecule: Chem.Mol, positions: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return conformations (M, N, 3), Å: snapshots of Langevin dynamics (BAOAB), each also briefly relaxed."""
    numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
    masses = np.array([a.GetMass() for a in molecule.GetAtoms()])[:, None]
    surface = Surface(numbers, Chem.GetFormalCharge(molecule))
    if entry.subset == IONS:
        return np.array([[[0, 0, 0], [0, 0, d]] for d in np.linspace(2.5, 7.5, 11)])
    complexes = "." in entry.smiles
    kt = KB * (300.0 if complexes else 500.0)
    wall = 1.0 + 1.1 * len(numbers) ** (1 / 3)
    start = relax(surface, positions, 60)

    def force(x: np.ndarray) -> np.ndarray:
        f = -surface(x)[1] * HARTREE / BOHR
        if complexes:
            r = x - (masses * x).sum(axis=0) / masses.sum()
            d = np.linalg.norm(r, axis=1, keepdims=True)
            f = f - 0.5 * np.clip(d - wall, 0, None) * r / np.maximum(d, 1e-9)
        return f

    def begin() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        return start, rng.normal(size=start.shape) * np.sqrt(kt / masses), force(start)

    state = begin()
    kept: list[np.ndarray] = []
    attempts = 0
    while len(kept) < 2 * SNAPSHOTS:
        for _ in range(STEPS_BETWEEN):
            state = langevin(force, masses, state, kt, float(np.exp(-FRICTION)), rng)
        x = state[0]
        near = relax(surface, x, 8)
        if bonded(molecule, x) and bonded(molecule, near):
            kept += [x - x.mean(axis=0), near - near.mean(axis=0)]
            continue
        attempts += 1
        if attempts > 8:
            raise RuntimeError(f"{entry.name}: bonds do not survive the dynamics")
        state = begin()
    return np.array(kept)


def write(file: h5py.File, entry: Entry, molecule: Chem.Mol, conformations: np.ndarray) -> int:
    """Label ``conformations`` and write the group; return the number written (frames above 10 eV/Å are dropped)."""
    numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
    charges = [a.GetFormalCharge() for a in molecule.GetAtoms()]
    bohr = (conformations / BOHR).astype(np.float32)
    surface = Surface(numbers, sum(charges))
    labels = [surface(c.astype(np.float64) * BOHR) for c in bohr]
    energy = np.array([e for e, _ in labels])
    gradient = np.array([g for _, g in labels])
    good = np.abs(gradient).max(axis=(1, 2)) * HARTREE / BOHR < MAX_FORCE
    for atom in molecule.GetAtoms():
        atom.SetAtomMapNum(atom.GetIdx() + 1)
    isolated = sum(atom_energy(int(z), q) for z, q in zip(numbers, charges, strict=True))
    group = file.create_group(entry.name)
    text = h5py.string_dtype("utf-8")
    group.create_dataset("subset", data=[entry.subset], dtype=text)
    group.create_dataset("smiles", data=[Chem.MolToSmiles(molecule)], dtype=text)
    group.create_dataset("atomic_numbers", data=numbers.astype(np.int16))
    for name, values, unit in (
        ("conformations", bohr[good], "bohr"),
        ("formation_energy", energy[good] - isolated, "hartree"),
        ("dft_total_energy", energy[good], "hartree"),
        ("dft_total_gradient", gradient[good].astype(np.float32), "hartree/bohr"),
    ):
        group.create_dataset(name, data=values).attrs["units"] = unit
    return int(good.sum())


def generate(path: Path, entries: tuple[Entry, ...] = ENTRIES) -> int:
    """Write the dataset to ``path`` (under a temporary name first); return the number of conformations."""
    temporary = path.with_name(path.name + ".part")
    total = 0
    with h5py.File(temporary, "w") as file:
        for i, entry in enumerate(entries):
            rng = np.random.default_rng(zlib.crc32(f"{entry.subset}/{entry.name}".encode()))
            molecule, positions = build(entry, rng)
            count = write(file, entry, molecule, sample(entry, molecule, positions, rng))
            total += count
            print(
                f"{i + 1}/{len(entries)}  {entry.name}: {molecule.GetNumAtoms()} atoms, {count} frames",
                flush=True,
            )
    os.replace(temporary, path)
    return total


def main() -> None:
    """Generate the file at the path given, by default where the package keeps it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("path", type=Path, nargs="?", default=example_path())
    path = parser.parse_args().path
    print(f"{generate(path)} conformations -> {path} ({path.stat().st_size} bytes)")


if __name__ == "__main__":
    main()
