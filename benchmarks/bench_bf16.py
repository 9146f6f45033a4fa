"""Training with hidden layers in bfloat16 beside float32: errors, forces as derivatives, drift, step time.

    python -m benchmarks.bench_bf16 --data ../shared/data --folder tables-out/bf16 --json benchmarks/results/bf16.json

The same small model is trained from the same weights on the same batches for as many steps. Of each trained model:
errors on the frames held out (meV/atom, meV/Å); forces against the model with the same weights and float32 layers;
work against energy, ΔE + ∫F·dx (Simpson, over lines between random displacements of frames held out), meV per atom,
which a rounded energy allows where finite differences are all noise; and the drift of the total energy in NVE dynamics
at 300 K. Times are those of an eager step on one batch, in processor time of one thread.
"""

from __future__ import annotations

import argparse
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms, units
from benchmarks.common import fit, least_times, write_record
from numpy.typing import NDArray

import localgraph
from mlip_train.config import LossConfig, SourceConfig
from mlip_train.data.batches import Batch, collate
from mlip_train.data.build import build_table
from mlip_train.steps.eager import EagerStep

SETS = {"acac": "molecules/acac/train_300K.xyz", "aspirin": "molecules/rmd17_aspirin_train_01.xyz"}
HELD = 50
"""Frames held out."""
MODEL = {"cutoff": 5.0, "l_max": 1, "num_layers": 1, "num_scalar_features": 16, "num_tensor_features": 8}
WIDTH = 64
FRAMES, POINTS, DISPLACED = 8, 33, 0.05
"""Lines of the work, their points, and the root mean square of displacements, Å."""
STEP, PICOSECONDS = 0.5, 0.5
"""Of the dynamics: fs, ps."""


def train(path: Path, folder: Path, mlp_dtype: str | None, steps: int, seed: int) -> Path:
    """Train from a seed and return the folder of the run."""
    source: dict[str, Any] = {"path": str(path.resolve()), "shuffle": 0}
    plain = {
        "output": str(folder.resolve()),
        "seed": seed,
        "model": {"config": MODEL | {"latent_width": WIDTH, "mlp_dtype": mlp_dtype}},
        "data": {"train": [source | {"take": f":-{HELD}"}], "validation": [source | {"take": f"-{HELD}:"}]},
        "batch": {"frames": 5},
        "stop": {"steps": steps},
        "compile": {"mode": "eager"},
        "hardware": {"threads": 1, "accelerator": "cpu"},
        "logging": {"report": False},
    }
    folder.mkdir(parents=True, exist_ok=True)
    file = folder.with_suffix(".yaml")
    file.write_text(json.dumps(plain))
    fit(file)
    return folder


def with_layers(model: Any, mlp_dtype: str | None) -> Any:
    """Return the model with the same weights and hidden layers in another dtype."""
    other = type(model).from_config(model.to_config() | {"mlp_dtype": mlp_dtype})
    other.load_state_dict(model.state_dict())
    return other


def energy_forces(
    model: Any, atoms: Atoms, positions: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """Return energy, eV, and forces, eV/Å."""
    types = localgraph.types_of(torch.from_numpy(atoms.numbers), model.type_names)
    found = localgraph.evaluate(model, torch.from_numpy(positions), types)
    return float(found.energies.sum()), found.forces.numpy()


def works(model: Any, frames: list[Atoms]) -> tuple[float, float]:
    """Return root mean squares of ΔE + ∫F·dx and of ΔE over lines, meV per atom."""
    rng = np.random.default_rng(0)
    weights = np.ones(POINTS)
    weights[1:-1:2], weights[2:-1:2] = 4.0, 2.0
    weights /= 3.0 * (POINTS - 1)
    left, whole = [], []
    for atoms in frames:
        a, b = (atoms.positions + DISPLACED * rng.normal(size=atoms.positions.shape) for _ in range(2))
        found = [energy_forces(model, atoms, a + t * (b - a)) for t in np.linspace(0.0, 1.0, POINTS)]
        work = sum(w * float((forces * (b - a)).sum()) for w, (_, forces) in zip(weights, found, strict=True))
        change = found[-1][0] - found[0][0]
        left.append((change + work) / len(atoms))
        whole.append(change / len(atoms))
    return tuple(1e3 * float(np.sqrt(np.mean(np.square(x)))) for x in (left, whole))  # type: ignore[return-value]


def drift(model: Any, atoms: Atoms) -> float:
    """Return the slope of the total energy in NVE dynamics (velocity Verlet) from 300 K, meV per atom and ps."""
    rng = np.random.default_rng(0)
    masses = atoms.get_masses()[:, None]
    dt, x = STEP * units.fs, atoms.positions.copy()
    v = rng.normal(size=x.shape) * np.sqrt(units.kB * 300.0 / masses)
    v -= (masses * v).sum(0) / masses.sum()
    energy, forces = energy_forces(model, atoms, x)
    totals = []
    for _ in range(round(1e3 * PICOSECONDS / STEP)):
        v += 0.5 * dt * forces / masses
        x = x + dt * v
        energy, forces = energy_forces(model, atoms, x)
        v += 0.5 * dt * forces / masses
        totals.append(energy + 0.5 * float((masses * v * v).sum()))
    times = STEP * 1e-3 * np.arange(1, len(totals) + 1)
    return 1e3 * float(np.polyfit(times, totals, 1)[0]) / len(atoms)


def held_out(path: Path, model: Any, folder: Path) -> tuple[list[Atoms], Batch]:
    """Return frames held out, and five of them as a batch."""
    source = SourceConfig(path=str(path.resolve()), shuffle=0, take=f"-{HELD}:")
    table = build_table([source], model.type_names, model.cutoffs, folder / "cache")
    frames = [table.frame(row) for row in range(FRAMES)]
    return [Atoms(f.numbers, f.positions) for f in frames], collate(table, np.arange(5))


def step(eager: EagerStep, batch: Batch) -> None:
    """Compute loss and gradients."""
    eager(batch, torch.tensor([1.0, 1.0, 0.0], dtype=torch.float64)).loss.backward()


def main() -> None:
    """Train, measure, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for name in arguments.sets:
        path = arguments.data / SETS[name]
        steps = {}
        for layers, seed in (("float32", 0), ("bfloat16", 0), ("float32", 1)):
            mlp_dtype = None if layers == "float32" else layers
            folder = train(
                path, arguments.folder / f"{name}_{layers}_{seed}", mlp_dtype, arguments.steps, seed
            )
            overall = json.loads((folder / "errors.json").read_text())["validation"]["overall"]
            model, _ = localgraph.load_model(folder / "model.safetensors")
            row = {"data": name, "layers": layers, "seed": seed, "steps": arguments.steps}
            row |= {k: 1e3 * overall[f"{k}_rmse"] for k in ("energy_per_atom", "forces")}
            held, batch = held_out(path, model, folder)
            exact = with_layers(model, None)
            found = [[energy_forces(m, a, a.positions)[1] for a in held] for m in (model, exact)]
            rounding = np.concatenate(found[0]) - np.concatenate(found[1])
            row["rounding of forces"] = 1e3 * float(np.sqrt(np.mean(rounding**2)))
            row["work"], row["energy changes"] = works(model, held)
            row["drift"] = drift(model, held[0])
            rows.append(row)
            if seed == 0:
                steps[layers] = functools.partial(step, EagerStep(model, LossConfig()), batch)
        for layers, least in least_times(steps, 10.0).items():
            next(r for r in rows if r["data"] == name and r["layers"] == layers)["ms"] = 1e3 * least.cpu
        for row in rows[-3:]:
            print(json.dumps(row), flush=True)
        write_record(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
