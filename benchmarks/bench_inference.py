"""Inference beside nequip-compile: one imported model, both packages, one run, best times of alternating rounds.

    python benchmarks/bench_inference.py prepare --work out --presets small medium large --nequip-python PYTHON
    python benchmarks/bench_inference.py time --work out --systems water_24 water_192 --nequip-python PYTHON

``prepare`` lets nequip train each preset for one step (its checkpoint is what nequip-compile reads), imports that
checkpoint with ``allegro_model.nequip.from_nequip``, and compiles both. PYTHON has nequip, nequip-allegro and
allegro-model; this interpreter has mlip-export.

``time`` starts one worker process per provider and thread count and asks them in turn, round after round, for a step
of energy and forces. Each is timed in two ways: ``ase`` moves the atoms by a few thousandths of an Å and calls the
calculator (its own neighbor list included); ``model`` calls the compiled model on a graph found before. A turn is at
least ``--repeats`` steps and ``--seconds``. The least time of all rounds is kept, and each provider's better thread
count (over 500 atoms only the one that was better on the system before is asked; put systems in order of size). Every
worker runs with the same malloc settings, which keep freed memory mapped (page faults otherwise take as long as the
model).
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000"
PROVIDERS = ("mlip-export", "nequip-compile")
LARGE = 500
ELEMENTS = ["H", "C", "N", "O", "S"]
PRESETS = {
    "small": {
        "l_max": 2,
        "num_layers": 2,
        "num_scalar_features": 64,
        "num_tensor_features": 64,
        "depth": 2,
        "width": 256,
    },
    "medium": {
        "l_max": 3,
        "num_layers": 2,
        "num_scalar_features": 64,
        "num_tensor_features": 64,
        "depth": 2,
        "width": 256,
    },
    "large": {
        "l_max": 3,
        "num_layers": 3,
        "num_scalar_features": 128,
        "num_tensor_features": 128,
        "depth": 3,
        "width": 512,
    },
}
TRAIN = """
run: [train]
cutoff_radius: 6.0
type_names: [H, C, N, O, S]
data:
  _target_: nequip.data.datamodule.ASEDataModule
  seed: 1
  split_dataset: {{file_path: {folder}/frames.xyz, train: 2, val: 2}}
  transforms:
    - _target_: nequip.data.transforms.ChemicalSpeciesToAtomTypeMapper
      model_type_names: ${{type_names}}
    - _target_: nequip.data.transforms.NeighborListTransform
      r_max: ${{cutoff_radius}}
  train_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 2}}
  val_dataloader: {{_target_: torch.utils.data.DataLoader, batch_size: 2}}
trainer:
  _target_: lightning.Trainer
  accelerator: cpu
  max_epochs: 1
  logger: false
  enable_progress_bar: false
  callbacks:
    - {{_target_: lightning.pytorch.callbacks.ModelCheckpoint, dirpath: {folder}, save_last: true}}
training_module:
  _target_: nequip.train.NequIPLightningModule
  loss: {{_target_: nequip.train.EnergyForceLoss, per_atom_energy: true, coeffs: {{total_energy: 1.0, forces: 1.0}}}}
  val_metrics: {{_target_: nequip.train.EnergyForceMetrics, coeffs: {{per_atom_energy_mae: 1.0, forces_mae: 1.0}}}}
  optimizer: {{_target_: torch.optim.Adam, lr: 0.000001}}
  model:
    _target_: allegro.model.AllegroModel
    seed: 1
    model_dtype: float32
    type_names: ${{type_names}}
    r_max: ${{cutoff_radius}}
    l_max: {l_max}
    parity: true
    radial_chemical_embed: {{_target_: allegro.nn.TwoBodyBesselScalarEmbed, num_bessels: 8}}
    radial_chemical_embed_dim: 32
    scalar_embed_mlp_hidden_layers_depth: 2
    scalar_embed_mlp_hidden_layers_width: 64
    num_layers: {num_layers}
    num_scalar_features: {num_scalar_features}
    num_tensor_features: {num_tensor_features}
    allegro_mlp_hidden_layers_depth: {depth}
    allegro_mlp_hidden_layers_width: {width}
    readout_mlp_hidden_layers_depth: 1
    readout_mlp_hidden_layers_width: 128
    readout_mlp_nonlinearity: null
    avg_num_neighbors: 24.0
    per_type_energy_shifts: {{H: -1.0, C: -2.0, N: -2.5, O: -3.0, S: -4.0}}
"""
IMPORT = """
import sys, localgraph
from allegro_model.nequip import from_nequip
localgraph.save_model(sys.argv[2], from_nequip(sys.argv[1]), {"source": "nequip-allegro"})
"""


def prepare(options: argparse.Namespace) -> None:
    """Train, import and compile each preset; what exists already is kept."""
    for preset in options.presets:
        folder = Path(options.work).resolve() / preset
        folder.mkdir(parents=True, exist_ok=True)
        python, scripts = options.nequip_python, Path(options.nequip_python).parent
        if not (folder / "last.ckpt").exists():
            (folder / "train.yaml").write_text(TRAIN.format(folder=folder, **PRESETS[preset]))
            _run([python, __file__, "frames", str(folder / "frames.xyz"), "--data", options.data])
            _run([str(scripts / "nequip-train"), "-cp", str(folder), "-cn", "train"], cwd=folder)
        if not (folder / "model.safetensors").exists():
            _run([python, "-c", IMPORT, str(folder / "last.ckpt"), str(folder / "model.safetensors")])
        for threads in options.threads:  # its packages hold the thread count they were compiled with
            target = folder / f"threads{threads}.nequip.pt2"
            if not target.exists():
                command = [str(scripts / "nequip-compile"), "--mode", "aotinductor", "--device", "cpu"]
                command += ["--target", "ase", str(folder / "last.ckpt"), str(target)]
                try:
                    _run(command, cwd=folder, env=os.environ | {"OMP_NUM_THREADS": str(threads)})
                except SystemExit as failure:  # it compares its package with eager and may refuse it
                    print(f"{preset}, {threads} threads: {str(failure)[-300:]}", flush=True)
        if not (folder / "model.pt2").exists():
            source, target = str(folder / "model.safetensors"), str(folder / "model.pt2")
            _run([sys.executable, "-m", "mlip_export.cli", "compile", source, "-o", target])


def _run(command: list[str], **kwargs: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def frames(options: argparse.Namespace) -> None:
    """Four small frames with made-up labels, for the checkpoint alone."""
    import ase.io
    import numpy as np
    from ase.build import molecule
    from ase.calculators.singlepoint import SinglePointCalculator

    out = []
    for seed in range(4):
        atoms = molecule("CH3CH2OH")  # small: training the large preset needs megabytes for every edge
        atoms.rattle(0.02, seed=seed)
        atoms.calc = SinglePointCalculator(atoms, energy=-15.0, forces=np.zeros((len(atoms), 3)))
        out.append(atoms)
    ase.io.write(options.output, out)


def worker(options: argparse.Namespace) -> None:
    """Answer each line on stdin ``system kind repeats`` by a line of JSON with the least time in seconds."""
    import resource
    import time

    import ase.io
    import numpy as np
    import torch

    limit = int(options.memory_limit * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    torch.set_num_threads(options.threads)
    make = _ours if options.provider == "mlip-export" else _nequip
    calculator, model_call = make(options.package)
    rng = np.random.default_rng(0)
    systems: dict[str, Any] = {}
    for line in sys.stdin:
        system, kind, repeats = line.split()
        if system not in systems:
            atoms = ase.io.read(Path(options.data) / "systems" / f"{system}.xyz")
            if not atoms.cell.rank:
                atoms.center(vacuum=10.0)
            atoms.calc = calculator
            systems.clear()
            systems[system] = (
                atoms,
                atoms.positions.copy(),
                atoms.get_potential_energy(),
                atoms.get_forces(),
            )
            call = model_call(atoms)
            call()
        atoms, start, energy, forces = systems[system]
        best, asked, turns = float("inf"), time.perf_counter(), 0
        while turns < int(repeats) or time.perf_counter() < asked + options.seconds:
            turns += 1
            atoms.positions = start + 0.003 * rng.normal(size=start.shape)
            begin = time.perf_counter()
            if kind == "ase":
                atoms.get_forces()
            else:
                call()
            best = min(best, time.perf_counter() - begin)
        memory = int(next(x for x in open("/proc/self/status") if x.startswith("VmHWM")).split()[1]) / 1024
        answer = {"seconds": best, "atoms": len(atoms), "energy": float(energy), "peak_MiB": memory}
        answer["edges"] = getattr(calculator, "edge_count", 0)
        answer["force"] = float(np.abs(forces).sum())
        print(json.dumps(answer), flush=True)


def _ours(package: str) -> Any:
    import torch

    from mlip_export.ase import Calculator
    from mlip_export.chunks import evaluate

    calculator = Calculator(package)

    def model_call(atoms: Any) -> Any:
        potential = calculator.potential
        types = potential.types_of(atoms.get_chemical_symbols())
        pbc = tuple(map(bool, atoms.pbc))
        r, index = calculator.moving.at(
            torch.tensor(atoms.positions), torch.tensor(atoms.cell.array), pbc, types
        )
        count = len(potential.type_names)
        return lambda: evaluate(potential, r, index, types, count, calculator.max_edges)

    return calculator, model_call


def _nequip(package: str) -> Any:
    from nequip.integrations.ase import NequIPCalculator

    calculator = NequIPCalculator.from_compiled_model(package, device="cpu")

    def model_call(atoms: Any) -> Any:
        data = calculator.atoms_to_data(atoms)
        return lambda: calculator.call_model(dict(data))

    return calculator, model_call


def products(config: dict[str, Any]) -> list[tuple[int, int]]:
    """(in, out) of every matrix product per edge in the folded model: what the floor is made of."""
    s, u, rows = config["num_scalar_features"], config["num_tensor_features"], config["l_max"] + 1
    embed, width, depth = config["scalar_embed_width"], config["latent_width"], config["latent_depth"]
    dims = [(config["num_bessels"], config["embed_dim"]), (config["embed_dim"], embed)]
    dims += [(embed, embed)] * (config["scalar_embed_depth"] - 1) + [(embed, u * rows)]
    for layer in range(config["num_layers"]):
        dims += [(s * (layer + 1) + u, width)] + [(width, width)] * (depth - 1)
        if layer + 1 < config["num_layers"]:
            dims.append((width, s))
    return dims


def floor(options: argparse.Namespace) -> None:
    """Seconds per edge of the bare products, forward and gradient, as a worker (one line in, one line out)."""
    import time

    import torch

    from localgraph import load_model

    torch.set_num_threads(options.threads)
    model, _ = load_model(options.package)
    rows = 2048
    calls = []
    for a, b in products(model.to_config()):
        for i, o in ((a, b), (b, a)):
            x, w, out = torch.randn(rows, i), torch.randn(i, o), torch.empty(rows, o)
            weight = w.t().contiguous()
            packed = torch.ops.mkldnn._reorder_linear_weight(weight, rows)
            calls.append(
                (
                    lambda x=x, w=w, out=out: torch.mm(x, w, out=out),
                    lambda x=x, p=packed: torch.ops.mkldnn._linear_pointwise(x, p, None, "none", [], ""),
                )
            )
    best = [float("inf")] * len(calls)
    for line in sys.stdin:
        for _ in range(max(10, int(line.split()[2]))):
            for k, pair in enumerate(calls):
                for call in pair:
                    begin = time.perf_counter()
                    call()
                    best[k] = min(best[k], time.perf_counter() - begin)
        print(json.dumps({"seconds_per_edge": sum(best) / rows}), flush=True)


def timing(options: argparse.Namespace) -> None:
    """Ask all workers in turn; print a table and write the results as JSON, again after every row."""
    results: list[dict[str, Any]] = []
    for preset in options.presets:
        asked: set[tuple[str, int]] = {(p, t) for p in PROVIDERS for t in options.threads}
        last: dict[str, dict[str, Any]] = {}
        for system in options.systems:
            path = Path(options.data) / "systems" / f"{system}.xyz"
            atoms = int(path.open().readline())
            if atoms > LARGE:  # several workers of the larger systems do not fit into the memory
                asked = {(p, t) for p, t in asked if p not in last or t == last[p]["threads"]}
            asked = {
                (p, t)
                for p, t in asked
                if p not in last or last[p]["us_per_atom"] * atoms * 1e-6 < options.longest
            }
            workers = _workers(preset, asked, options)
            for kind in options.kinds:
                best: dict[Any, dict[str, Any]] = {}
                for _ in range(options.rounds):
                    for key, process in list(workers.items()):
                        if best.get(key, {}).get("seconds", 0) > 10 * fastest(best):
                            continue  # a provider with a thread count that is far from its better one
                        answer = _ask(process, system, kind, options.repeats)
                        if answer is None:
                            print(
                                f"{preset} {system}: {key[0]} with {key[1]} threads ended early", flush=True
                            )
                            del workers[key]
                            asked.discard(key)
                            continue
                        unit = "seconds" if "seconds" in answer else "seconds_per_edge"
                        best[key] = answer | {unit: min(answer[unit], best.get(key, answer)[unit])}
                results.append(_row(preset, system, kind, best))
                last |= {p: results[-1][p] for p in PROVIDERS if p in results[-1]}
                print(_line(results[-1]), flush=True)
                if options.output:
                    _write(Path(options.output), results)
            for process in workers.values():
                process.stdin.close()
                process.wait()


def _workers(preset: str, asked: set[tuple[str, int]], options: argparse.Namespace) -> dict[Any, Any]:
    folder, workers = Path(options.work).resolve() / preset, {}
    for provider, threads in sorted(asked):
        if provider == "mlip-export":
            package, python = folder / "model.pt2", sys.executable
            source = folder / "model.safetensors"
            workers["floor", threads] = _start(python, "floor", "floor", source, threads, options)
        else:
            package, python = folder / f"threads{threads}.nequip.pt2", options.nequip_python
        if package.exists():
            workers[provider, threads] = _start(python, "worker", provider, package, threads, options)
    return workers


def _write(path: Path, rows: list[dict[str, Any]]) -> None:
    from localgraph.files import replacing

    command = shlex.join(["python", "benchmarks/bench_inference.py", *sys.argv[1:]])
    with replacing(path) as file:
        file.write((json.dumps({"command": command, "rows": rows}, indent=1) + "\n").encode())


def fastest(best: dict[Any, dict[str, Any]]) -> float:
    """The least time of nequip-compile so far, seconds; infinite before the first."""
    times = [a["seconds"] for (provider, _), a in best.items() if provider == "nequip-compile"]
    return min(times, default=float("inf"))


def _start(
    python: str, mode: str, provider: str, package: Path, threads: int, options: argparse.Namespace
) -> Any:
    environment = os.environ | {"GLIBC_TUNABLES": MALLOC, "OMP_NUM_THREADS": str(threads)}
    command = [python, __file__, mode, "--provider", provider, "--package", str(package)]
    command += [
        "--threads",
        str(threads),
        "--memory-limit",
        str(options.memory_limit),
        "--seconds",
        str(options.seconds),
        "--data",
        options.data,
    ]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL, text=True, env=environment
    )


def _ask(process: Any, system: str, kind: str, repeats: int) -> dict[str, Any] | None:
    """An answer, or None of a worker that ended."""
    try:
        process.stdin.write(f"{system} {kind} {repeats}\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    line = process.stdout.readline()
    while line and not line.startswith("{"):
        line = process.stdout.readline()
    return json.loads(line) if line else None


def _row(preset: str, system: str, kind: str, best: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    row: dict[str, Any] = {"preset": preset, "system": system, "kind": kind}
    for provider in PROVIDERS:
        answers = {t: a for (p, t), a in best.items() if p == provider}
        if not answers:
            continue
        threads, answer = min(answers.items(), key=lambda x: x[1]["seconds"])
        row[provider] = {
            "threads": threads,
            "us_per_atom": answer["seconds"] / answer["atoms"] * 1e6,
            "peak_MiB": answer["peak_MiB"],
            "energy": answer["energy"],
            "seconds": {t: a["seconds"] for t, a in answers.items()},
        }
        if provider == "mlip-export":
            row["atoms"], row["edges"] = answer["atoms"], answer["edges"]
            floor = best["floor", threads]["seconds_per_edge"] * 1e6
            row["floor_us_per_edge"] = floor
            row["over_floor"] = row[provider]["us_per_atom"] * row["atoms"] / row["edges"] / floor
        else:
            row["ratio"] = row[provider]["us_per_atom"] / row["mlip-export"]["us_per_atom"]
    return row


def _line(row: dict[str, Any]) -> str:
    a, b = row["mlip-export"], row.get("nequip-compile")
    text = (
        f"{row['preset']:6} {row['system']:24} {row['kind']:5} {row['atoms']:5} atoms {row['edges']:7} edges | "
        f"mlip-export {a['us_per_atom']:8.1f} µs/atom ({a['threads']} thr, {a['peak_MiB']:.0f} MiB), "
        f"{row['over_floor']:.2f} × floor of {row['floor_us_per_edge']:.2f} µs/edge | nequip-compile "
    )
    if b is None:
        return text + "not run"
    return text + (
        f"{b['us_per_atom']:8.1f} ({b['threads']} thr, {b['peak_MiB']:.0f} MiB) | ratio {row['ratio']:.2f} | "
        f"energies differ {abs(a['energy'] - b['energy']) / row['atoms']:.1e} eV/atom"
    )


def main() -> None:
    """Dispatch to a subcommand."""
    here = Path(__file__).resolve().parents[1]
    data = os.environ.get("MLIP_SHARED_DATA", str(here.parent / "shared" / "data"))
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("prepare")
    p.add_argument("--presets", nargs="+", default=list(PRESETS))
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.set_defaults(run=prepare)
    p = commands.add_parser("frames")
    p.add_argument("output")
    p.set_defaults(run=frames)
    for name, run in (("worker", worker), ("floor", floor)):
        p = commands.add_parser(name)
        p.add_argument("--provider")
        p.add_argument("--package")
        p.add_argument("--threads", type=int)
        p.add_argument("--memory-limit", type=float)
        p.add_argument("--seconds", type=float, default=0.0)
        p.set_defaults(run=run)
    p = commands.add_parser("time")
    p.add_argument("--presets", nargs="+", default=list(PRESETS))
    p.add_argument("--systems", nargs="+", default=["water_24", "water_192", "water_648", "water_1536"])
    p.add_argument("--kinds", nargs="+", default=["model", "ase"], choices=["model", "ase"])
    p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=3, help="steps of a worker's turn, at least")
    p.add_argument("--seconds", type=float, default=1.0, help="a worker's turn lasts at least so long")
    p.add_argument(
        "--longest",
        type=float,
        default=60.0,
        help="leave out who would need more seconds for a step, as it scales",
    )
    p.add_argument("--memory-limit", type=float, default=18.0, help="GiB of address space of each worker")
    p.add_argument("--output", help="write the rows as JSON")
    p.set_defaults(run=timing)
    for p in commands.choices.values():
        p.add_argument("--data", default=data)
        p.add_argument("--work", default="bench-out")
        p.add_argument("--nequip-python", default=sys.executable)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
