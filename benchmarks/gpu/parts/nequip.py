"""Inference beside nequip-allegro with the same weights: its exported model, in turns with ours on the same edges."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import torch
from benchmarks.common import ROOT, write_text
from benchmarks.gpu.part import Part
from benchmarks.providers import INFERENCE, Call, Case
from benchmarks.systems import box, config, reference_model

import localgraph


def prepare(part: Part, commands: dict[str, list[str]]) -> None:
    """Run all commands at once; one that fails is written down with what it printed."""
    running = {
        name: subprocess.Popen(command, cwd=ROOT, stdin=-3, stdout=-1, stderr=-2, text=True)
        for name, command in commands.items()
    }
    for name, process in running.items():
        printed = process.communicate()[0]
        print(f"{name}\n{printed}", file=sys.stderr, flush=True)
        if process.returncode:
            part.section.setdefault("failed", {})[f"prepare {name}"] = printed[-3000:]
    part.save()


def compared(part: Part, ours: Call, theirs: Call) -> dict[str, Any]:
    """Return the least times of two calls in turn, their ratio, and the differences of energies and forces."""
    (e1, f1), (e2, f2) = ours(), theirs()
    times = [float("inf")] * 2
    for _ in range(part.pick(3, 1)):
        times = [min(t, part.milliseconds(call)) for t, call in zip(times, (ours, theirs), strict=True)]
    return {
        "ms": times,
        "ratio": times[1] / times[0],
        "energy_difference": abs(float(e1) - float(e2)),
        "force_difference": float((f1.cpu() - f2.cpu()).abs().max()),
    }


def compare(part: Part, cases: Mapping[tuple[str, int], Case], ours: str, theirs: str) -> None:
    """Write a row for every case of which both sides run."""
    rows = part.section.setdefault("rows", [])
    for (preset, atoms), case in cases.items():
        calls = {}
        for name in (ours, theirs):
            calls[name] = part.attempt(f"{preset} {atoms} {name}", lambda c=case, n=name: INFERENCE[n](c))
        if None in calls.values():
            continue
        row = part.attempt(f"{preset} {atoms}", lambda c=calls: compared(part, c[ours], c[theirs]))
        if row is not None:
            row["ms"] = {ours: row["ms"][0], theirs: row["ms"][1]}
            row["energy_difference"] /= atoms
            rows.append({"preset": preset, "atoms": atoms, "edges": case.system.edges, **row})
            part.save()


def main() -> None:
    """Compile both sides, then time them in turn."""
    part = Part("nequip")
    if importlib.util.find_spec("nequip") is None or importlib.util.find_spec("allegro") is None:
        part.section["skipped"] = "nequip and nequip-allegro are not installed"
        part.save()
        return
    presets, sizes = part.pick(("small", "medium"), ("small",)), part.pick((4, 6, 8, 12), (2,))
    device, theirs = part.device.type, part.pick("nequip-compile", "nequip-allegro")
    if part.tiny:  # nequip's compilation takes minutes: its eager model instead
        from allegro_model.nequip import from_nequip

        source = part.work / "nequip_small" / "model.safetensors"
        write_text(source.with_name("made"), "")
        localgraph.save_model(source, from_nequip(reference_model(config("small", **part.changes()))))
    else:
        command = [sys.executable, "-m", "benchmarks.bench_inference", "prepare", "--threads", "1"]
        command += ["--work", str(part.work / "nequip"), "--device", device, "--presets"]
        prepare(part, {preset: [*command, preset] for preset in presets})
    cases = {}
    for preset in presets:
        folder = part.work / ("nequip_small" if part.tiny else f"nequip/{preset}")
        for n in sizes:
            cases[preset, box(n).atoms] = Case(
                preset,
                box(n),
                source=folder / "model.safetensors",
                exported=folder / "model.pt2",
                reference=folder / "threads1.nequip.pt2",
                device=device,
            )
    ours = part.pick("exported", "eager")  # the part export compiles, in a tiny day too
    for preset in presets if not part.tiny else ():
        part.attempt(f"export {preset}", lambda p=preset: cases[p, box(sizes[0]).atoms].exported)
    part.turn()
    compare(part, cases, ours, theirs)
    torch.set_float32_matmul_precision("highest")


if __name__ == "__main__":
    main()
