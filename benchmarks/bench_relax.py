"""ASE's optimizers on exported models of one potential in float32 and float64: which force each of them reaches.

    python -m benchmarks.bench_relax --work out --json benchmarks/results/relaxations.json

Compiles the shipped potential in both precisions (unless ``--work`` holds them) and relaxes a molecule, a cluster of
water and a molecular crystal at fixed cell from a start near a minimum. Each optimizer is asked for more than it can
reach; kept are the evaluations after which the largest force first was below each limit, the smallest force of the
run, and how it ended: by an exception (a line search that found no lower energy), by itself, or after
``--evaluations`` of them (GPMin: 40).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from ase import Atoms, optimize
from ase.build import molecule
from ase.optimize.sciopt import SciPyFminBFGS, SciPyFminCG
from ase.spacegroup import crystal
from benchmarks.common import write_record

import localgraph
import mlip_export
from mlip_export.ase import Calculator

OPTIMIZERS: dict[str, Callable[..., Any]] = {
    **{name: getattr(optimize, name) for name in ("BFGS", "LBFGS", "FIRE", "FIRE2", "GPMin")},
    **{name: getattr(optimize, name) for name in ("BFGSLineSearch", "LBFGSLineSearch")},
    "SciPyFminCG": SciPyFminCG,
    "SciPyFminBFGS": SciPyFminBFGS,
}
FEW = 40
"""Evaluations of GPMin at most: the cost of its step grows as their third power."""
LIMITS = (1e-2, 1e-3, 1e-4, 1e-5)
"""eV/Å."""


class Enough(Exception):
    """The evaluations of a run are used up."""


class Recorder(Calculator):
    """A calculator that keeps the largest force of each evaluation, and ends after some of them."""

    def __init__(self, path: Path, evaluations: int):
        super().__init__(path, compute_stress=False)
        self.largest: list[float] = []
        self.evaluations = evaluations

    def calculate(self, *arguments: Any, **options: Any) -> None:
        """Evaluate the atoms."""
        if len(self.largest) == self.evaluations:
            raise Enough
        super().calculate(*arguments, **options)
        self.largest.append(float(np.linalg.norm(self.results["forces"], axis=1).max()))


def systems(path: Path) -> dict[str, Atoms]:
    """Return the starts, displaced by about 0.02 Å from where LBFGS arrives in float64."""
    water = molecule("H2O")
    cluster = Atoms()
    for k, place in enumerate(np.ndindex(3, 1, 1)):
        one = water.copy()
        one.rotate(90 * k, "xyz"[k % 3])
        one.positions += 2.9 * np.array(place)
        cluster += one
    ice = crystal(
        ["C", "O"], [(0, 0, 0), (0.1185,) * 3], spacegroup=205, cellpar=[5.624] * 3 + [90] * 3
    )  # dry ice
    found = {"ethanol": molecule("CH3CH2OH"), "dry ice": ice, "3 waters": cluster}
    for atoms in found.values():
        atoms.calc = Calculator(path, compute_stress=False)
        optimize.LBFGS(atoms, logfile=None).run(fmax=1e-3, steps=400)
        atoms.calc = None
        atoms.rattle(0.02, seed=1)
    return found


def relax(atoms: Atoms, name: str, path: Path, evaluations: int) -> dict[str, Any]:
    """Relax a copy of the atoms."""
    atoms = atoms.copy()
    evaluations = min(evaluations, FEW) if name == "GPMin" else evaluations
    atoms.calc = calculator = Recorder(path, evaluations)
    try:
        OPTIMIZERS[name](atoms, logfile=None).run(fmax=1e-9, steps=evaluations)
        end = "itself"
    except Enough:
        end = "limit"
    except (RuntimeError, optimize.sciopt.OptimizerConvergenceError):
        end = "line search"
    largest = calculator.largest
    first = {
        f"{limit:g}": next((k + 1 for k, f in enumerate(largest) if f < limit), None) for limit in LIMITS
    }
    return {"evaluations": len(largest), "end": end, "reached": min(largest), "below": first}


def compiled(work: Path, dtype: str) -> Path:
    """Return the shipped potential compiled in a precision, made unless it exists."""
    path = work / f"example-{dtype}.pt2"
    if not path.exists():
        model, _ = localgraph.load_model("example")
        mlip_export.compile(model, path, dtype=dtype)
    return path


def main() -> None:
    """Relax every system with every optimizer in both precisions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, required=True, help="folder of the exported models")
    parser.add_argument("--evaluations", type=int, default=120, help="of energy and forces, per run")
    parser.add_argument("--json", type=Path, help="where the record goes")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    paths = {dtype: compiled(options.work, dtype) for dtype in ("float32", "float64")}
    rows = []
    for system, atoms in systems(paths["float64"]).items():
        for name in OPTIMIZERS:
            for dtype, path in paths.items():
                row = {"system": system, "dtype": dtype, "optimizer": name}
                row |= relax(atoms, name, path, options.evaluations)
                rows.append(row)
                print(row, flush=True)
        write_record(options.json, rows=rows)


if __name__ == "__main__":
    main()
