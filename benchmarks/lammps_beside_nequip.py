"""Steps of LAMMPS beside nequip's own LAMMPS interface: the same weights, box and lmp, one thread each.

    python -m benchmarks.bench_inference prepare --work out --presets small --nequip-python PYTHON
    python -m benchmarks.lammps_beside_nequip --work out --presets small --lmp LMP --nequip-python PYTHON \
        --pythonpath LAMMPS/python --systems water_192 --output lammps.json

LMP has ``pair_style allegro`` (lammps/README.md) and ML-IAP with Python; PYTHON, of the same version, has nequip and
nequip-allegro. Ours is ``pair_style allegro`` with the imported package, theirs ``pair_style mliap unified`` with the
file of nequip's wrapper, compiled by torch.compile as it is by default. nequip 0.19.1 asks two things of LAMMPS that
only the Kokkos variant on a GPU answers (reading ``eatoms``, ``update_pair_forces_gpu``); ``HOST`` below answers them
from host memory, and changes nothing else.

Each round starts one process per provider; its first steps (compilation, allocation) are not counted, and the least
loop time of all repeats is kept. Energy and forces of the start must agree, or the command ends with an error.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, MALLOC, write_record

HOST = '''"""nequip's wrapper, answered from host memory."""

import numpy as np
from nequip.integrations.lammps_mliap.lmp_mliap_wrapper import NequIPLAMMPSMLIAPWrapper


class Host:
    """The data of LAMMPS, with what only its Kokkos variant has."""

    def __init__(self, data):
        self.__dict__.update(data=data, eatoms=np.zeros(data.nlocal))

    def __getattr__(self, name):
        return getattr(self.data, name)

    def __setattr__(self, name, value):
        setattr(self.data, name, float(value))

    def update_pair_forces_gpu(self, forces):
        self.data.update_pair_forces(forces.double().contiguous().numpy())


class OnHost(NequIPLAMMPSMLIAPWrapper):
    """The wrapper for pair_style mliap without Kokkos."""

    def compute_forces(self, data):
        host = Host(data)
        super().compute_forces(host)
        data.eatoms = host.eatoms
'''
PREPARE = """
import sys, torch
from mliap_on_host import OnHost
torch.save(OnHost(sys.argv[1], "sole_model", compile=sys.argv[3] == "compile"), sys.argv[2])
"""
INPUT = """
units metal
atom_style atomic
newton on
boundary p p p
read_data data
pair_style {style}
pair_coeff * * {coefficients}
neighbor 1.0 bin
velocity all create 300 1 loop geom
timestep 0.0005
fix 1 all nve
thermo_style custom step pe
thermo_modify format float %.12g
thermo 1000000
run 0
write_dump all custom forces id fx fy fz modify sort id format float %.12g
run {warm}
{runs}
"""
ENERGY_BOUND = 1e-5
"""eV per atom, between two float32 programs."""
FORCE_BOUND = 1e-3
"""eV/Å."""


def environment(options: argparse.Namespace) -> dict[str, str]:
    """Of every process: one thread, memory kept mapped, nequip and the adapter importable."""
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    done = subprocess.run([options.nequip_python, "-c", code], check=True, capture_output=True, text=True)
    paths = [str(Path(options.work).resolve()), *options.pythonpath, done.stdout.strip()]
    return os.environ | {
        "PYTHONPATH": os.pathsep.join(paths),
        "GLIBC_TUNABLES": MALLOC,
        "OMP_NUM_THREADS": "1",
        "TORCHINDUCTOR_CACHE_DIR": str(Path(options.work).resolve() / "inductor"),
    }


def wrapped(preset: str, options: argparse.Namespace) -> Path:
    """nequip's file for LAMMPS of the preset's checkpoint, made unless it exists."""
    way = "eager" if options.no_compile else "compile"
    folder = Path(options.work).resolve() / preset
    target = folder / f"{way}.nequip.lmp.pt"
    (folder.parent / "mliap_on_host.py").write_text(HOST)
    if not target.exists():
        command = [options.nequip_python, "-c", PREPARE, str(folder / "last.ckpt"), str(target), way]
        subprocess.run(command, check=True, env=environment(options), stdout=subprocess.DEVNULL)
    return target


def simulate(folder: Path, style: str, coefficients: str, options: argparse.Namespace) -> dict[str, Any]:
    """One process of LAMMPS in ``folder``: energy (eV) and forces (N, 3) of the start, least seconds per step."""
    runs = "\n".join([f"run {options.steps}"] * options.repeats)
    text = INPUT.format(style=style, coefficients=coefficients, warm=options.warm, runs=runs)
    (folder / "in").write_text(text)
    command = [options.lmp, "-in", "in", "-log", "none"]
    done = subprocess.run(command, cwd=folder, env=environment(options), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(
            f"{style}: lmp ended with {done.returncode}\n{done.stdout[-3000:]}{done.stderr[-3000:]}"
        )
    loops = re.findall(r"Loop time of (\S+) on 1 procs for (\d+) steps", done.stdout)
    rows = (folder / "forces").read_text().splitlines()[9:]
    energy = re.search(r"^\s*0\s+(-?\d\S*)\s*$", done.stdout, re.MULTILINE)
    if energy is None or len(loops) != options.repeats + 2:
        raise SystemExit(
            f"{style}: output must hold an energy and {options.repeats + 2} runs, got\n{done.stdout[-3000:]}"
        )
    return {
        "energy": float(energy[1]),
        "forces": [[float(w) for w in row.split()[1:]] for row in rows],
        "seconds": min(float(seconds) / int(steps) for seconds, steps in loops[2:]),
    }


def compare(preset: str, system: str, options: argparse.Namespace) -> dict[str, Any]:
    """Alternate the two providers for some rounds; a row of the table, or SystemExit where they disagree."""
    import ase.io
    import numpy as np
    from ase.io.lammpsdata import write_lammps_data

    atoms = ase.io.read(options.data / "systems" / f"{system}.xyz")
    kinds = sorted(set(atoms.get_chemical_symbols()))
    work = Path(options.work).resolve() / preset
    providers = {
        "mlip-export": ("allegro", f"{work / 'model.pt2'} {' '.join(kinds)}"),
        "nequip": (f"mliap unified {wrapped(preset, options)} 0", " ".join(kinds)),
    }
    best: dict[str, dict[str, Any]] = {}
    for _ in range(options.rounds):
        for provider, (style, coefficients) in providers.items():
            folder = work / f"lammps-{provider}"
            folder.mkdir(exist_ok=True)
            write_lammps_data(folder / "data", atoms, specorder=kinds, masses=True, atom_style="atomic")
            answer = simulate(folder, style, coefficients, options)
            seconds = min(answer["seconds"], best.get(provider, answer)["seconds"])
            best[provider] = answer | {"seconds": seconds}
    ours, theirs = best["mlip-export"], best["nequip"]
    energy = abs(ours["energy"] - theirs["energy"]) / len(atoms)
    force = float(np.abs(np.array(ours["forces"]) - np.array(theirs["forces"])).max())
    if not (energy < ENERGY_BOUND and force < FORCE_BOUND):
        raise SystemExit(
            f"{preset}, {system}: differences must be below {ENERGY_BOUND} eV/atom and {FORCE_BOUND} eV/Å, "
            f"got {energy:.2e} and {force:.2e}"
        )
    row: dict[str, Any] = {"preset": preset, "system": system, "atoms": len(atoms)}
    row |= {p: {"us_per_atom_step": a["seconds"] / len(atoms) * 1e6} for p, a in best.items()}
    row["ratio"] = theirs["seconds"] / ours["seconds"]
    row |= {"energy_difference_eV_per_atom": energy, "force_difference_eV_per_A": force}
    return row


def main() -> None:
    """Run every preset on every system; print a table and write JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", default="bench-out", help="folder of bench_inference.py prepare")
    parser.add_argument("--presets", nargs="+", default=["small"])
    parser.add_argument("--systems", nargs="+", default=["water_192"])
    parser.add_argument("--lmp", required=True)
    parser.add_argument("--nequip-python", required=True)
    parser.add_argument("--pythonpath", nargs="*", default=[], help="where LAMMPS's Python module is")
    parser.add_argument("--warm", type=int, default=5, help="uncounted steps")
    parser.add_argument("--steps", type=int, default=10, help="steps of a run")
    parser.add_argument("--repeats", type=int, default=3, help="runs of a process")
    parser.add_argument("--rounds", type=int, default=3, help="processes of each provider")
    parser.add_argument("--no-compile", action="store_true", help="nequip without torch.compile")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--output", type=Path, help="write the rows as JSON")
    options = parser.parse_args()
    rows = []
    for preset in options.presets:
        for system in options.systems:
            rows.append(compare(preset, system, options))
            row = rows[-1]
            print(
                f"{preset:6} {system:12} {row['atoms']:6} atoms | mlip-export "
                f"{row['mlip-export']['us_per_atom_step']:9.1f} µs per atom and step | nequip "
                f"{row['nequip']['us_per_atom_step']:9.1f} | ratio {row['ratio']:.2f} | differ by "
                f"{row['energy_difference_eV_per_atom']:.1e} eV/atom, {row['force_difference_eV_per_A']:.1e} eV/Å",
                flush=True,
            )
    write_record(options.output, threads=1, rows=rows)


if __name__ == "__main__":
    main()
