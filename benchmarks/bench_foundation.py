"""A full-size foundation model beside what nequip runs it with: seconds and peak memory of a step in ASE, by atoms.

    INTEROP_FULL=1 INTEROP_FILES=out python -m pytest packages/allegro-model/interop/test_versions.py -k OAM-L
    python -m benchmarks.bench_foundation prepare out/OAM-L/packaged.nequip.zip --work out --threads 1 2
    python -m benchmarks.bench_foundation time out/OAM-L/packaged.nequip.zip --work out --atoms 8 16 64 --json JSON
    python -m benchmarks.bench_foundation compare out/MP-L/packaged.nequip.zip --json JSON

The first command writes a file of Allegro-OAM-L's architecture with random weights by the installed nequip-allegro.
``prepare`` compiles it with ``mlip-export compile`` and with both modes of ``nequip-compile``, whose own check it
widens by NEQUIP_FLOAT32_MODEL_TOL only where the export failed it; what still fails is in the record with the reason.
``time`` asks one process per program in turn for steps of a rock-salt crystal of NaCl, whose atoms move by 0.003 Å
(neighbor lists included), and keeps the least time, the largest resident size, and the time per edge of the bare
matrix products (the floor of ``bench_inference``); a program that ends for lack of memory is not asked for larger
systems. ``compare`` opens an archive and gives the largest differences from nequip's eager model on rock salt and
ethanol. Called again, both add their rows to the record.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms
from ase.build import bulk
from benchmarks import common
from benchmarks.common import ROOT, Worker, answer, limit_memory, peak_mib, versions, write_json, write_record

import localgraph

CELLS = {8: (1, 1, 1), 16: (2, 1, 1), 64: (2, 2, 2), 128: (4, 2, 2), 512: (4, 4, 4)}
"""Numbers of atoms and repeats of the cubic cell of rock salt."""
MODES = {"aotinductor": "nequip.pt2", "torchscript": "nequip.pth"}
OURS, EAGER = "mlip-export", "nequip eager"
PROGRAMS = (OURS, *(f"nequip-compile {mode}" for mode in MODES), EAGER)
WIDER = "1e-3"
"""Tolerance of nequip-compile's check (its own 5e-5 in float32 is absolute, forces of random weights are not small)."""


def crystal(atoms: int) -> Atoms:
    """Return rock salt of so many atoms."""
    return bulk("NaCl", "rocksalt", a=5.64, cubic=True) * CELLS[atoms]


def exported(work: Path, program: str, archive: Path, threads: int) -> Path:
    """Return the file that a program runs; nequip's exports hold the number of threads they were compiled with."""
    if program == OURS:
        return work / "foundation.pt2"
    if program == EAGER:
        return archive
    return work / f"foundation.threads{threads}.{MODES[program.split()[1]]}"


def calculator(program: str, path: Path) -> Any:
    """Return the program's ASE calculator."""
    if program == OURS:
        from mlip_export.ase import Calculator

        return Calculator(path)
    from nequip.integrations.ase import NequIPCalculator

    make = NequIPCalculator._from_saved_model if program == EAGER else NequIPCalculator.from_compiled_model
    return make(str(path), device="cpu")


def measured(command: list[str], **environment: str) -> dict[str, Any]:
    """Run a command; wall and processor seconds, peak memory, and the end of what it says where it fails."""
    begin = time.perf_counter()
    with tempfile.TemporaryFile("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | environment)
        _, status, used = os.wait4(process.pid, 0)
        found = {"seconds": round(time.perf_counter() - begin), "cpu": round(used.ru_utime + used.ru_stime)}
        found["peak_MiB"] = round(used.ru_maxrss / 1024)
        if os.waitstatus_to_exitcode(status):
            log.seek(0)
            lines = [line.strip() for line in log if re.search(r"\w{3}", line)]
            found["failed"] = lines[-1][:600]
    return found


def prepare(options: argparse.Namespace) -> None:
    """Compile the archive with every program; write what each took into ``compiled.json``; done ones are kept."""
    record = options.work / "compiled.json"
    found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    options.work.mkdir(parents=True, exist_ok=True)
    scripts = Path(sys.executable).parent
    for threads in options.threads:
        for program in PROGRAMS[:-1]:
            target, key = exported(options.work, program, options.archive, threads), f"{program}, {threads}"
            if program == OURS:
                key = program
                command = [str(scripts / "mlip-export"), "compile", str(options.archive), "-o", str(target)]
            else:
                command = [str(scripts / "nequip-compile"), "--mode", program.split()[1], "--device", "cpu"]
                target_of = ["--target", "ase"] if "aot" in program else []
                command += [*target_of, str(options.archive), str(target)]
            if key in found:
                continue
            found[key] = measured(command, **common.bounded(threads))
            if "MODEL_TOL" in found[key].get("failed", ""):  # its check names the variables that widen it
                wider = measured(command, **common.bounded(threads), NEQUIP_FLOAT32_MODEL_TOL=WIDER)
                found[key] = wider | {"with its own tolerance": found[key]["failed"], "tolerance": WIDER}
            print(key, json.dumps(found[key]), flush=True)
            write_json(record, found)


def compare(options: argparse.Namespace) -> None:
    """Open the archive with both programs; differences of energy, forces and stress, seconds and memory to open it."""
    from ase.build import molecule

    begin = time.perf_counter()
    model, _ = localgraph.load_model(options.archive)
    row: dict[str, Any] = {
        "parameters": sum(p.numel() for p in model.parameters()),
        "dtype": str(model.dtype),
    }
    row |= {"seconds": time.perf_counter() - begin, "peak_MiB": peak_mib(), "systems": {}}
    systems = {"rock salt, 8 atoms": crystal(8), "ethanol": molecule("CH3CH2OH")}
    ours = {}
    for name, atoms in systems.items():
        atoms.rattle(0.05, seed=0)
        types = localgraph.types_of(atoms.get_chemical_symbols(), model.type_names)
        cell = torch.tensor(atoms.cell.array) if atoms.pbc.any() else None
        ours[name] = localgraph.evaluate(model, torch.tensor(atoms.positions), types, cell, atoms.pbc)
    theirs = calculator(EAGER, options.archive)
    for name, atoms in systems.items():
        atoms.calc = theirs
        energy, found = atoms.get_potential_energy(), ours[name]
        difference = {"energy": abs(energy - float(found.energies.sum())), "of energy": abs(energy)}
        difference["forces"] = float(np.abs(atoms.get_forces() - found.forces.numpy()).max())
        difference["of forces"] = float(found.forces.abs().max())
        if atoms.pbc.all():
            stress = found.stress.numpy()
            difference["stress"] = float(np.abs(atoms.get_stress(voigt=False) - stress).max())
            difference["of stress"] = float(np.abs(stress).max())
        row["systems"][name] = difference
    print(json.dumps(row), flush=True)
    content = json.loads(options.json.read_text()) if options.json.exists() else {"rows": []}
    content.setdefault("compared", {})[options.archive.resolve().parent.name] = row
    write_json(options.json, content)


def worker(options: argparse.Namespace) -> None:
    """Answer ``atoms, repeats`` by the least seconds of a step, energy, forces and peak memory."""
    limit_memory(options.memory_limit)
    torch.set_num_threads(options.threads)
    calc = calculator(options.program, options.file)
    torch.set_num_threads(options.threads)
    rng, ready = np.random.default_rng(0), {}

    def handle(atoms: int, repeats: int) -> dict[str, Any]:
        if atoms not in ready:
            ready.clear()
            ready[atoms] = crystal(atoms)
            ready[atoms].rattle(0.05, seed=0)
            ready[atoms].calc = calc
            first = {"energy": ready[atoms].get_potential_energy()}
            first["forces"] = ready[atoms].get_forces().ravel()[:24].tolist()
        else:
            first = {}
        moved, start, best = ready[atoms], ready[atoms].positions.copy(), float("inf")
        for _ in range(repeats):
            moved.positions = start + 0.003 * rng.standard_normal(start.shape)
            begin = time.perf_counter()
            moved.get_forces()
            best = min(best, time.perf_counter() - begin)
        moved.positions = start
        return first | {"seconds": best, "peak_MiB": peak_mib(), "versions": versions()}

    answer(handle)


def row_of(
    atoms: int, threads: int, programs: dict[str, Worker], options: argparse.Namespace
) -> dict[str, Any]:
    """Ask every program in turn; drop those that ended."""
    best: dict[str, dict[str, Any]] = {}
    row: dict[str, Any] = {"atoms": atoms, "threads": threads, "ended": []}
    for _ in range(options.rounds):
        for program in list(programs):
            got = programs[program].ask(atoms=atoms, repeats=options.repeats)
            if got is None:
                row["ended"].append(program)
                programs.pop(program).close()
                best.pop(program, None)
                continue
            row.setdefault("versions", {})[program] = got.pop("versions")
            least = min(got["seconds"], best.get(program, got)["seconds"])
            best[program] = best.get(program, {}) | got | {"seconds": least}
    ours = best[OURS]
    for program, got in best.items():
        row[program] = {key: got[key] for key in ("seconds", "peak_MiB")}
        if program != OURS:
            row[program]["energy_difference_per_atom"] = abs(got["energy"] - ours["energy"]) / atoms
            differences = np.array(got["forces"]) - np.array(ours["forces"])
            row[program]["force_difference"] = float(np.abs(differences).max())
    row["largest_force"] = float(np.abs(ours["forces"]).max())
    return row


def timing(options: argparse.Namespace) -> None:
    """Time all programs for each number of threads and atoms."""
    before = json.loads(options.json.read_text()) if options.json.exists() else {"rows": []}
    rows = {(row["threads"], row["atoms"]): row for row in before["rows"]}
    seen: dict[str, dict[str, str]] = before.get("provider_versions", {})
    floors: dict[str, float] = before.get("floor_us_per_edge", {})
    cutoff = localgraph.load_model(options.archive)[0].cutoff
    times = options.work / "compiled.json"

    def record() -> None:
        write_record(
            options.json,
            provider_versions=seen,
            architecture="Allegro-OAM-L",
            compiled=json.loads(times.read_text()) if times.exists() else before.get("compiled", {}),
            compared=before.get("compared", {}),
            floor_us_per_edge=floors,
            rows=[rows[key] for key in sorted(rows)],
        )

    for threads in options.threads:
        floor = Worker(
            str(ROOT / "benchmarks" / "worker.py"),
            ["floor", "--source", options.archive, "--threads", threads],
            threads,
        )
        found = floor.ask(repeats=10)
        floor.close()
        if found is not None:
            floors[str(threads)] = 1e6 * found["seconds_per_edge"]
        programs = {}
        for program in options.programs:
            path = exported(options.work, program, options.archive, threads)
            if path.exists():
                arguments = ["worker", options.archive, "--program", program, "--file", path]
                arguments += ["--threads", threads, "--memory-limit", options.memory_limit]
                programs[program] = Worker(__file__, arguments, threads)
        record()
        for atoms in options.atoms if programs else ():
            row = row_of(atoms, threads, programs, options)
            seen |= row.pop("versions")
            moved = crystal(atoms)
            graph = localgraph.neighbors(
                torch.tensor(moved.positions), cutoff, torch.tensor(moved.cell.array), (True, True, True)
            )
            row["edges"] = graph.num_edges
            rows[threads, atoms] = row
            print(json.dumps(row), flush=True)
            record()
        for process in programs.values():
            process.close()


def main() -> None:
    """Dispatch to a subcommand."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("prepare")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.set_defaults(run=prepare)
    p = commands.add_parser("time")
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--atoms", type=int, nargs="+", default=list(CELLS), choices=CELLS)
    p.add_argument("--programs", nargs="*", default=PROGRAMS, choices=PROGRAMS)
    p.add_argument("--rounds", type=int, default=2)
    p.add_argument("--repeats", type=int, default=2, help="steps of a turn")
    p.add_argument("--json", type=Path, required=True, help="the record; rows are added")
    p.set_defaults(run=timing)
    p = commands.add_parser("compare")
    p.add_argument("--json", type=Path, required=True, help="the record; a row is added")
    p.set_defaults(run=compare)
    q = commands.add_parser("worker")
    q.add_argument("--threads", type=int, required=True)
    q.add_argument("--program", required=True)
    q.add_argument("--file", type=Path, required=True)
    q.set_defaults(run=worker)
    for p in commands.choices.values():
        p.add_argument("archive", type=Path, help=".nequip.zip")
        p.add_argument("--work", type=Path, default=Path("bench-out"))
        p.add_argument("--memory-limit", type=float, default=18.0, help="GiB of address space of a process")
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
