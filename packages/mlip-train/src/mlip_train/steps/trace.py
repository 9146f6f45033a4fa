"""Tracing with symbolic sizes and compilation with Inductor."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from localgraph import inductor_workaround
from mlip_train.data.batches import Batch
from mlip_train.steps.together import kernels_together

TRACE_SIZES = (40_009, 1_009, 37)
"""Edges, atoms and frames of the traced example: size hints decide what Inductor runs in parallel."""
TENSORS = len(Batch._fields) - 2
"""Tensors of a batch that enter the graph: all but ``subset`` and ``row``."""


def compile_function(
    function: Callable[..., Any], weights: Sequence[Tensor], data: Sequence[Tensor]
) -> tuple[Callable[..., Any], int]:
    """Trace ``function(*weights, *data)`` into one graph of primitive operations and compile it.

    The shapes of ``weights`` are fixed; every dimension of ``data`` larger than 9 in the example is free. No guards are
    installed and there is no way back to Python: the compiled function accepts every size.

    Returns
    -------
    callable, int
        The compiled function and the number of nodes of its graph.
    """
    with inductor_workaround(), kernels_together():
        graph, fakes = _trace(function, weights, data)
        with torch.no_grad(), tracing(TracingContext(fakes[0].fake_mode)):
            run: Any = compile_fx(graph, fakes)
    return run, len(graph.graph.nodes)


def _trace(
    function: Callable[..., Any], weights: Sequence[Tensor], data: Sequence[Tensor]
) -> tuple[torch.fx.GraphModule, list[Any]]:
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)

    def fake(t: Tensor, free: bool) -> Any:
        kinds = [DimDynamic.DYNAMIC if free and n > 9 else DimDynamic.STATIC for n in t.shape]
        return mode.from_tensor(t.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))

    fakes = [*(fake(t, False) for t in weights), *(fake(t, True) for t in data)]
    with torch.enable_grad():
        graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)
    return graph, fakes


def example_batch(device: torch.device | str = "cpu") -> Batch:
    """Build a batch of sizes ``TRACE_SIZES`` for tracing; its values are not used."""
    e, n, f = TRACE_SIZES
    x: dict[str, Any] = {"dtype": torch.float64, "device": device}
    i: dict[str, Any] = {"dtype": torch.int64, "device": device}
    return Batch(
        positions=torch.ones(n, 3, **x),
        edges=torch.zeros(2, e, dtype=torch.int32, device=device),
        shifts=torch.zeros(e, 3, dtype=torch.int16, device=device),
        cells=torch.ones(f, 3, 3, **x),
        types=torch.zeros(n, **i),
        frame=torch.zeros(n, **i),
        atoms=torch.ones(f, **x),
        volume=torch.ones(f, **x),
        energy=torch.ones(f, **x),
        forces=torch.ones(n, 3, **x),
        stress=torch.ones(f, 3, 3, **x),
        energy_weight=torch.ones(f, **x),
        force_weight=torch.ones(n, **x),
        stress_weight=torch.ones(f, **x),
        norms=torch.ones(3, **x),
        subset=torch.zeros(f, **i),
        row=torch.zeros(f, **i),
    )


def _inputs(batch: Batch) -> list[Tensor]:
    return list(batch[:TENSORS])


def _batch(tensors: Sequence[Tensor]) -> Batch:
    """Rebuild a batch from :func:`_inputs`; ``subset`` and ``row`` are unused placeholders."""
    return Batch._make([*tensors, tensors[-1], tensors[-1]])


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
