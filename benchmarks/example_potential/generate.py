"""Label molecules with GFN2-xTB: relaxed, thermal, stretched and compressed geometries, as extended XYZ.

    python benchmarks/example_potential/generate.py DATA [--molecules 600] [--pairs 180] [--processes 1]

Needs spice-data[generate]; the same arguments give the same frames. DATA receives train.xyz, val.xyz and test-*.xyz.
"""

from __future__ import annotations

import argparse
import multiprocessing
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from ase import Atoms, units
from ase.calculators.singlepoint import SinglePointCalculator
from ase.io import write
from molecules import entries
from rdkit import Chem
from rdkit.Chem import rdForceFieldHelpers

from spice_data.example.generate import KB, Surface, atom_energy, bonded, build, langevin, relax
from spice_data.example.molecules import Entry
from spice_data.units import BOHR, HARTREE

MAX_FORCE = 25.0  # eV/Å; frames above are dropped
ELEMENTS = {1: "H", 6: "C", 7: "N", 8: "O", 9: "F", 15: "P", 16: "S", 17: "Cl"}


def labeled(numbers: np.ndarray, positions: np.ndarray, **info: str) -> Atoms | None:
    """Return the frame with energy (eV) and forces (eV/Å); None where xTB fails or a force is too large."""
    try:
        energy, gradient = Surface(numbers, 0)(positions)
    except RuntimeError:
        return None
    forces = -gradient * HARTREE / BOHR
    if not np.isfinite(forces).all() or np.abs(forces).max() > MAX_FORCE:
        return None
    atoms = Atoms(numbers, positions - positions.mean(axis=0), info=info)
    atoms.calc = SinglePointCalculator(atoms, energy=energy * HARTREE, forces=forces)
    return atoms


def force_field(molecule: Chem.Mol, x: np.ndarray) -> tuple[np.ndarray, Callable[[np.ndarray], np.ndarray]]:
    """Return the minimum (Å) near ``x`` and the forces (eV/Å) of MMFF94, or of UFF where it lacks parameters."""
    conformer = Chem.Conformer(len(x))
    for i, position in enumerate(x):
        conformer.SetAtomPosition(i, position.tolist())
    conformer = molecule.GetConformer(molecule.AddConformer(conformer))
    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(molecule)
    made = (
        rdForceFieldHelpers.MMFFGetMoleculeForceField(molecule, properties, ignoreInterfragInteractions=False)
        if properties is not None
        else rdForceFieldHelpers.UFFGetMoleculeForceField(molecule, ignoreInterfragInteractions=False)
    )
    made.Minimize(maxIts=500)

    def forces(x: np.ndarray) -> np.ndarray:
        flat = x.ravel().tolist()
        made.CalcEnergy(flat)  # CalcGrad uses the distances of the last energy
        return -np.reshape(made.CalcGrad(flat), x.shape) * units.kcal / units.mol

    return conformer.GetPositions(), forces


def thermal(force, masses, x, kelvin, count, rng):
    """Return ``count`` positions, 60 fs apart, of Langevin dynamics (BAOAB); a soft wall holds complexes together."""
    kt, decay, out = KB * kelvin, np.exp(-0.03), []
    radius = 1.5 + np.linalg.norm(x - x.mean(axis=0), axis=1).max()

    def total(x: np.ndarray) -> np.ndarray:
        r = x - x.mean(axis=0)
        d = np.linalg.norm(r, axis=1, keepdims=True)
        return force(x) - np.clip(d - radius, 0, None) * r / np.maximum(d, 1e-9)

    state = x, rng.normal(size=x.shape) * np.sqrt(1.5 * kt / masses), total(x)
    for step in range(60 * count):
        state = langevin(total, masses, state, kt, decay, rng)
        if step % 60 == 59:
            out.append(state[0])
    return out


def distorted(x: np.ndarray, fragments: tuple[tuple[int, ...], ...], rng: np.random.Generator) -> np.ndarray:
    """Scale the molecule, or the distances between the fragments of a complex, and displace every atom."""
    if len(fragments) > 1:
        centers = np.array([x[list(f)].mean(axis=0) for f in fragments])
        move = (rng.uniform(0.85, 1.5) - 1) * (centers - centers.mean(axis=0))
        x = x.copy()
        for atoms, m in zip(fragments, move, strict=True):
            x[list(atoms)] += m
        return x + rng.normal(size=x.shape) * rng.uniform(0.0, 0.06)
    return x * rng.uniform(0.9, 1.15) + rng.normal(size=x.shape) * rng.uniform(0.02, 0.12)


def frames(task: tuple[str, str, str]) -> tuple[str, str, list[Atoms]]:
    """Return part, kind and the labeled frames of one entry."""
    part, kind, smiles = task
    rng = np.random.default_rng(zlib.crc32(f"{kind} {smiles}".encode()))
    try:
        molecule, start = build(Entry(kind, smiles, smiles), rng)
        numbers = np.array([a.GetAtomicNum() for a in molecule.GetAtoms()])
        masses = np.array([a.GetMass() for a in molecule.GetAtoms()])[:, None]
        fragments = Chem.GetMolFrags(molecule)
        start, force = force_field(molecule, start)
        kelvin = rng.choice([300.0, 450.0, 600.0]) if len(fragments) == 1 else 300.0
        found = thermal(force, masses, start, kelvin, 14 if len(start) < 9 else 6, rng)
        x = relax(Surface(numbers, 0), start, 8)
    except (RuntimeError, ValueError):  # no embedding, no force field, or charges of xTB that do not converge
        return part, kind, []
    found = [t for t in found if bonded(molecule, t)]
    kept = [x, *found, *(distorted(b, fragments, rng) for b in [x, x, *found[::2]])]
    labels = (labeled(numbers, k, smiles=smiles, kind=kind.rstrip("0123456789")) for k in kept)
    return part, kind.rstrip("0123456789"), [f for f in labels if f is not None]


def atoms_alone() -> list[Atoms]:
    """Return the isolated atoms, from which training takes the energy shifts."""
    out = []
    for number, symbol in ELEMENTS.items():
        atoms = Atoms(symbol, [[0.0] * 3], info={"kind": "atom", "smiles": f"[{symbol}]"})
        atoms.calc = SinglePointCalculator(
            atoms, energy=atom_energy(number, 0) * HARTREE, forces=np.zeros((1, 3))
        )
        out.append(atoms)
    return out


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--molecules", type=int, default=600)
    parser.add_argument("--pairs", type=int, default=180)
    parser.add_argument("--processes", type=int, default=1)
    arguments = parser.parse_args()
    arguments.data.mkdir(parents=True, exist_ok=True)
    tasks, start = entries(arguments.molecules, arguments.pairs), time.perf_counter()
    files: dict[str, list[Atoms]] = {"train": atoms_alone()}
    empty = 0
    with multiprocessing.Pool(arguments.processes) as pool:
        for done, (part, kind, found) in enumerate(pool.imap(frames, tasks, chunksize=4), 1):
            files.setdefault(f"test-{kind}" if part == "test" else part, []).extend(found)
            empty += not found
            if done % 50 == 0 or done == len(tasks):
                minutes = (time.perf_counter() - start) / 60
                print(f"{done}/{len(tasks)} {minutes:.1f} min, {empty} without frames", flush=True)
    for name, found in files.items():
        write(arguments.data / f"{name}.xyz", found, format="extxyz")
        print(f"{name}.xyz: {len(found)} frames, {sum(map(len, found))} atoms")


if __name__ == "__main__":
    main()
