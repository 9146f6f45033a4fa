"""Inference beside nequip-compile: one imported model, both exports, one run, best times of alternating rounds.

    python -m benchmarks.bench_inference prepare --work out --presets small medium large --nequip-python PYTHON
    python -m benchmarks.bench_inference time --work out --systems water_24 water_192 --nequip-python PYTHON

``prepare`` lets nequip train each preset for one step (its checkpoint is what nequip-compile reads), imports that
checkpoint with ``allegro_model.nequip.from_nequip``, and compiles both. PYTHON has nequip, nequip-allegro and our
packages; this interpreter has mlip-export.

``time`` starts one worker process per provider and thread count and asks them in turn, round after round, for a step
of energy and forces. Each is timed in two ways: ``ase`` moves the atoms by a few thousandths of an Å and calls the
calculator (its own neighbor list included); ``model`` calls the compiled model on a graph found before. A turn is at
least ``--repeats`` steps and ``--seconds``. The least time of all rounds is kept, and each provider's better thread
count (over 500 atoms only the one that was better on the system before is asked; put systems in order of size). Every
worker keeps freed memory mapped (page faults otherwise take as long as the model).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, ROOT, Worker, bounded, write_record
from benchmarks.systems import PRESETS, config, reference_settings

PROVIDERS = ("mlip-export", "nequip-compile")
KINDS = {"mlip-export": {"ase": "ase", "model": "exported"}}
KINDS["nequip-compile"] = {"ase": "nequip-compile ase", "model": "nequip-compile"}
LARGE = 500
WORKER = str(ROOT / "benchmarks" / "worker.py")
SHIFTS = {"H": -1.0, "C": -2.0, "N": -2.5, "O": -3.0, "S": -4.0}
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
  model: {model}
"""
IMPORT = """
import sys, localgraph
from allegro_model.nequip import from_nequip
localgraph.save_model(sys.argv[2], from_nequip(sys.argv[1]), {"source": "nequip-allegro"})
"""


def write_frames(path: Path) -> None:
    """Write four small frames with made-up labels, for the checkpoint alone."""
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
    ase.io.write(path, out)


def prepare(options: argparse.Namespace) -> None:
    """Train, import and compile each preset; what exists already is kept."""
    import json

    for preset in options.presets:
        folder = Path(options.work).resolve() / preset
        folder.mkdir(parents=True, exist_ok=True)
        python = options.nequip_python
        if not (folder / "last.ckpt").exists():
            settings = reference_settings(config(preset, avg_num_neighbors=24.0, energy_shifts=SHIFTS))
            model = {"_target_": "allegro.model.AllegroModel", **settings}
            (folder / "train.yaml").write_text(TRAIN.format(folder=folder, model=json.dumps(model)))
            write_frames(folder / "frames.xyz")
            _run([*nequip_command(python, "train"), "-cp", str(folder), "-cn", "train"], cwd=folder)
        source = folder / "model.safetensors"
        if not source.exists():
            _run([python, "-c", IMPORT, str(folder / "last.ckpt"), str(source)])
        for threads in options.threads:  # its exports hold the thread count they were compiled with
            target = folder / f"threads{threads}.nequip.pt2"
            if not target.exists():
                command = [*nequip_command(python, "compile"), "--mode", "aotinductor"]
                command += ["--device", options.device]
                command += ["--target", "ase", str(folder / "last.ckpt"), str(target)]
                try:
                    _run(command, cwd=folder, env=os.environ | bounded(threads))
                except SystemExit as failure:  # it compares its export with eager and may refuse it
                    print(f"{preset}, {threads} threads: {str(failure)[-300:]}", flush=True)
        if not (folder / "model.pt2").exists():
            command = [sys.executable, "-m", "mlip_export.cli", "compile", str(source)]
            _run([*command, "-o", str(folder / "model.pt2"), "--device", options.device])


def nequip_command(python: str, name: str) -> list[str]:
    """Return nequip's command by its module: scripts are not beside the interpreter after ``pip --target``."""
    return [python, "-m", f"nequip.scripts.{name}"]


def _run(command: list[str], **kwargs: Any) -> None:
    done = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def timing(options: argparse.Namespace) -> None:
    """Ask all workers in turn; print a table and write the results as JSON, again after every row."""
    results: list[dict[str, Any]] = []
    seen: dict[str, dict[str, str]] = {}
    for preset in options.presets:
        asked: set[tuple[str, int]] = {(p, t) for p in PROVIDERS for t in options.threads}
        last: dict[str, dict[str, Any]] = {}
        for system in options.systems:
            atoms = int((options.data / "systems" / f"{system}.xyz").open().readline())
            if atoms > LARGE:  # several workers of the larger systems do not fit into the memory
                asked = {(p, t) for p, t in asked if p not in last or t == last[p]["threads"]}
            short = {p for p in last if last[p]["us_per_atom"] * atoms * 1e-6 < options.longest}
            asked = {(p, t) for p, t in asked if p not in last or p in short}
            workers = start(preset, asked, options)
            for kind in options.kinds:
                best: dict[Any, dict[str, Any]] = {}
                for _ in range(options.rounds):
                    for key, worker in list(workers.items()):
                        provider, threads = key
                        if best.get(key, {}).get("seconds", 0) > 10 * fastest(best):
                            continue  # a provider with a thread count that is far from its better one
                        question = dict(system=system, repeats=options.repeats, seconds=options.seconds)
                        got = worker.ask(kind=KINDS.get(provider, {}).get(kind), **question)
                        if got is None:
                            print(
                                f"{preset} {system}: {provider} with {threads} threads ended early",
                                flush=True,
                            )
                            del workers[key]
                            asked.discard(key)
                            continue
                        seen.setdefault(provider, got.pop("versions", {}))
                        unit = "seconds" if "seconds" in got else "seconds_per_edge"
                        best[key] = got | {unit: min(got[unit], best.get(key, got)[unit])}
                results.append(row_of(preset, system, kind, best))
                last |= {p: results[-1][p] for p in PROVIDERS if p in results[-1]}
                print(line_of(results[-1]), flush=True)
                write_record(options.output, provider_versions=seen, rows=results)
            for worker in workers.values():
                worker.close()


def start(preset: str, asked: set[tuple[str, int]], options: argparse.Namespace) -> dict[Any, Worker]:
    """Start the workers whose exports exist, and one for the floor beside each of ours."""
    folder, workers = Path(options.work).resolve() / preset, {}
    for provider, threads in sorted(asked):
        source, ours = folder / "model.safetensors", provider == "mlip-export"
        exported = folder / ("model.pt2" if ours else f"threads{threads}.nequip.pt2")
        arguments = ["--threads", threads, "--memory-limit", options.memory_limit, "--data", options.data]
        arguments += ["--source", source, "--exported" if ours else "--reference", exported]
        if ours:
            workers["floor", threads] = Worker(WORKER, ["floor", *arguments], threads)
        if exported.exists():
            python = sys.executable if ours else options.nequip_python
            workers[provider, threads] = Worker(WORKER, ["inference", *arguments], threads, python)
    return workers


def fastest(best: dict[Any, dict[str, Any]]) -> float:
    """Return the least time of nequip-compile so far, seconds; infinite before the first."""
    times = [a["seconds"] for (provider, _), a in best.items() if provider == "nequip-compile"]
    return min(times, default=float("inf"))


def row_of(preset: str, system: str, kind: str, best: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Return a row of the record from the best answers by provider and threads."""
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


def line_of(row: dict[str, Any]) -> str:
    """Return a row as a line of text."""
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
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("prepare")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.set_defaults(run=prepare)
    p = commands.add_parser("time")
    p.add_argument("--systems", nargs="+", default=["water_24", "water_192", "water_648", "water_1536"])
    p.add_argument("--kinds", nargs="+", default=["model", "ase"], choices=["model", "ase"])
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--repeats", type=int, default=3, help="steps of a worker's turn, at least")
    p.add_argument("--seconds", type=float, default=1.0, help="a worker's turn lasts at least so long")
    longest = "leave out providers that would need more seconds for a step, as it scales"
    p.add_argument("--longest", type=float, default=60.0, help=longest)
    p.add_argument("--memory-limit", type=float, default=18.0, help="GiB of address space of each worker")
    p.add_argument("--output", type=Path, help="write the rows as JSON")
    p.set_defaults(run=timing)
    for p in commands.choices.values():
        p.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
        p.add_argument("--threads", type=int, nargs="+", default=[1, 2])
        p.add_argument("--data", type=Path, default=DATA)
        p.add_argument("--work", default="bench-out")
        p.add_argument("--nequip-python", default=sys.executable)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
