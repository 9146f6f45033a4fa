"""Training steps by compilation and precision on batches like SPICE's, beside nequip-allegro."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from benchmarks.gpu.part import Part
from benchmarks.gpu.profiles import seen
from benchmarks.providers import TRAINING, Case
from benchmarks.systems import system_of, tensors_of, water
from torch import Tensor

Batch = dict[str, Tensor]
PRECISIONS = {"float32": "highest", "TF32": "high"}
"""Torch's names of the precisions of products."""
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
    return {name: tensor.to(device) for name, tensor in tensors_of(made).items()}


def first_of(
    module: Any, loss_of: Callable[[Batch], Tensor], given: Batch, precision: str
) -> dict[str, float]:
    """Return the loss and the gradient's norm of a batch before any step."""
    with products(precision):
        module.zero_grad()
        loss = loss_of(given)
        loss.backward()
    gradients = [p.grad.double().square().sum() for p in module.parameters() if p.grad is not None]
    return {"loss": float(loss.detach()), "gradient": float(torch.stack(gradients).sum().sqrt())}


@contextlib.contextmanager
def products(precision: str) -> Iterator[None]:
    """Set the precision of products of float32 matrices."""
    torch.set_float32_matmul_precision(PRECISIONS[precision])
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(PRECISIONS["float32"])


class Step(NamedTuple):
    """A training step, compiled, and what it returned first by precision."""

    run: Callable[[Batch], None]
    first: dict[str, dict[str, float]]
    build_s: float


def step_of(name: str, case: Case, given: Batch) -> Step:
    """Return a training step with its optimizer, compiled and run without a change of parameters."""
    begin = time.perf_counter()
    module, loss_of = TRAINING[name](case)
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-4)

    def step(batch: Batch) -> None:
        optimizer.zero_grad(set_to_none=True)
        loss_of(batch).backward()
        optimizer.step()

    precisions = PRECISIONS if name == "full" else ("float32",)
    first = {precision: first_of(module, loss_of, given, precision) for precision in precisions}
    return Step(step, first, time.perf_counter() - begin)


def measure(part: Part, built: dict[tuple[str, str], Step], batches: dict[int, Batch]) -> None:
    """Time steps on the same batches; write every row at once."""
    rows = part.section.setdefault("rows", [])
    for (preset, name), step in built.items():
        for precision, first in step.first.items():
            for frames, given in sorted(batches.items(), reverse=True):
                row = {"preset": preset, "frames": frames, "edges": given["edge_index"].shape[1]}
                row |= {"step": name, "precision": precision, **first, "build_s": step.build_s}
                rows.append(row)
                label, call = f"{preset} {name} {precision} {frames}", partial(step.run, given)
                with products(precision):
                    row["ms"] = part.attempt(label, lambda c=call: part.milliseconds(c, 2.0, 50))
                    part.save()
                    row["peak_bytes"] = part.attempt(f"{label} memory", lambda c=call: part.peak_bytes(c))
                part.save()


def main() -> None:
    """Build steps (``--steps``), then time them, and profile the first on the largest batch."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--steps", nargs="+", help="PRESET/NAME of benchmarks.providers.TRAINING")
    parser.add_argument("--name", default="train", help="of the section")
    options, rest = parser.parse_known_args()
    part = Part(options.name, rest)
    theirs = part.pick("compiled", "eager")
    steps = options.steps or ["small/full", "small/eager"]
    if part.tiny:
        steps = ["small/full", "small/forces", "small/eager", f"small/nequip-allegro {theirs}"]
    if importlib.util.find_spec("allegro") is None and any("nequip" in name for name in steps):
        part.section["skipped"] = "nequip-allegro is not installed"
        steps = [name for name in steps if "nequip" not in name]
    batches = {n: batch(n, part.device) for n in part.pick((64, 256), (2, 3))}
    built = {}
    for preset, name in (step.split("/") for step in steps):
        case = Case(preset, device=part.device.type, **part.changes())
        given = min(batches.items())[1]
        made = part.attempt(f"{preset} {name}", lambda n=name, c=case, b=given: step_of(n, c, b))
        if made:
            built[preset, name] = made
    part.turn()
    measure(part, built, batches)
    if built:
        (preset, name), step = next(iter(built.items()))
        label, given = f"train_{preset}_{name.replace(' ', '_')}", max(batches.items())[1]
        found = part.attempt("profile", lambda: seen(part, label, partial(step.run, given)))
        part.section["profile"] = found and {"step": f"{preset} {name}", **found}
    part.save()


if __name__ == "__main__":
    main()
