"""Physical checks of a potential, beyond its errors: each returns figures, tests bounds and draws its panels.

    mlip-export compile example -o example.pt2
    mlip-export compile example -o example64.pt2 --dtype float64
    python -m benchmarks.physics example.pt2 example64.pt2 --json benchmarks/results/physics.json
        --picture benchmarks/results/physics.png [--quick] [--only dimers cutoff extensivity random energy]

The first model is the one that users run, the second the same in float64, which bounds what rounding does.

- ``dimers``: energy of every pair of elements from 0.5 Å to the cutoff. Repulsion has no hole: up to half the sum of
  the covalent radii and 0.25 Å more, the energy falls with the distance at every step.
- ``cutoff``: the force of a pair vanishes with its derivative at the cutoff: as the square of the distance to it, the
  order that the polynomial envelope gives. Beyond the cutoff it is zero.
- ``extensivity``: two systems out of each other's reach have the sum of their energies, and so has a periodic system
  repeated along each axis.
- ``random``: random elements at random places (down to 0.7 Å apart) give finite energies and forces that sum to zero.
- ``energy``: velocity Verlet conserves the energy; its error falls with the square of the time step, in float32 too.
  The drift, the slope of a line through the total energy with the least step, is bounded in both precisions.

Two more checks are of one material each, and run only when ``--only`` names them:

- ``water``: radial distribution functions and self-diffusion of liquid water; ``water.py`` gives bounds and sources.
- ``silicon``: equation of state and phonons of diamond silicon; ``silicon.py`` gives bounds and sources. Its models:

    mlip-train fit benchmarks/accuracy/silicon.yaml
    mlip-export compile runs/silicon/model.safetensors -o silicon.pt2        (and silicon64.pt2 with --dtype float64)
    python -m benchmarks.physics silicon.pt2 silicon64.pt2 --only silicon

The exit status is 1 if a bound is exceeded.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import matplotlib

matplotlib.use("agg")
import matplotlib.pyplot as plt
from benchmarks.common import write_record
from benchmarks.physics.outcome import Models
from benchmarks.physics.pairs import cutoff, dimers, energy, extensivity, random
from benchmarks.physics.silicon import silicon
from benchmarks.physics.water import water
from matplotlib.ticker import NullFormatter

from mlip_export.ase import Calculator

GENERAL = {f.__name__: f for f in (dimers, cutoff, extensivity, random, energy)}
CHECKS = GENERAL | {f.__name__: f for f in (water, silicon)}


def main() -> int:
    """Run the checks, print, draw and record; return the exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path, help="the exported model")
    parser.add_argument("exact", type=Path, help="the same exported in float64")
    parser.add_argument("--quick", action="store_true", help="a few of each, for tests")
    parser.add_argument("--only", nargs="+", choices=CHECKS, default=list(GENERAL))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path)
    options = parser.parse_args()
    models = Models(Calculator(options.model), Calculator(options.exact))
    outcomes = {}
    for name in options.only:
        outcomes[name] = CHECKS[name](models, options.quick)
        print(name, outcomes[name].figures, *outcomes[name].faults, sep="\n  ", flush=True)
    if options.picture:
        panels = [draw for outcome in outcomes.values() for draw in outcome.panels]
        figure, axes = plt.subplots(
            1, len(panels), figsize=(3.6 * len(panels), 3.2), layout="constrained", squeeze=False
        )
        for axis, draw in zip(axes[0], panels, strict=True):
            draw(axis)
            axis.spines[["top", "right"]].set_visible(False)
            for side in (axis.xaxis, axis.yaxis):
                if side.get_scale() == "log":
                    side.set_minor_formatter(NullFormatter())
        figure.savefig(options.picture, dpi=120)
    write_record(
        options.json,
        checks={n: {"figures": o.figures, "faults": o.faults} for n, o in outcomes.items()},
    )
    return int(any(outcome.faults for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main())
