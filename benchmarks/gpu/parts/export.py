"""Exported models: errors against float64 on the CPU, memory per edge, and the time of a step by host and size."""

from __future__ import annotations

import argparse
import time
from importlib.util import find_spec
from typing import Any

import torch
from benchmarks.gpu.part import Part
from benchmarks.providers import INFERENCE, Case
from benchmarks.systems import PRESETS, box, model

import localgraph

HOSTS = {"exported": "mlip_export", "ase": "ase", "torch-sim": "torch_sim"}
"""What a step is timed in, with the module that it needs; those not installed are left out."""


def exact(case: Case) -> tuple[torch.Tensor, torch.Tensor]:
    """Return energies and forces of a case in float64 on the CPU by the eager model."""
    settings = {**case.model.to_config(), "dtype": "float64"}
    double = type(case.model).from_config(settings)
    double.load_state_dict(case.model.state_dict())
    system = case.system
    energies, g = localgraph.energies_and_edge_forces(
        double, system.vectors, system.graph.edge_index, system.types
    )
    return energies.detach(), localgraph.forces(g, system.graph.edge_index, system.atoms)


def errors(case: Case, reference: tuple[torch.Tensor, torch.Tensor]) -> dict[str, float]:
    """Return the errors of an exported model per atom and force component, with the scale of the forces."""
    energy, forces = INFERENCE["exported"](case)()
    difference = (forces.cpu() - reference[1]).abs()
    return {
        "energy_eV_per_atom": abs(float(energy) - float(reference[0].sum())) / case.system.atoms,
        "force_rms": float(difference.square().mean().sqrt()),
        "force_max": float(difference.max()),
        "force_scale": float(reference[1].square().mean().sqrt()),
    }


def measure(part: Part, preset: str, cases: dict[int, Case], references: dict[int, Any]) -> dict[str, Any]:
    """Measure one preset."""
    found: dict[str, Any] = {"error": {}, "ms": {}}
    for precision in ("highest", "high"):
        torch.set_float32_matmul_precision(precision)
        name = "tf32" if precision == "high" else "float32"
        for atoms, reference in references.items():
            label = f"{preset} {name} {atoms}"
            found["error"][f"{name} {atoms}"] = part.attempt(
                label, lambda a=atoms, r=reference: errors(cases[a], r)
            )
        for atoms, case in cases.items():
            hosts = HOSTS if precision == "highest" else {"exported": "mlip_export"}
            for host in (host for host, needs in hosts.items() if find_spec(needs)):
                label = f"{preset} {atoms} {host} {name}"
                call = part.attempt(label, lambda c=case, h=host: INFERENCE[h](c))
                if call is None:
                    continue
                timed = part.attempt(label, lambda c=call: part.milliseconds(c))
                found["ms"].setdefault(str(atoms), {})[f"{host} {name}"] = timed
                if host == "exported" and precision == "highest":
                    peak = part.attempt(f"{label} memory", lambda c=call: part.peak_bytes(c))
                    found["peak_bytes_per_edge"] = peak and peak / case.system.edges
    torch.set_float32_matmul_precision("highest")
    return found


def main() -> None:
    """Compile one preset (``--preset``), then measure it."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", default="small", choices=PRESETS)
    options, rest = parser.parse_known_args()
    part, preset = Part(f"export_{options.preset}", rest), options.preset
    device = part.device.type
    path = part.work / f"{preset}_{device}.pt2"
    sizes = part.pick((4, 6, 8, 12, 20) if preset != "large" else (4, 6, 8, 12), (2,))
    sample = model(preset, **part.changes())
    begin = time.perf_counter()
    if not path.exists():
        import mlip_export

        mlip_export.compile(sample, path, device=device)
    part.section["build_s"] = time.perf_counter() - begin
    cases = {
        box(n).atoms: Case(preset, box(n), exported=path, device=device, **part.changes()) for n in sizes
    }
    references = {atoms: exact(case) for atoms, case in cases.items() if atoms <= part.pick(700, 24)}
    part.turn()
    part.section |= measure(part, preset, cases, references)
    part.save()


if __name__ == "__main__":
    main()
