"""Minimize, NVT at 300 K, then a timed NVE in LAMMPS, for molecules and boxes, on several numbers of ranks."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import ase.io
from benchmarks.common import write_record
from benchmarks.simulation import simulate

INPUT = """
units metal
atom_style atomic
boundary p p p
read_data data
pair_style allegro
pair_coeff * * {model} {elements}
thermo_style custom step temp pe etotal
thermo_modify format float %20.12g
thermo {every}
min_style cg
minimize 0 0.05 {minimize} {evaluations}
reset_timestep 0
velocity all create 300 4928459 loop geom
timestep {timestep}
fix thermostat all nvt temp 300 300 {damping}
run {nvt}
unfix thermostat
fix motion all nve
run {nve}
"""


def run(model: Path, structure: Path, ranks: int, options: argparse.Namespace) -> dict[str, object]:
    """One structure on some ranks; the loop time is that of the last run, the NVE."""
    atoms = ase.io.read(structure)
    if atoms.cell.rank < 3:
        atoms.center(vacuum=15.0)
        atoms.pbc = True
    output = simulate(
        atoms,
        INPUT,
        ranks,
        model=model.resolve(),
        timestep=options.timestep * 1e-3,
        damping=options.timestep * 0.1,
        every=max(1, options.nve // 10),
        minimize=options.minimize,
        evaluations=2 * options.minimize,
        nvt=options.nvt,
        nve=options.nve,
    )
    loop = float(re.findall(r"Loop time of ([\d.e+-]+)", output)[-1])
    table = output[output.rindex("TotEng") :].splitlines()[1:]
    totals = [
        float(line.split()[3]) for line in table if re.match(r"^\s*\d+\s", line) and len(line.split()) == 4
    ]
    return {
        "structure": structure.name,
        "atoms": len(atoms),
        "ranks": ranks,
        "ms_per_step": 1e3 * loop / options.nve,
        "us_per_atom_step": 1e6 * loop / options.nve / len(atoms),
        "drift_meV_per_atom": 1e3 * (totals[-1] - totals[0]) / len(atoms),
    }


def main() -> None:
    """Run every structure on every number of ranks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1])
    parser.add_argument("--timestep", type=float, default=0.5, help="fs")
    parser.add_argument("--minimize", type=int, default=20, help="iterations")
    parser.add_argument("--nvt", type=int, default=20, help="steps")
    parser.add_argument("--nve", type=int, default=20, help="steps")
    parser.add_argument("--json", type=Path, help="write the rows here")
    options = parser.parse_args()
    rows = []
    for structure in options.structures:
        for ranks in options.ranks:
            rows.append(run(options.model, structure, ranks, options))
            print(json.dumps(rows[-1]), flush=True)
    write_record(options.json, rows=rows)


if __name__ == "__main__":
    main()
