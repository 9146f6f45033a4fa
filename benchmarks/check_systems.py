"""A package of the full-size model against the eager model on every structure of a folder, with time and memory.

    python benchmarks/check_systems.py MODEL PACKAGE structures/*.xyz --output results/systems_small.json

MODEL is a file of ``localgraph.save_model``, PACKAGE what ``mlip-export compile`` made of it; elements that the model
does not know are skipped by name. Each structure (a ``.gz`` is read as well) is evaluated by the ASE calculator. The
eager model is evaluated on ``--centers`` atoms drawn at random, all where there are fewer: it is strictly local, so
the energies of these atoms and the forces along their edges are complete. Energies are compared in eV per atom, edge
forces in eV/Å.
"""

from __future__ import annotations

import argparse
import gzip
import json
import resource
import shlex
import sys
import time
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms

from localgraph import load_model, neighbors
from localgraph.files import replacing
from mlip_export import keep_freed_memory
from mlip_export.ase import Calculator
from mlip_export.chunks import evaluate
from mlip_export.trace import energies_and_forces


def read(path: Path) -> Atoms:
    """The last structure of a file, compressed or not."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as lines:
            return ase.io.read(lines, index=-1, format="extxyz")
    return ase.io.read(path, index=-1)


def check(path: Path, calculator: Calculator, model: Any, centers: int) -> dict[str, Any]:
    """Time and memory of the calculator on one structure, and its largest differences from eager."""
    atoms = read(path)
    begin = time.perf_counter()
    calculator.calculate(atoms)
    seconds = time.perf_counter() - begin
    potential = calculator.potential
    types = potential.types_of(atoms.get_chemical_symbols())
    positions = torch.from_numpy(atoms.positions.copy())
    graph = neighbors(
        positions, potential.cutoff, torch.from_numpy(atoms.cell.array.copy()), tuple(atoms.pbc)
    )
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randperm(len(atoms), generator=generator)[:centers].sort().values
    mask = torch.isin(graph.edge_index[0], chosen)
    index = graph.edge_index[:, mask]
    shifts = graph.shifts[mask].double() @ torch.from_numpy(atoms.cell.array.copy())
    r = (positions[index[1]] + shifts - positions[index[0]]).contiguous()
    local = torch.searchsorted(chosen, index[0])
    count = len(potential.type_names)
    stand_ins = torch.stack([local, types[index[1]] + len(chosen)])
    local_types = torch.cat([types[chosen], torch.arange(count)])
    eager, eager_forces = evaluate(
        lambda *edges: energies_and_forces(model, *edges), r, stand_ins, local_types, count, 4096
    )
    compiled, compiled_forces = evaluate(potential, r, stand_ins, local_types, count, calculator.max_edges)
    whole = torch.from_numpy(calculator.results["energies"])[chosen]
    n = len(chosen)
    return {
        "structure": path.name,
        "atoms": len(atoms),
        "edges": calculator.edge_count,
        "seconds": seconds,
        "us_per_edge": seconds / max(1, calculator.edge_count) * 1e6,
        "peak_MiB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "compared_atoms": n,
        "energy_difference": float((compiled[:n] - eager[:n]).abs().max()),
        "energy_difference_in_whole": float((whole - eager[:n]).abs().max()),
        "edge_force_difference": float((compiled_forces - eager_forces).abs().max()) if len(r) else 0.0,
        "largest_edge_force": float(eager_forces.abs().max()) if len(r) else 0.0,
    }


def main() -> None:
    """Read the command line, check each structure, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", type=Path)
    parser.add_argument("package", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--centers", type=int, default=500)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    model = load_model(options.model)[0].for_inference()
    calculator = Calculator(options.package)
    rows = []
    for path in options.structures:
        unknown = set(read(path).get_chemical_symbols()) - set(calculator.potential.type_names)
        if unknown:
            print(f"{path.name}: skipped, the model does not know {sorted(unknown)}", flush=True)
            continue
        rows.append(check(path, calculator, model, options.centers))
        print(
            "{structure:28} {atoms:7} atoms {edges:9} edges {seconds:9.2f} s {us_per_edge:6.2f} µs/edge "
            "{peak_MiB:7.0f} MiB | largest differences {energy_difference_in_whole:.1e} eV/atom, "
            "{edge_force_difference:.1e} eV/Å of {largest_edge_force:.1e}".format(**rows[-1]),
            flush=True,
        )
        if options.output:  # after every structure: the last ones take minutes
            record = {
                "command": shlex.join(["python", *sys.argv]),
                "threads": torch.get_num_threads(),
                "rows": rows,
            }
            with replacing(options.output) as file:
                file.write((json.dumps(record, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
