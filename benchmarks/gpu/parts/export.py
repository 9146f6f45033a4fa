"""Exported models: errors against float64 on the CPU, memory per edge, time of a step by host and size, a profile.

A model is compiled in both precisions, with torch's products, with products in pairs, and with fused layers.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from benchmarks.gpu.part import Part
from benchmarks.gpu.profiles import seen
from benchmarks.providers import INFERENCE, Case, summed
from benchmarks.systems import PRESETS, box, model

import localgraph
import mlip_export
from mlip_export._precision import product_precision, setting

HOSTS = {"bare": "mlip_export", "cuda graph": "mlip_export", "ase": "ase", "torch-sim": "torch_sim"}
"""What a step is timed in besides, with the module that it needs; those not installed are left out."""
PROGRAMS: dict[str, dict[str, Any]] = {
    "exported float32": {},
    "exported tf32": {"precision": "tf32"},
    "chained float32": {"chained": "yes"},
    "chained tf32": {"chained": "yes", "precision": "tf32"},
    "fused tf32": {"fused": True, "precision": "tf32"},
    "fused chained tf32": {"fused": True, "chained": "yes", "precision": "tf32"},
}
"""What is compiled, by name, and how. On a CPU the first stands for all."""
WITHOUT_KERNELS = {"large": ("chained float32", "chained tf32", "fused tf32", "fused chained tf32")}
"""Programs that a preset's widths do not have."""
REFERENCE = 192
"""Atoms of the largest system that is compared with float64 on the CPU."""
SIZES = (4, 12, 8, 6, 2, 20)
"""Molecules along an edge of a box, what is predicted first; the largest does not suit the large preset."""
LAUNCHED, PROFILED = 1536, 5184
"""Atoms of the largest system that is replayed as a CUDA graph (larger ones do not wait for launches), and of the one
whose step is profiled."""


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


def bare(case: Case) -> Callable[[], Any]:
    """Return a call of the compiled function alone: without checks, reads and sums over edges."""
    potential, edges = mlip_export.load(case.exported), case.edges
    kind = potential.device.type

    def call() -> Any:
        with product_precision(kind, setting(kind, potential.metadata.precision)):
            return potential._function(*edges)

    return call


PROVIDERS = INFERENCE | {"bare": bare, "cuda graph": replayed}


def errors(
    case: Case, reference: tuple[torch.Tensor, torch.Tensor], call: Callable[[], Any]
) -> dict[str, float]:
    """Return the errors of an exported model per atom and force component, with the scale of the forces."""
    energy, forces = (call(), call())[1]  # a graph is captured in the first
    difference = (forces.cpu() - reference[1]).abs()
    return {
        "energy_eV_per_atom": abs(float(energy) - float(reference[0].sum())) / case.system.atoms,
        "force_rms": float(difference.square().mean().sqrt()),
        "force_max": float(difference.max()),
        "force_scale": float(reference[1].square().mean().sqrt()),
    }


def per_edge(part: Part, call: Callable[[], Any], case: Case) -> float | None:
    """Return the peak of bytes per edge of a call; None on a CPU."""
    peak = part.peak_bytes(call)
    return None if peak is None else peak / case.system.edges


def opened(part: Part, preset: str, cases: dict[str, dict[int, Case]]) -> dict[str, dict[int, Any]]:
    """Return a call of every program and size, those that fail left out."""
    calls: dict[str, dict[int, Any]] = {}
    for name, sized in cases.items():
        for atoms, case in sized.items():
            call = part.attempt(f"{preset} {atoms} {name}", lambda c=case: INFERENCE["exported"](c))
            if call is not None:
                calls.setdefault(name, {})[atoms] = call
    return calls


def measure(
    part: Part,
    preset: str,
    cases: dict[str, dict[int, Case]],
    calls: dict[str, dict[int, Any]],
    references: dict[int, Any],
) -> None:
    """Measure one preset, whose cases and calls are given by program and atoms; write every result at once."""

    def keep(kind: str, atoms: int, name: str, measured: Callable[[], Any]) -> None:
        value = part.attempt(f"{preset} {atoms} {name} {kind}", measured)
        part.section.setdefault(kind, {}).setdefault(str(atoms), {})[name] = value
        part.save()

    hosts = [host for host, needs in HOSTS.items() if "exported float32" in calls and find_spec(needs)]
    for atoms, case in next(iter(cases.values()), {}).items():  # by the first program, which is in float32
        given = {name: sized[atoms] for name, sized in calls.items() if atoms in sized}
        for host in hosts:
            if host != "cuda graph" or atoms <= LAUNCHED:
                name = f"{host} float32"
                call = part.attempt(f"{preset} {atoms} {name}", lambda c=case, h=host: PROVIDERS[h](c))
                given |= {name: call} if call is not None else {}
        for name, call in given.items():
            compared = name in calls or name.startswith("cuda graph")
            if compared and atoms in references:
                keep("error", atoms, name, lambda c=call, s=case: errors(s, references[s.system.atoms], c))
            keep("ms", atoms, name, lambda c=call: part.milliseconds(c))
            if name in calls:
                keep("peak_bytes_per_edge", atoms, name, lambda c=call, s=case: per_edge(part, c, s))


def path_of(part: Part, preset: str, program: str) -> Path:
    """Return the file of a program."""
    first = part.device.type == "cpu" or not PROGRAMS[program]
    return part.work / f"{preset}_{part.device.type if first else program.replace(' ', '_')}.pt2"


def compile_all(part: Part, preset: str, arguments: Sequence[str]) -> dict[str, Path]:
    """Compile the programs, each in a process of its own, all at once; return the files by program.

    A program that is not there when the part must have built is left out.
    """
    wanted = [name for name in PROGRAMS if name not in WITHOUT_KERNELS.get(preset, ())]
    paths, running = {name: path_of(part, preset, name) for name in wanted}, {}
    for name in wanted:
        if paths[name] not in [paths[other] for other in running]:
            command = [sys.executable, "-m", "benchmarks.gpu.parts.export", "--preset", preset]
            log = paths[name].with_suffix(".log").open("w")
            running[name] = (
                log,
                subprocess.Popen(
                    [*command, "--compile", name, *arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                ),
            )
    for name, (log, process) in running.items():
        try:
            status = process.wait(max(0.0, part.build_until - time.monotonic()))
            note = f"exit status {status}"
        except subprocess.TimeoutExpired:
            process.kill()
            status, note = process.wait(), "not built in time"
        log.close()
        printed = paths[name].with_suffix(".log").read_text(errors="replace")
        print(f"{preset} {name}\n{printed}", file=sys.stderr, flush=True)
        if status:
            failed = part.section.setdefault("failed", {})
            failed[f"{preset} compile {name}"] = f"{note}\n{printed[-1500:]}"
    return {name: path for name, path in paths.items() if path.exists()}


def main() -> None:
    """Compile one preset (``--preset``), then measure it; with ``--compile`` only compile one of its programs."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--preset", default="small", choices=PRESETS)
    parser.add_argument("--compile", choices=PROGRAMS)
    options, rest = parser.parse_known_args()
    preset = options.preset
    if options.compile:
        part = Part(f"export_{preset}", [argument for argument in rest if argument != "--wait"])
        path, how = path_of(part, preset, options.compile), PROGRAMS[options.compile]
        how = how if part.device.type == "cuda" else {}
        mlip_export.compile(model(preset, **part.changes()), path, device=part.device.type, **how)
        return
    part = Part(f"export_{preset}", rest)
    device = part.device.type
    sizes = part.pick(SIZES if preset != "large" else SIZES[:-1], (2,))
    begin = time.perf_counter()
    paths = compile_all(part, preset, rest)
    part.section["build_s"] = time.perf_counter() - begin
    systems = [box(n) for n in sizes]
    cases = {
        name: {s.atoms: Case(preset, s, exported=path, device=device, **part.changes()) for s in systems}
        for name, path in paths.items()
    }
    first = next(iter(cases.values()), {})
    references = {atoms: exact(case) for atoms, case in first.items() if atoms <= REFERENCE}
    calls = opened(part, preset, cases)
    part.turn()
    measure(part, preset, cases, calls, references)
    plain = calls.get("exported float32", {})
    if preset == "small" and plain:
        profiled = plain.get(PROFILED) or next(iter(plain.values()))
        part.section["profile"] = part.attempt("profile", lambda: seen(part, "md", profiled))
    part.save()


if __name__ == "__main__":
    main()
