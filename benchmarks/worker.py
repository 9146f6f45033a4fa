"""One provider in a process of its own: answers questions of :class:`benchmarks.common.Worker` on standard input.

worker.py inference|floor|training|weights …        # started by the scripts, not by hand
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import answer, limit_memory, peak_mib, versions
from benchmarks.providers import INFERENCE, TRAINING, Case
from benchmarks.systems import config, products, read, reference_model

import localgraph

ALL_ELEMENTS = ("H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I")
RATE = 1e-3


def inference(options: argparse.Namespace) -> None:
    """Answer ``system, kind, repeats, seconds`` by least seconds, energy, forces and peak memory."""
    calls: dict[tuple[str, str], tuple[Any, Callable[[], Any], dict[str, Any]]] = {}

    def handle(system: str, kind: str, repeats: int, seconds: float = 0.0) -> dict[str, Any]:
        if (system, kind) not in calls:
            calls.clear()
            case = Case(
                options.preset,
                None,
                source=options.source,
                exported=options.exported,
                reference=options.reference,
            )
            case.given = read(system, options.data, case.model.type_names)
            call = INFERENCE[kind](case)
            torch.set_num_threads(options.threads)
            before = peak_mib()
            energy, forces = call()
            facts = {"atoms": case.system.atoms, "edges": case.system.edges, "energy": float(energy)}
            facts |= {"forces": forces.flatten()[:30].tolist(), "step_MiB": peak_mib() - before}
            calls[system, kind] = case, call, facts
        _, call, facts = calls[system, kind]
        best, asked, turns = math.inf, time.perf_counter(), 0
        while turns < repeats or time.perf_counter() < asked + seconds:
            turns += 1
            begin = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - begin)
        return facts | {"seconds": best, "peak_MiB": peak_mib(), "versions": versions()}

    answer(handle)


def floor(options: argparse.Namespace) -> None:
    """Answer by the seconds per edge of the bare products, forward and gradient, in the faster of MKL and oneDNN."""
    model, _ = localgraph.load_model(options.source)
    rows, calls = 2048, []
    for a, b in products(model.to_config()):
        for i, o in ((a, b), (b, a)):
            x, w, out = torch.randn(rows, i), torch.randn(i, o), torch.empty(rows, o)
            packed = torch.ops.mkldnn._reorder_linear_weight(w.t().contiguous(), rows)
            one_dnn = lambda x=x, p=packed: torch.ops.mkldnn._linear_pointwise(x, p, None, "none", [], "")  # noqa: E731
            calls.append((lambda x=x, w=w, out=out: torch.mm(x, w, out=out), one_dnn))
    best = [math.inf] * len(calls)

    def handle(repeats: int, **_: Any) -> dict[str, Any]:
        for _ in range(max(10, repeats)):
            for k, pair in enumerate(calls):
                for call in pair:
                    begin = time.perf_counter()
                    call()
                    best[k] = min(best[k], time.perf_counter() - begin)
        return {"seconds_per_edge": sum(best) / rows}

    answer(handle)


def training(options: argparse.Namespace) -> None:
    """Say what the first losses and gradients are, then answer by the times of a round of all batches."""
    from safetensors.torch import load_file

    batches = [load_file(path) for path in sorted(Path(options.folder).glob("batch*.safetensors"))]
    start = time.perf_counter()
    module, loss_of = TRAINING[options.provider](Case(options.preset, source=options.source))
    torch.set_num_threads(options.threads)
    values = []
    for batch in batches:
        module.zero_grad()
        loss = loss_of(batch)
        loss.backward()
        squares = (float(p.grad.double().square().sum()) for p in module.parameters() if p.grad is not None)
        values.append([float(loss.detach()), math.sqrt(sum(squares))])
    first = {"compile_s": round(time.perf_counter() - start, 1), "values": values, "versions": versions()}
    print(json.dumps(first), flush=True)
    optimizer = torch.optim.AdamW(module.parameters(), lr=RATE)

    def handle() -> dict[str, Any]:
        times = []
        for batch in batches:
            begin = time.perf_counter()
            optimizer.zero_grad(set_to_none=True)
            loss_of(batch).backward()
            optimizer.step()
            times.append(time.perf_counter() - begin)
        return {"times": times, "peak_mib": round(peak_mib())}

    answer(handle)


def weights(options: argparse.Namespace) -> None:
    """Write nequip-allegro's initial weights of a preset as one of our model files."""
    from allegro_model.nequip import from_nequip

    reference = reference_model(config(options.preset, ALL_ELEMENTS, avg_num_neighbors=80.0))
    localgraph.save_model(options.source, from_nequip(reference))


def main() -> None:
    """Dispatch."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=["inference", "floor", "training", "weights"])
    parser.add_argument("--preset", default="small")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())  # OMP_NUM_THREADS
    parser.add_argument("--memory-limit", type=float)
    for name in ("--provider", "--source", "--exported", "--reference", "--folder"):
        parser.add_argument(name)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    limit_memory(options.memory_limit)
    torch.set_num_threads(options.threads)
    globals()[options.mode](options)


if __name__ == "__main__":
    main()
