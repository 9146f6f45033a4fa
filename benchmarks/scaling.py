"""How LAMMPS scales over ranks, and what a step of 10⁸ atoms costs by a model of it.

    mlip-export compile example -o example.pt2
    python -m benchmarks.scaling example.pt2 --ranks 1 2 --json benchmarks/results/scaling.json [--quick]

Boxes of water molecules at 1 g/cm³, placed and turned at random from a seed. Strong scaling is the same box on more
ranks, weak scaling as many times the box as ranks. Each run moves a few steps of NVE and reports the loop time, the
part of it outside the pair style, the owned and ghost atoms of a rank and its peak resident memory.

The model: a rank owns a cube of N atoms, so with density ρ its side is L = (N/ρ)^⅓ and it sees
ρ(L + 2(r_c + skin))³ − N ghosts. The command ends with an error where a run contradicts it: ghosts must be within 3 %
(or three standard deviations, where they are few), the memory of the largest box within 20 % of the line through the
others, and the line must put a rank of 408,609 atoms (cellulose in water) within 1 GiB over the process itself.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase import Atoms
from ase.build import molecule
from benchmarks.common import write_record
from benchmarks.simulation import simulate
from numpy.typing import NDArray
from scipy.spatial import KDTree  # type: ignore[import-untyped]

import mlip_export

MOLAR_MASS, AVOGADRO = 18.015, 0.602214076  # g/mol, molecules in 10⁻²⁴ mol
SIDE = (MOLAR_MASS / AVOGADRO) ** (1 / 3)
"""Of the cube of one molecule at 1 g/cm³, Å."""
DENSITY = 3 / SIDE**3
"""Atoms per Å³."""
SKIN = 1.0
LARGEST, LIMIT = 408_609, 1024.0
"""Atoms of cellulose in water, and the MiB over the process that a rank of them may take."""
INPUT = """
units metal
atom_style atomic
newton on
boundary p p p
processors {grid}
read_data data
pair_style allegro
pair_coeff * * {model} {elements}
neighbor {skin} bin
neigh_modify delay 0 every 1 check yes
velocity all create 10 4928459 loop geom
timestep 0.00002
fix motion all nve
run {warm}
run {steps}
"""
RANK = """
import resource, subprocess, sys
done = subprocess.run(sys.argv[1:], close_fds=False)
print("peak MiB", resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024, flush=True)
sys.exit(done.returncode)
"""


def water(cells: tuple[int, int, int], seed: int = 1) -> Atoms:
    """Return water at 1 g/cm³: molecules at random places, 2.4 Å apart, in a box of ``cells`` times 3.1 Å."""
    random = np.random.default_rng(seed)
    box = np.array(cells) * SIDE
    centers = np.empty((0, 3))
    while len(centers) < np.prod(cells):  # random sequential addition, many candidates at a time
        trial = random.random((2 * int(np.prod(cells)), 3)) * box
        if len(centers):
            trial = trial[np.isinf(KDTree(centers, boxsize=box).query(trial, distance_upper_bound=2.4)[0])]
        later = {j for _, j in KDTree(trial, boxsize=box).query_pairs(2.4)}
        centers = np.concatenate([centers, np.delete(trial, list(later), 0)])[: np.prod(cells)]
    one = molecule("H2O")
    one.positions -= one.positions[0]
    turns = random.normal(size=(len(centers), 4))
    w, x, y, z = (turns / np.linalg.norm(turns, axis=1, keepdims=True)).T
    rotations = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    )
    positions = np.einsum("ijm,aj->mai", rotations, one.positions) + centers[:, None]
    symbols = one.get_chemical_symbols() * len(centers)
    atoms = Atoms(symbols, positions.reshape(-1, 3), cell=box, pbc=True)
    atoms.wrap()
    return atoms


def ghosts(owned: float, density: float, reach: float) -> float:
    """Return the ghost atoms of a cube of ``owned`` atoms (density in 1/Å³, reach in Å)."""
    return _around(np.full(3, (owned / density) ** (1 / 3)), density, reach)


def _around(lengths: NDArray[np.float64], density: float, reach: float) -> float:
    """Return the atoms within ``reach`` of a box of these lengths, Å, outside of it."""
    return float(density * (np.prod(lengths + 2 * reach) - np.prod(lengths)))


class Run(NamedTuple):
    """A box on some ranks; ``grid`` is how they divide it."""

    kind: str
    cells: tuple[int, int, int]
    ranks: int

    @property
    def grid(self) -> tuple[int, int, int]:
        """Ranks along x, y, z: all along x, the longest side of a weak run."""
        return self.ranks, 1, 1


def measure(model: Path, run: Run, warm: int, steps: int) -> dict[str, Any]:
    """Run LAMMPS once; times are of the slowest rank, ghosts and memory of the average and the largest."""
    atoms = water(run.cells)
    output = simulate(
        atoms,
        INPUT,
        run.ranks,
        (sys.executable, "-c", RANK),
        model=model.resolve(),
        grid=" ".join(map(str, run.grid)),
        skin=SKIN,
        warm=warm,
        steps=steps,
    )
    log = output[output.rindex("Loop time of") :]
    loop = float(re.findall(r"Loop time of ([\d.e+-]+)", log)[0])
    # the least, average and largest of the ranks
    pair = [
        float(x) for x in re.findall(r"^Pair\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)\s*\|\s*([\d.]+)", log, re.M)[0]
    ]
    found = {
        key: float(value) for key, value in re.findall(r"^(Nghost|FullNghs):\s+([\d.e+]+) ave", log, re.M)
    }
    return {
        "kind": run.kind,
        "atoms": len(atoms),
        "ranks": run.ranks,
        "ms_per_step": 1e3 * loop / steps,
        "us_per_atom_step": 1e6 * loop / steps / len(atoms),
        "outside_pair": 1 - pair[1] / loop,
        "imbalance": pair[2] / pair[1],
        "owned": len(atoms) / run.ranks,
        "ghosts": found["Nghost"],
        "listed_per_atom": found["FullNghs"] * run.ranks / len(atoms),
        "peak_MiB": max(map(float, re.findall(r"peak MiB ([\d.]+)", output))),
    }


def seen(cells: tuple[int, int, int], grid: tuple[int, int, int], reach: float) -> float:
    """Return the ghosts of one rank of a box by the model: what the box of the rank sees, less what it owns."""
    return _around(SIDE * np.array(cells) / np.array(grid), DENSITY, reach)


def line(rows: list[dict[str, Any]]) -> tuple[float, float]:
    """Return MiB of a process and KiB per owned atom of one rank, by least squares."""
    owned, peak = ([row[key] for row in rows] for key in ("owned", "peak_MiB"))
    slope, start = np.polyfit(owned, peak, 1)
    return float(start), float(1024 * slope)


def working(rows: list[dict[str, Any]]) -> float:
    """Return MiB over the process of a rank of ``LARGEST`` atoms, by the line."""
    return line(rows)[1] * LARGEST / 1024


def tolerance(count: float) -> float:
    """Return how far a count of ghosts may be from the model, relative: small boxes are not homogeneous."""
    return max(0.03, 3 / count**0.5)


def faults(rows: list[dict[str, Any]], grids: list[Run], reach: float) -> list[str]:
    """Return what contradicts the model, and what exceeds the limit of the memory."""
    found = []
    for row, run in zip(rows, grids, strict=True):
        row["ghosts_by_model"] = seen(run.cells, run.grid, reach)
        if abs(row["ghosts"] / row["ghosts_by_model"] - 1) > tolerance(row["ghosts_by_model"]):
            found.append(f"{row['atoms']} atoms on {row['ranks']} ranks: {row['ghosts']:.0f} ghosts")
    alone = sorted((row for row in rows if row["kind"] == "memory"), key=lambda row: row["owned"])
    if len(alone) > 2:
        start, slope = line(alone[:-1])
        predicted = start + slope * alone[-1]["owned"] / 1024
        if abs(alone[-1]["peak_MiB"] / predicted - 1) > 0.2:
            found.append(
                f"{alone[-1]['peak_MiB']:.0f} MiB of {alone[-1]['atoms']} atoms, {predicted:.0f} predicted"
            )
        if (over := working(alone)) > LIMIT:
            found.append(
                f"memory of {LARGEST:,} atoms on a rank must be at most {LIMIT:,.0f} MiB over the process, "
                f"got {over:,.0f} by the line"
            )
    return found


def cost(rows: list[dict[str, Any]], reach: float) -> list[dict[str, Any]]:
    """Return the model's table: ghosts, bytes sent and memory of a rank, and ranks for 10⁸ atoms, by atoms per rank."""
    start, slope = line([row for row in rows if row["kind"] == "memory"])
    slowest = max(row["us_per_atom_step"] for row in rows if row["kind"] == "memory")
    table = []
    for owned in (1_000, 10_000, 100_000, 1_000_000):
        around = ghosts(owned, DENSITY, reach)
        table.append(
            {
                "owned": owned,
                "ranks": 10**8 // owned,
                "ghosts_over_owned": around / owned,
                "sent_MB_per_step": 2
                * 24
                * around
                / 1e6,  # positions to the ghosts, forces back: 3 doubles each
                "rank_MiB": start + slope * owned / 1024,
                "s_per_step": 1e-6 * slowest * owned,
            }
        )
    return table


def main() -> None:
    """Measure, compare with the model and write the record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="an exported model of hydrogen and oxygen")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--quick", action="store_true", help="small boxes and few steps: does it run?")
    parser.add_argument("--json", type=Path, help="write the record here")
    options = parser.parse_args()
    # in the smallest box the edges of one call, which bound the activations, are reached
    sides, steps = ([8, 10, 12], 2) if options.quick else ([8, 12, 16, 20], options.steps)
    first = sides[0] if options.quick else 12
    runs = [Run("memory", (n, n, n), 1) for n in sides]
    runs += [Run("strong", (n, n, n), ranks) for n in sides[:2] for ranks in options.ranks]
    runs += [Run("weak", (first * ranks, first, first), ranks) for ranks in options.ranks]
    reach = mlip_export.read_metadata(options.model).cutoff + SKIN
    rows = []
    for run in runs:
        few = max(2, steps // 5) if run.kind == "memory" else steps
        rows.append(measure(options.model, run, 1 + few // 4, few))
        print(json.dumps(rows[-1]), flush=True)
    wrong = faults(rows, runs, reach)
    start, slope = line([row for row in rows if row["kind"] == "memory"])
    write_record(
        options.json,
        rows=rows,
        reach=reach,
        process_MiB=start,
        KiB_per_atom=slope,
        MiB_over_process={LARGEST: working([row for row in rows if row["kind"] == "memory"])},
        cost=cost(rows, reach),
        faults=wrong,
    )
    if wrong:
        raise SystemExit("the model or the limit of the memory is contradicted by " + "; ".join(wrong))


if __name__ == "__main__":
    main()
