"""Code that Inductor generates for an H100, on a machine without a GPU.

The graph, traced on the CPU, is replayed on fake CUDA tensors while torch reports the properties of an H100, and the
wrapper that Inductor would run is caught. Nothing is compiled for a GPU. Pattern matchers and constant folding are off,
which need a device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

H100 = {
    "name": "NVIDIA H100 80GB HBM3",
    "major": 9,
    "minor": 0,
    "cc": 90,
    "type": "cuda",
    "index": 0,
    "gcnArchName": "",
    "multi_processor_count": 132,
    "max_threads_per_multi_processor": 2048,
    "max_threads_per_block": 1024,
    "regs_per_multiprocessor": 65536,
    "warp_size": 32,
    "total_memory": 85_000_000_000,
    "shared_memory_per_block": 49152,
    "shared_memory_per_block_optin": 232448,
    "shared_memory_per_multiprocessor": 233472,
    "L2_cache_size": 52428800,
}


def pretend() -> None:
    """Let torch and Triton of this process report an H100 for good; only names and properties, nothing runs there."""
    import torch
    import torch._inductor.fx_passes.fuse_attention as attention
    import torch._inductor.fx_passes.joint_graph as joint
    import torch._inductor.fx_passes.reinplace as reinplace
    import triton
    from triton.backends.compiler import GPUTarget

    import equitensor.backends.triton.tuning as tuning

    properties, place = SimpleNamespace(**H100), torch.device("cuda", 0)
    triton.runtime.driver.set_active(
        SimpleNamespace(
            get_current_target=lambda: GPUTarget("cuda", 90, 32),
            get_current_device=lambda: 0,
            get_active_torch_device=lambda: place,
        )
    )
    nothing: Callable[..., None] = lambda *a, **k: None  # noqa: E731
    answers: dict[str, Any] = {
        "is_available": lambda: True,
        "is_initialized": lambda: True,
        "is_current_stream_capturing": lambda: False,
        "device_count": lambda: 1,
        "current_device": lambda: 0,
        "get_device_properties": lambda *a, **k: properties,
        "get_device_capability": lambda *a, **k: (9, 0),
        "get_device_name": lambda *a: H100["name"],
        "current_stream": lambda *a: SimpleNamespace(cuda_stream=0, device=place),
        "device": _Device,
        "_exchange_device": lambda *a: 0,
        "_maybe_exchange_device": lambda *a: 0,
        "get_rng_state": lambda *a: torch.zeros(16, dtype=torch.uint8),
        **dict.fromkeys(("_lazy_init", "synchronize", "set_device", "set_rng_state"), nothing),
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    for name in ("_cuda_getDevice", "_cuda_getCurrentRawStream"):
        setattr(torch._C, name, lambda *a: 0)
    _pretend_interface(properties)
    joint.lazy_init = attention._sfdp_init = nothing  # type: ignore[assignment]  # they trace examples on the device
    reinplace._inplace_generalized_scatter = lambda inp, src, views: inp  # type: ignore[assignment]
    tuning.fastest = lambda kernel, options, *rest: options[0]  # type: ignore[assignment]
    contiguous = torch.Tensor.contiguous

    def of_fakes(self: Any, *given: Any, **named: Any) -> Any:
        if self.device.type != "cuda" or self.is_contiguous():
            return contiguous(self, *given, **named)
        return self * 1.0  # a copy, for which torch's own asks the device

    torch.Tensor.contiguous = of_fakes  # type: ignore[method-assign]


def _pretend_interface(properties: SimpleNamespace) -> None:
    """Let Dynamo's interface of CUDA devices report an H100."""
    import torch._dynamo.device_interface as devices

    interface: Any = devices.CudaInterface
    for place_of_properties in (interface, interface.Worker):
        place_of_properties.get_device_properties = staticmethod(lambda *a, **k: properties)
    for name, value in {
        "get_compute_capability": 90,
        "is_triton_capable": True,
        "is_available": True,
        "current_device": 0,
        "get_raw_stream": 0,
        "raise_if_triton_unavailable": None,
        "set_device": None,
        "synchronize": None,
    }.items():
        setattr(interface, name, staticmethod(lambda *a, value=value, **k: value))


class _Device(contextlib.nullcontext):  # type: ignore[type-arg]
    """In place of ``torch.cuda.device``, which is a class."""


class _CaughtError(Exception):
    """The wrapper was written."""


def wrapper(graph: Any, fakes: Sequence[Any]) -> str:
    """Return the source of the wrapper that Inductor writes for a traced graph moved to CUDA."""
    import torch
    from torch._guards import TracingContext, tracing
    from torch._inductor import config
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.graph import GraphLowering

    mode = fakes[0].fake_mode
    for node in graph.graph.nodes:
        if node.kwargs.get("device") is not None:
            node.kwargs = {**node.kwargs, "device": torch.device("cuda", 0)}
        for key in ("val", "tensor_meta"):
            node.meta.pop(key, None)
    graph.recompile()
    written: list[str] = []

    def catch(self: Any, *_: Any, **__: Any) -> None:
        code, _lines = self.codegen()
        written.append(str(getattr(code, "value", code)))
        raise _CaughtError

    with mode:
        moved = [torch.empty_strided(t.size(), t.stride(), dtype=t.dtype, device="cuda") for t in fakes]
    options = {
        "fx_graph_cache": False,
        "joint_graph_constant_folding": False,
        "triton.unique_kernel_names": True,
    }
    with (
        mock.patch.object(GraphLowering, "compile_to_module", catch),
        torch.no_grad(),
        tracing(TracingContext(mode)),
        config.patch(options),
        torch._functorch.config.patch(enable_autograd_cache=False),
    ):
        try:
            compile_fx(graph, moved)
        except Exception:
            if not written:
                raise
    return written[0]
