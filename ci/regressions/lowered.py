"""Counters of the code that Inductor generates for an H100, with no GPU: launches, bytes, peak memory, index widths.

    python -m ci.regressions.lowered GRAPH PRESET    # prints them as JSON

Bytes are those of the buffers that each kernel reads and those that it writes, once each (what caches save is not
counted); of a buffer that a generated kernel reaches in part, of a slice of it, those of the part.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from unittest import mock

from ci.regressions.h100 import pretend, wrapper
from ci.regressions.replay import run

ATOMS, NEIGHBORS = 5184, 90
"""A box of water at 6 Å, for inference."""
FRAMES, FRAME_ATOMS, FRAME_EDGES = 256, 31, 731
"""A batch of molecules of the size of SPICE's, for training."""


def inputs_of(fakes: Sequence[Any], sizes: dict[int, int]) -> list[tuple[list[int], list[int], str]]:
    """Return shape, stride and dtype of fakes, whose free sizes are replaced by what ``sizes`` says of their hints."""

    def real(n: Any) -> int:
        return int(n) if isinstance(n, int) else sizes[n.node.hint]

    found = []
    for fake in fakes:
        shape = [real(n) for n in fake.shape]
        stride = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
        found.append((shape, stride, str(fake.dtype).removeprefix("torch.")))
    return found


def fused(preset: str) -> tuple[str, list[Any], int]:
    """:func:`inference` with fused layers."""
    return inference(preset, fused_layers=True)


def chained(preset: str, **changes: Any) -> tuple[str, list[Any], int]:
    """:func:`inference` with products in pairs, which is ``mlip_export.compile(..., chained="yes")``."""
    return inference(preset, chain=True, **changes)


def fused_chained(preset: str) -> tuple[str, list[Any], int]:
    """:func:`chained` with fused layers."""
    return chained(preset, fused_layers=True)


def inference(preset: str, chain: bool = False, **changes: Any) -> tuple[str, list[Any], int]:
    """Energies and edge forces with folded weights: the wrapper, its inputs, and its number of edges."""
    from torch.func import functional_call

    from localgraph import energies_and_edge_forces
    from mlip_export.graphs import traced_graph
    from mlip_export.products.chain_rewrite import use_chained_products
    from mlip_train.steps.trace import _trace

    model = _model(preset, ["H", "O"], float(NEIGHBORS), **changes).eval()
    for p in model.parameters():
        p.requires_grad_(False)
    folded = model.for_inference()
    state = {**dict(folded.named_parameters()), **dict(folded.named_buffers())}
    example = traced_graph(model.cutoffs, model.cutoffs.device)

    def function(*tensors: Any) -> Any:
        weights = dict(zip(state, tensors, strict=False))
        return energies_and_edge_forces(
            lambda *g: functional_call(folded, weights, g), *tensors[len(state) :]
        )

    graph, fakes = _trace(function, list(state.values()), list(example))
    if chain:
        use_chained_products(graph, "float32")
    edges = ATOMS * NEIGHBORS
    sizes = {example.edge_vectors.shape[0]: edges, example.types.shape[0]: ATOMS}
    return wrapper(graph, fakes), inputs_of(fakes, sizes), edges


def training(preset: str) -> tuple[str, list[Any], int]:
    """The whole training step: the wrapper, its inputs, and its number of edges."""
    import torch

    from mlip_train.config import LossConfig
    from mlip_train.steps.compiled import CompiledStep
    from mlip_train.steps.trace import TRACE_SIZES, _trace

    model = _model(preset, ["H", "C", "N", "O", "F", "P", "S", "Cl", "Br", "I"], 25.0)
    kept: list[Any] = []

    def keep(self: Any, function: Any, weights: Any, data: Any) -> Any:
        kept.append(_trace(function, weights, data))
        return lambda *a: None

    from localgraph import inductor_workaround

    with inductor_workaround():
        with mock.patch.object(CompiledStep, "_compile", keep), torch.enable_grad():
            CompiledStep(model, LossConfig())
        (graph, fakes), edges = kept[0], FRAMES * FRAME_EDGES
        sizes = dict(zip(TRACE_SIZES, (edges, FRAMES * FRAME_ATOMS, FRAMES), strict=True))
        return wrapper(graph, fakes), inputs_of(fakes, sizes), edges


def _model(preset: str, elements: list[str], neighbors: float, **changes: Any) -> Any:
    import torch

    from allegro_model import Allegro, presets

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Allegro(getattr(presets, f"spice_{preset}")(elements, avg_num_neighbors=neighbors, **changes))


def counters(source: str, inputs: list[Any], edges: int) -> dict[str, int]:
    """The counters of a wrapper: of one call, or of its edges."""
    cost = run(source, inputs)
    signatures = re.findall(r"'[xy]numel': '(i\d+)'", source)
    return {
        "launches": cost.launches,
        "products": cost.products,
        "bytes_per_edge": round(cost.bytes / edges),
        "peak_bytes_per_edge": round(cost.memory.peak / edges),
        "elements_per_edge": -(-cost.largest // edges),
        "kernels_of_64_bit_indices": signatures.count("i64"),
    }


def count(graph: str, preset: str) -> dict[str, int]:
    """Count in a process of its own, which takes itself for one with a GPU."""
    command = [sys.executable, "-W", "ignore", "-m", "ci.regressions.lowered", graph, preset]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"counting {graph} of {preset} must succeed, got:\n{done.stderr[-3000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


GRAPHS = {
    "inference": inference,
    "chained": chained,
    "fused": fused,
    "fused-chained": fused_chained,
    "training": training,
}


def groups(presets: Sequence[str]) -> dict[str, Callable[[], dict[str, int]]]:
    """What counts every group: inference of all presets, fused of two, chained and training of the first."""
    chosen = {
        ("inference", "inference"): presets,
        ("fused layers", "fused"): presets[:2],
        ("chained products", "chained"): presets[:1],
        ("fused layers and chained products", "fused-chained"): presets[:1],
        ("training", "training"): presets[:1],
    }
    return {
        f"code for an H100: {name}, {preset}": partial(count, graph, preset)
        for (name, graph), of in chosen.items()
        for preset in of
    }


if __name__ == "__main__":
    pretend()
    print(json.dumps(counters(*GRAPHS[sys.argv[1]](sys.argv[2]))))
