"""Exported models: errors against float64 on the CPU, memory per edge, and the time of a step by host and size."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import torch
from benchmarks.gpu.part import Part
from benchmarks.providers import INFERENCE, Case, summed
from benchmarks.systems import PRESETS, box, model

import localgraph

HOSTS = {"exported": "mlip_export", "cuda graph": "mlip_export", "ase": "ase", "torch-sim": "torch_sim"}
"""What a step is timed in, with the module that it needs; those not installed are left out."""
LAUNCHED = 1536
"""Atoms of the largest system that is replayed as a CUDA graph: larger ones do not wait for launches."""


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


def replayed(case: Case) -> Any:
    """Return a call of an exported model as a CUDA graph, on a CPU by what stands for it in tests."""
    import mlip_export
    from mlip_export.captured import Captured
    from mlip_export.loaded import shared_function
    from mlip_export.recording import Repeated
    from mlip_export.runtime import EdgePotential

    if case.device.type == "cuda":
        potential = mlip_export.load(case.exported, cuda_graph=True)
    else:
        plain = mlip_export.load(case.exported)
        function = shared_function(case.exported, plain.device, single_threaded=True)
        potential = EdgePotential(
            Captured(function, plain.metadata, plain.device, Repeated), plain.metadata, plain.device
        )
    return summed(case, potential)


PROVIDERS = INFERENCE | {"cuda graph": replayed}


def errors(
    case: Case, reference: tuple[torch.Tensor, torch.Tensor], host: Callable[[Case], Any]
) -> dict[str, float]:
    """Return the errors of an exported model per atom and force component, with the scale of the forces."""
    call = host(case)
    energy, forces = (call(), call())[1]  # a graph is captured in the first
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
                label, lambda a=atoms, r=reference: errors(cases[a], r, INFERENCE["exported"])
            )
            if precision == "highest":
                found["error"][f"cuda graph {atoms}"] = part.attempt(
                    f"{label} cuda graph", lambda a=atoms, r=reference: errors(cases[a], r, replayed)
                )
        for atoms, case in cases.items():
            hosts = HOSTS if precision == "highest" else {"exported": "mlip_export"}
            for host in (host for host, needs in hosts.items() if find_spec(needs)):
                if host == "cuda graph" and atoms > LAUNCHED:
                    continue
                label = f"{preset} {atoms} {host} {name}"
                call = part.attempt(label, lambda c=case, h=host: PROVIDERS[h](c))
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
    sizes = part.pick((2, 4, 6, 8, 12, 20) if preset != "large" else (2, 4, 6, 8, 12), (2,))
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
