"""Add frames that the model itself visits: dynamics of training molecules with a trained model, labeled by xTB.

    python benchmarks/example_potential/explore.py MODEL DATA [--molecules 75] [--seed 1] [--steps 25]

DATA receives explored-SEED.xyz, frames of molecules of train.xyz and of clusters cut from a droplet of 64 waters.
"""

from __future__ import annotations

import argparse
import itertools
from pathlib import Path

import numpy as np
import torch
from ase import Atoms, units
from ase.calculators.calculator import Calculator, all_changes
from ase.io import read, write
from ase.md.langevin import Langevin
from generate import labeled
from molecules import waters

import localgraph

BATCH, SPACING = 25, 30.0  # molecules in one system, Å apart
FRAMES = 6  # of each molecule


class Eager(Calculator):
    """Energy and forces of a model without compilation."""

    implemented_properties = ["energy", "forces"]  # noqa: RUF012

    def __init__(self, model: localgraph.EdgeModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def calculate(self, atoms=None, properties=("energy",), system_changes=all_changes) -> None:
        """Evaluate the model on the edges within its largest cutoff."""
        super().calculate(atoms, properties, system_changes)
        types = localgraph.types_of(self.atoms.get_chemical_symbols(), self.names)
        result = localgraph.evaluate(self.model, torch.tensor(self.atoms.positions), types)
        self.results = {"energy": float(result.energies.sum()), "forces": result.forces.numpy()}


def visited(
    starts: list[Atoms], calculator: Eager, kelvin: float, steps: int, rng: np.random.Generator
) -> list[Atoms]:
    """Return frames of Langevin dynamics of all ``starts`` at once; one that flies apart begins again."""
    grid = list(itertools.product(range(int(np.ceil(len(starts) ** (1 / 3)))), repeat=3))
    system, parts = Atoms(), []
    for atoms, place in zip(starts, grid, strict=False):
        parts.append(slice(len(system), len(system) + len(atoms)))
        bare = Atoms(atoms.numbers, atoms.positions + SPACING * np.array(place))
        system += bare
    origin = system.positions.copy()
    system.calc = calculator
    system.set_momenta(
        rng.normal(size=origin.shape) * np.sqrt(system.get_masses()[:, None] * kelvin * units.kB)
    )
    run = Langevin(
        system, 1.0 * units.fs, temperature_K=kelvin, friction=0.02 / units.fs, rng=rng, fixcm=False
    )
    out = []
    for _ in range(FRAMES):
        run.run(steps)
        moved = np.linalg.norm(system.positions - origin, axis=1)
        momenta, positions = system.get_momenta(), system.positions.copy()
        for atoms, part in zip(starts, parts, strict=True):
            frame = Atoms(atoms.numbers, positions[part], info=dict(atoms.info))
            out.append(frame)
            if moved[part].max() > 6.0 or not np.isfinite(momenta[part]).all():
                positions[part], momenta[part] = origin[part], 0.0
        system.positions = positions
        system.set_momenta(momenta)
    return out


def main() -> None:
    """Run the dynamics, label the frames, write the file and state how wrong the model was."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--molecules", type=int, default=75)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--steps", type=int, default=25, help="of 1 fs, between frames")
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    model, _ = localgraph.load_model(arguments.model)
    calculator = Eager(model.for_inference(), model.type_names)
    frames = [f for f in read(arguments.data / "train.xyz", ":") if len(f) > 5]
    first = list(
        {(f.info["kind"], f.info["smiles"]): f for f in reversed(frames)}.values()
    )  # the relaxed one
    chosen = [first[i] for i in rng.permutation(len(first))[: arguments.molecules]]
    found: list[Atoms] = []
    for start in range(0, len(chosen), BATCH):
        found += visited(
            chosen[start : start + BATCH], calculator, rng.choice([300.0, 500.0, 700.0]), arguments.steps, rng
        )
        print(f"{start + BATCH}/{len(chosen)} molecules", flush=True)
    for frame in visited([waters(4, 4 * 3.1, rng)], calculator, 350.0, arguments.steps, rng):
        for _ in range(6):
            oxygen = frame.positions[::3]
            near = np.argsort(np.linalg.norm(oxygen - oxygen[rng.integers(len(oxygen))], axis=1))[:12]
            found.append(frame[np.concatenate([[3 * i, 3 * i + 1, 3 * i + 2] for i in near])])
    kept, error = [], []
    for frame in found:
        close = frame.get_all_distances()[np.triu_indices(len(frame), 1)].min()
        info = {"smiles": frame.info.get("smiles", "O"), "kind": "explored"}
        atoms = labeled(frame.numbers, frame.positions, **info) if 0.4 < close < 10 else None
        if atoms is not None:
            predicted = frame.copy()
            predicted.calc = calculator
            error.append(np.abs(predicted.get_forces() - atoms.get_forces()).mean())
            kept.append(atoms)
    write(arguments.data / f"explored-{arguments.seed}.xyz", kept, format="extxyz")
    quantiles = np.quantile(error, [0.5, 0.9, 0.99])
    print(f"{len(kept)} of {len(found)} frames; force MAE, median, 90 %, 99 %: {quantiles.round(3)} eV/Å")


if __name__ == "__main__":
    main()
