"""Energy and forces of the three presets beside nequip-allegro's on one water box: time and peak memory, eager PyTorch.

    python benchmarks/bench_model.py [system.xyz] [--threads 1] [--repeats 5] [--output results.json]

Needs nequip and nequip-allegro in the same environment. Both sides hold the same weights (ours are imported), and
their energies and forces are compared. Every measurement is a process of its own; the time is the least of the
repeats, the memory the peak resident size over that before the first call. Fresh pages cost more than arithmetic here,
so both sides run with a malloc that keeps them (GLIBC_TUNABLES below). Without an argument the box is made here:
192 atoms at 1 g/cm³.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

ELEMENTS = ["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"]
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000"
PRESETS = ("spice_small", "spice_medium", "spice_large")
PROVIDERS = ("nequip-allegro", "direct", "allegro-model")


def water(molecules: int = 64):
    """A periodic cubic lattice of randomly turned water molecules at 1 g/cm³."""
    import ase
    import ase.build
    import numpy as np

    rng = np.random.default_rng(0)
    side = (molecules * 18.015 / 6.02214076e23 * 1e24) ** (1 / 3)
    per_axis = round(molecules ** (1 / 3))
    box = ase.Atoms(cell=[side] * 3, pbc=True)
    for site in np.ndindex(per_axis, per_axis, per_axis):
        one = ase.build.molecule("H2O")
        one.rotate(rng.uniform(0, 360), rng.normal(size=3), center="COM")
        one.translate((np.array(site) + 0.5) * side / per_axis - one.get_center_of_mass())
        box += one
    return box


def reference_model(preset: str):
    """The nequip-allegro model of a preset, with fixed random weights."""
    from allegro.model import AllegroModel
    from nequip.utils.global_state import set_global_state

    set_global_state()
    large = preset == "spice_large"
    channels = 128 if large else 64
    return AllegroModel(
        seed=1,
        model_dtype="float32",
        r_max=6.0,
        type_names=ELEMENTS,
        l_max=2 if preset == "spice_small" else 3,
        parity=True,
        radial_chemical_embed={"_target_": "allegro.nn.TwoBodyBesselScalarEmbed", "num_bessels": 8},
        radial_chemical_embed_dim=32,
        scalar_embed_mlp_hidden_layers_depth=2,
        scalar_embed_mlp_hidden_layers_width=64,
        num_layers=3 if large else 2,
        num_scalar_features=channels,
        num_tensor_features=channels,
        allegro_mlp_hidden_layers_depth=3 if large else 2,
        allegro_mlp_hidden_layers_width=512 if large else 256,
        readout_mlp_hidden_layers_depth=1,
        readout_mlp_hidden_layers_width=128,
        readout_mlp_nonlinearity=None,
        avg_num_neighbors=80.0,
    )


def calculation(provider: str, preset: str, atoms):
    """A function that returns energy and forces as float64 tensors."""
    import torch

    reference = reference_model(preset)
    types = torch.tensor([ELEMENTS.index(s) for s in atoms.get_chemical_symbols()])
    if provider == "nequip-allegro":
        from nequip.data import AtomicDataDict, from_ase
        from nequip.data._nl import compute_neighborlist_

        data = from_ase(atoms)
        data[AtomicDataDict.ATOM_TYPE_KEY] = types
        data = compute_neighborlist_(data, r_max=6.0, backend="ase")

        def run():
            out = reference(data)
            return out[AtomicDataDict.TOTAL_ENERGY_KEY].sum().detach(), out[AtomicDataDict.FORCE_KEY].detach()

        return run

    import localgraph
    from allegro_model import direct
    from allegro_model.nequip import from_nequip

    model = from_nequip(reference)
    cell = torch.tensor(atoms.cell.array)
    graph = localgraph.neighbors(torch.tensor(atoms.positions), 6.0, cell, True)
    vectors = localgraph.edge_vectors(torch.tensor(atoms.positions), graph, cell)
    inference = model.for_inference()

    def energies(r, index, types):
        if provider == "direct":
            return direct.atom_energies(model, r, index, types)
        return inference(r, index, types)

    def run():
        e, g = localgraph.energies_and_edge_forces(energies, vectors, graph.edge_index, types)
        return e.sum(), localgraph.forces(g, graph)

    return run


def peak_mib() -> float:
    """Largest resident size of this process so far, MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def work(arguments: argparse.Namespace) -> None:
    """Measure one provider on one preset and print it as JSON."""
    import ase.io
    import torch

    limit = int(arguments.memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(arguments.threads)
    atoms = ase.io.read(arguments.system) if arguments.system else water()
    run = calculation(arguments.provider, arguments.preset, atoms)
    torch.set_num_threads(arguments.threads)
    before = peak_mib()
    energy, forces = run()
    peak = peak_mib() - before
    times = []
    for _ in range(arguments.repeats):
        start = time.perf_counter()
        run()
        times.append(time.perf_counter() - start)
    print(
        json.dumps(
            dict(
                provider=arguments.provider,
                preset=arguments.preset,
                atoms=len(atoms),
                seconds=min(times),
                peak_mib=peak,
                energy=float(energy),
                forces=forces.flatten()[:30].tolist(),
            )
        )
    )


def main() -> None:
    """Run every provider and preset, check that they agree, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("system", nargs="?")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory-limit", type=float, default=16.0, help="GiB of address space of each process"
    )
    parser.add_argument("--output")
    parser.add_argument("--preset", choices=PRESETS)
    parser.add_argument("--provider", choices=PROVIDERS)
    arguments = parser.parse_args()
    if arguments.provider:
        return work(arguments)
    rows = []
    environment = {**os.environ, "GLIBC_TUNABLES": MALLOC, "OMP_NUM_THREADS": str(arguments.threads)}
    print(f"{'preset':14}{'provider':18}{'ms':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    for preset in PRESETS:
        first = None
        for provider in PROVIDERS:
            command = [sys.executable, __file__, *([arguments.system] if arguments.system else [])]
            command += ["--threads", str(arguments.threads), "--repeats", str(arguments.repeats)]
            command += [
                "--memory-limit",
                str(arguments.memory_limit),
                "--preset",
                preset,
                "--provider",
                provider,
            ]
            done = subprocess.run(command, capture_output=True, text=True, env=environment)
            if done.returncode:
                if "memory" not in done.stderr.lower():
                    sys.exit(done.stderr)
                rows.append(
                    dict(provider=provider, preset=preset, failed=f"over {arguments.memory_limit} GiB")
                )
                print(
                    f"{preset:14}{provider:18}{'needs more than ' + str(arguments.memory_limit) + ' GiB':>33}",
                    flush=True,
                )
                continue
            row = json.loads(done.stdout.splitlines()[-1])
            first = first or row
            worst = max(abs(a - b) for a, b in zip(first["forces"], row["forces"], strict=True))
            per_atom = abs(first["energy"] - row["energy"]) / row["atoms"]
            if worst > 1e-3 or per_atom > 1e-5:
                sys.exit(f"{preset}: {provider} differs by {per_atom} eV/atom and {worst} eV/Å")
            row |= dict(speed=first["seconds"] / row["seconds"], memory=first["peak_mib"] / row["peak_mib"])
            rows.append({key: value for key, value in row.items() if key != "forces"})
            print(
                f"{preset:14}{provider:18}{row['seconds'] * 1e3:9.0f}{row['speed']:7.1f}"
                f"{row['peak_mib']:10.0f}{row['memory']:7.1f}",
                flush=True,
            )
    if arguments.output:
        result = dict(command=" ".join(["python", *sys.argv]), threads=arguments.threads, rows=rows)
        Path(arguments.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
