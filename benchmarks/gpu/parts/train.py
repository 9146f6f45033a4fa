"""Training steps by compilation on batches like SPICE's, beside nequip-allegro, and a fit with its loader."""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from benchmarks.common import epoch_seconds, history, write_json
from benchmarks.common import fit as train
from benchmarks.gpu.part import Part
from benchmarks.providers import TRAINING, Case
from benchmarks.systems import system_of, water
from torch import Tensor

Batch = dict[str, Tensor]
MOLECULES = 11
"""Of a frame: 33 atoms and about 760 edges at 6 Å, as SPICE's frames have on average."""


def droplets(frames: int) -> list[tuple[np.ndarray, list[str]]]:
    """Return droplets of water cut from a box."""
    positions, _ = water(12)
    molecules = positions.reshape(-1, 3, 3)
    found = []
    for seed in range(frames):
        center = molecules[np.random.default_rng(seed).integers(len(molecules)), 0]
        near = np.argsort(np.linalg.norm(molecules[:, 0] - center, axis=1))[:MOLECULES]
        found.append((molecules[near].reshape(-1, 3), ["O", "H", "H"] * MOLECULES))
    return found


def batch(frames: int, device: torch.device) -> Batch:
    """Return one batch of droplets with random labels, as the training step takes it, and its edge index."""
    from mlip_train import Batch as Tensors

    systems = [system_of(s, x, np.zeros((3, 3)), [False] * 3) for x, s in droplets(frames)]
    g, f64 = torch.Generator().manual_seed(0), torch.float64
    counts = [system.atoms for system in systems]
    shift = np.cumsum([0, *counts[:-1]]).tolist()
    total, zeros = sum(counts), torch.zeros(frames, dtype=torch.int64)
    made = Tensors(
        positions=torch.cat([s.positions for s in systems]),
        edges=torch.cat([s.graph.edge_index + k for s, k in zip(systems, shift, strict=True)], 1).int(),
        shifts=torch.cat([s.graph.shifts for s in systems]).short(),
        cells=torch.zeros(frames, 3, 3, dtype=f64),
        types=torch.cat([s.types for s in systems]),
        frame=torch.repeat_interleave(torch.arange(frames), torch.tensor(counts)),
        atoms=torch.tensor(counts, dtype=f64),
        volume=torch.ones(frames, dtype=f64),
        energy=torch.randn(frames, generator=g, dtype=f64),
        forces=torch.randn(total, 3, generator=g, dtype=f64),
        stress=torch.zeros(frames, 3, 3, dtype=f64),
        energy_weight=torch.ones(frames, dtype=f64),
        force_weight=torch.ones(total, dtype=f64),
        stress_weight=torch.zeros(frames, dtype=f64),
        norms=torch.tensor([float(frames), 3.0 * total, 1.0], dtype=f64),
        subset=zeros,
        row=torch.arange(frames),
    )
    tensors = {**made._asdict(), "edge_index": made.edge_index}
    return {name: tensor.to(device) for name, tensor in tensors.items()}


def step_of(name: str, case: Case, given: Batch) -> tuple[Callable[[Batch], None], dict[str, Any]]:
    """Return a training step with its optimizer, compiled and run once, and its first loss and gradient norm."""
    begin = time.perf_counter()
    module, loss_of = TRAINING[name](case)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(batch).backward()
        optimizer.step()

    module.zero_grad()
    loss = loss_of(given)
    loss.backward()
    gradients = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
    first = {"loss": float(loss.detach()), "gradient": float(torch.stack(gradients).sum().sqrt())}
    return step, first | {"build_s": time.perf_counter() - begin}


def fit(part: Part) -> dict[str, float]:
    """Run ``mlip-train fit`` on droplets and return its steps per second, loader included."""
    import ase
    import ase.io
    from ase.calculators.singlepoint import SinglePointCalculator

    folder, frames = part.work / "fit", part.pick(2048, 8)
    folder.mkdir(exist_ok=True)
    rng, images = np.random.default_rng(0), []
    for positions, symbols in droplets(frames):
        atoms = ase.Atoms(symbols, positions)
        forces = rng.normal(size=positions.shape)
        atoms.calc = SinglePointCalculator(atoms, energy=float(rng.normal()), forces=forces)
        images.append(atoms)
    ase.io.write(folder / "frames.xyz", images)
    size = part.pick(256, 4)
    config = {
        "output": str(folder / "run"),
        "model": {"name": "allegro", "config": {"cutoff": 6.0, **part.changes()}},
        "data": {"train": [{"path": str(folder / "frames.xyz")}], "validation_fraction": 0.25},
        "batch": {"frames": size},
        "stop": {"epochs": part.pick(6, 2)},
        "compile": {"mode": part.pick("full", "eager")},
        "hardware": {
            "accelerator": part.pick("gpu", "cpu") if part.device.type == "cuda" else "cpu",
            "devices": 1,
        },
        "logging": {"progress": False},
    }
    write_json(folder / "fit.yaml", config)
    train(folder / "fit.yaml")
    rows = history(folder / "run")
    steps = rows[-1]["step"] / len(rows)
    return {"frames": frames, "batch": size, "steps_per_s": steps / min(epoch_seconds(rows))}


def main() -> None:
    """Build every step, then time them on the same batches."""
    part = Part("train")
    steps = part.pick(
        [("small", "full"), ("small", "forces"), ("medium", "full")], [("small", "full"), ("small", "forces")]
    )
    steps += [(preset, "eager") for preset in part.pick(("small", "medium"), ("small",))]
    if importlib.util.find_spec("allegro") is not None:
        steps.append(("small", part.pick("nequip-allegro compiled", "nequip-allegro eager")))
    batches = {n: batch(n, part.device) for n in part.pick((64, 256), (2, 3))}
    built = {}
    for preset, name in steps:
        case = Case(preset, device=part.device.type, **part.changes())
        given = next(iter(batches.values()))
        made = part.attempt(f"{preset} {name}", lambda n=name, c=case, b=given: step_of(n, c, b))
        if made:
            built[preset, name] = made
    part.turn()
    rows = part.section.setdefault("rows", [])
    for (preset, name), (step, first) in built.items():
        for frames, given in batches.items():
            call = partial(step, given)
            row = {
                "preset": preset,
                "frames": frames,
                "edges": given["edge_index"].shape[1],
                "step": name,
                **first,
            }
            label = f"{preset} {name} {frames}"
            row["ms"] = part.attempt(label, lambda c=call: part.milliseconds(c, 2.0, 50))
            row["peak_bytes"] = part.attempt(f"{label} memory", lambda c=call: part.peak_bytes(c))
            rows.append(row)
            part.save()
    part.section["fit"] = part.attempt("fit", lambda: fit(part))
    part.save()


if __name__ == "__main__":
    main()
