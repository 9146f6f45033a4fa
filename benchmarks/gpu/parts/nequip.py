"""Inference beside nequip-allegro with the same weights: its exported model, in turns with ours on the same edges."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import torch
from benchmarks.common import ROOT, write_text
from benchmarks.gpu.part import Part
from benchmarks.providers import INFERENCE, Case
from benchmarks.systems import box, config, reference_model

import localgraph


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
        command += ["--work", str(part.work / "nequip"), "--device", device, "--presets", *presets]
        part.attempt(
            "prepare", lambda: subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
        )
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
    rows = part.section.setdefault("rows", [])
    for (preset, atoms), case in cases.items():
        calls = {}
        for name in (ours, theirs):
            calls[name] = part.attempt(f"{preset} {atoms} {name}", lambda c=case, n=name: INFERENCE[n](c))
        if None in calls.values():
            continue
        (e1, f1), (e2, f2) = (calls[name]() for name in (ours, theirs))
        times: dict[str, float] = {}
        for _ in range(part.pick(3, 1)):  # in turn
            for name, call in calls.items():
                times[name] = min(part.milliseconds(call), times.get(name, float("inf")))
        row = {"preset": preset, "atoms": atoms, "edges": case.system.edges, "ms": times}
        row["ratio"] = times[theirs] / times[ours]
        row["energy_difference"] = abs(float(e1) - float(e2)) / atoms
        row["force_difference"] = float((f1.cpu() - f2.cpu()).abs().max())
        rows.append(row)
        part.save()
    torch.set_float32_matmul_precision("highest")


if __name__ == "__main__":
    main()
