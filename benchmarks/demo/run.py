"""The main job end to end on shipped data, as the commands a user would type, and one picture of what came out.

    nox -f nox.py -s demo                  # or, where the six packages are installed:
    python -m benchmarks.demo.run [--output demo-out] [--epochs 50]

select → convert → split → train → evaluate → compile → MD in ASE and in LAMMPS → demo.png and demo.json.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

from benchmarks import pictures
from benchmarks.common import bounded

HERE = Path(__file__).resolve().parent
NVE = HERE.parent.parent / "lammps" / "examples" / "nve.in"
CONSERVED = 1.0  # meV/atom, standard deviation of the total energy
STEPS = (
    "spice-data info example",
    "spice-data select example --neutral --max-force 20 -o neutral.json",
    "spice-data convert neutral.json -o neutral.store",
    "spice-data split neutral.store -o split.json --by molecule --ratios 80:10:10 --seed 0",
    "mlip-train fit train.yaml {overrides}",
    "mlip-train evaluate train.yaml --output evaluation",
    "mlip-export compile run/model.safetensors -o model.pt2",
    "mlip-export info model.pt2",
    "mlip-export lammps build",
)


def environment() -> dict[str, str]:
    """One thread per process (threads that spin on shared cores cost more than they bring), our commands first."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    return {**os.environ, **bounded(1), "PATH": path}


def say(text: str, start: float) -> None:
    """A line with the minutes since the start."""
    print(f"\n[{(time.perf_counter() - start) / 60:4.1f} min] {text}", flush=True)


def main() -> None:
    """Run everything; stop at the first command that fails."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=Path("demo-out"), help="folder to make; an old one is replaced"
    )
    parser.add_argument("--epochs", type=int, help="instead of the configuration's")
    arguments = parser.parse_args()
    out: Path = arguments.output.resolve()
    start = time.perf_counter()
    if out.exists():
        if not (out / "train.yaml").exists():
            sys.exit(f"--output must be a new folder or one that this demo made, got {out}")
        shutil.rmtree(out)
    out.mkdir(parents=True)
    shutil.copy(HERE / "train.yaml", out)
    overrides = "logging.progress=true" if sys.stdout.isatty() else "logging.progress=false"
    if arguments.epochs:
        overrides += f" stop.epochs={arguments.epochs}"
    for step in STEPS:
        command = step.format(overrides=overrides)
        say(f"$ {command}", start)
        subprocess.run(shlex.split(command), cwd=out, env=environment(), check=True)
    say("molecular dynamics of a held-out molecule in ASE and LAMMPS", start)
    subprocess.run(
        [sys.executable, str(HERE / "dynamics.py"), str(NVE)], cwd=out, env=environment(), check=True
    )
    pictures.demo(out)
    command = shlex.join(["python", "-m", "benchmarks.demo.run", *sys.argv[1:]])
    summary = {"command": command} | json.loads((out / "demo.json").read_text())
    wandering = max(summary["std of total energy, meV/atom"].values())
    if wandering > CONSERVED and not arguments.epochs:
        sys.exit(
            f"the total energy wanders by {wandering} meV/atom, more than {CONSERVED}: the model is no good for MD"
        )
    summary["minutes"] = round((time.perf_counter() - start) / 60, 1)
    (out / "demo.json").write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n")
    say(f"done: {out / 'demo.png'} and {out / 'run' / 'report.html'}", start)
    print(json.dumps(summary, indent=1, ensure_ascii=False))


if __name__ == "__main__":
    main()
