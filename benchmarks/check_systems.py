"""An exported full-size model against the eager model on every structure of a folder, with time and memory.

    python -m benchmarks.check_systems MODEL EXPORTED structures/*.xyz --output results/systems_small.json

MODEL is a file of ``localgraph.save_model``, EXPORTED what ``mlip-export compile`` made of it; elements that the model
does not know are skipped by name. Each structure (a ``.gz`` is read as well) is evaluated by the ASE calculator. The
eager model is evaluated on ``--centers`` atoms drawn at random, all where there are fewer: it is strictly local, so
the energies of these atoms and the forces along their edges are complete. Energies are compared in eV per atom, edge
forces in eV/Å.
"""

from __future__ import annotations

import argparse
import gzip
import time
from functools import partial
from pathlib import Path
from typing import Any

import ase.io
import torch
from ase import Atoms
from benchmarks.common import peak_mib, write_record

from localgraph import edge_vectors, energies_and_edge_forces, load_model, neighbors
from mlip_export import keep_freed_memory
from mlip_export.ase import Calculator
from mlip_export.chunks import evaluate


def read(path: Path) -> Atoms:
    """Return the last structure of a file, compressed or not."""
    if path.suffix == ".gz":
        with gzip.open(path, "rt") as lines:
            return ase.io.read(lines, index=-1, format="extxyz")
    return ase.io.read(path, index=-1)


def check(path: Path, calculator: Calculator, model: Any, centers: int) -> dict[str, Any]:
    """Return time and memory of the calculator on one structure, and its largest differences from eager."""
    atoms = read(path)
    begin = time.perf_counter()
    calculator.calculate(atoms)
    seconds = time.perf_counter() - begin
    potential = calculator.potential
    types = potential.types_of(atoms.get_chemical_symbols())
    positions, cell = torch.tensor(atoms.positions), torch.tensor(atoms.cell.array)
    graph = neighbors(positions, potential.cutoff, cell, tuple(map(bool, atoms.pbc)))
    chosen = torch.randperm(len(atoms), generator=torch.Generator().manual_seed(0))[:centers].sort().values
    mask = torch.isin(graph.edge_index[0], chosen)
    index, r = graph.edge_index[:, mask], edge_vectors(positions, graph, cell)[mask].contiguous()
    count, n = len(potential.type_names), len(chosen)
    # the chosen centers, and one stand-in neighbor of each type
    local = torch.stack([torch.searchsorted(chosen, index[0]), types[index[1]] + n])
    given = r, local, torch.cat([types[chosen], torch.arange(count)]), count
    eager, eager_forces = evaluate(partial(energies_and_edge_forces, model), *given, 4096)
    compiled, compiled_forces = evaluate(potential, *given, calculator.max_edges)
    whole = torch.from_numpy(calculator.results["energies"])[chosen]
    return {
        "structure": path.name,
        "atoms": len(atoms),
        "edges": calculator.edge_count,
        "seconds": seconds,
        "us_per_edge": seconds / max(1, calculator.edge_count) * 1e6,
        "peak_MiB": peak_mib(),
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
    parser.add_argument("exported", type=Path)
    parser.add_argument("structures", type=Path, nargs="+")
    parser.add_argument("--centers", type=int, default=500)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    keep_freed_memory()
    model = load_model(options.model)[0].for_inference()
    calculator = Calculator(options.exported)
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
        write_record(options.output, threads=torch.get_num_threads(), rows=rows)  # the last ones take minutes


if __name__ == "__main__":
    main()
