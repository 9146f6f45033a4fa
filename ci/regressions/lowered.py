"""Counters of the code that Inductor generates for an H100, with no GPU: launches, bytes, peak memory, index widths.

    python -m ci.regressions.lowered inference|training PRESET    # prints them as JSON

The graph is traced on the CPU, replayed on fake CUDA tensors while torch reports the properties of an H100, and the
wrapper that Inductor would run is caught and run on records of buffers instead of tensors. Nothing is compiled for a
GPU.
Pattern matchers and constant folding are off, which need a device; bytes are those of the buffers that each
kernel is given, once each (what caches save is not counted).
"""

from __future__ import annotations

import contextlib
import json
import math
import re
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any
from unittest import mock

ATOMS, NEIGHBORS = 5184, 90
"""A box of water at 6 Å, for inference."""
FRAMES, FRAME_ATOMS, FRAME_EDGES = 256, 31, 731
"""A batch of molecules of the size of SPICE's, for training."""
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
    import torch._dynamo.device_interface as devices
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
    joint.lazy_init = attention._sfdp_init = nothing  # type: ignore[assignment]  # they trace examples on the device
    reinplace._inplace_generalized_scatter = lambda inp, src, views: inp  # type: ignore[assignment]
    tuning.fastest = lambda kernel, options, *rest: options[0]  # type: ignore[assignment]
    contiguous = torch.Tensor.contiguous

    def of_fakes(self: Any, *given: Any, **named: Any) -> Any:
        if self.device.type != "cuda" or self.is_contiguous():
            return contiguous(self, *given, **named)
        return self * 1.0  # a copy, for which torch's own asks the device

    torch.Tensor.contiguous = of_fakes  # type: ignore[method-assign]


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


class Memory:
    """Bytes that live now, and the most that did."""

    def __init__(self) -> None:
        self.live = self.peak = 0


class _Storage:
    def __init__(self, memory: Memory, size: int):
        self.memory, self.size = memory, size
        memory.live += size
        memory.peak = max(memory.peak, memory.live)

    def __del__(self) -> None:
        self.memory.live -= self.size


class Buffer:
    """A tensor without its numbers."""

    def __init__(self, shape: Sequence[int], stride: Sequence[int], item: int, storage: Any):
        self.shape, self.strides, self.item, self.storage = tuple(map(int, shape)), stride, item, storage

    @property
    def nbytes(self) -> int:
        """Bytes of its elements."""
        return math.prod(self.shape) * self.item

    def size(self) -> tuple[int, ...]:
        """Its shape, as torch names it."""
        return self.shape


ITEMS = {"float64": 8, "int64": 8, "float32": 4, "int32": 4, "bfloat16": 2, "int16": 2, "int8": 1, "bool": 1}


class Cost:
    """What one run of a wrapper launches, reads and writes."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.launches = self.products = self.bytes = self.largest = 0

    def empty(self, shape: Sequence[int], stride: Sequence[int], dtype: str) -> Buffer:
        """Allocate."""
        item = ITEMS[dtype]
        extent = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        return Buffer(shape, stride, item, _Storage(self.memory, extent * item))

    def launch(self, given: Sequence[Any], again: int = 0) -> None:
        """Count a kernel; the last-named ``again`` of its buffers are both read and written."""
        buffers = [g for g in given if isinstance(g, Buffer)]
        self.launches += 1
        self.bytes += sum(b.nbytes for b in buffers) + sum(b.nbytes for b in buffers[:again])
        self.largest = max([self.largest, *(g for g in given if isinstance(g, int))])

    def made(self, shape: Sequence[int], like: Buffer, *others: Any) -> Buffer:
        """Count an operator that Inductor calls as it is, and return its result."""
        stride = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
        dtype = next(name for name, item in ITEMS.items() if item == like.item)
        out = self.empty(shape, stride, dtype)
        self.launch([like, *others, out])
        return out

    def product(self, *operands: Buffer, out: Buffer) -> None:
        """Count a matrix product."""
        self.products += 1
        self.launch([*operands, out])


def run(source: str, inputs: Sequence[tuple[Sequence[int], Sequence[int], str]]) -> Cost:
    """Run a wrapper's ``call`` on records of its inputs, given by shape, stride and dtype."""
    cost, both = Cost(), {}
    for name, arguments in re.findall(r"^def (triton_\w+)\(([^)]*)\)", source, re.M):
        both[name] = arguments.count("in_out_ptr")

    def kernel(name: str) -> Any:
        return SimpleNamespace(run=lambda *given, **named: cost.launch(given, both.get(name, 0)))

    def reinterpret(buffer: Buffer, shape: Sequence[int], stride: Sequence[int], offset: int = 0) -> Buffer:
        return Buffer(shape, stride, buffer.item, buffer.storage)

    def gather(rows: Buffer, index: Buffer) -> Buffer:
        return cost.made((index.shape[0], *rows.shape[1:]), rows, index)

    def segments(rows: Buffer, offsets: Any, count: int) -> Buffer:
        return cost.made((count, *rows.shape[1:]), rows, offsets)

    operators = SimpleNamespace(
        gather_rows=SimpleNamespace(default=gather), segment_sum=SimpleNamespace(default=segments)
    )
    dtypes = {name: name for name in ITEMS}
    guard = SimpleNamespace(_DeviceGuard=lambda i: contextlib.nullcontext(), set_device=lambda i: None)
    products = SimpleNamespace(
        mm=lambda a, b, out: cost.product(a, b, out=out),
        bmm=lambda a, b, out: cost.product(a, b, out=out),
        addmm=lambda c, a, b, out, **scales: cost.product(c, a, b, out=out),
    )
    body = _body(source)
    space: dict[str, Any] = {name: kernel(name) for name in set(re.findall(r"(\w+)\.run\(", body))}
    space |= {
        "torch": SimpleNamespace(cuda=guard, ops=SimpleNamespace(localgraph=operators), **dtypes),
        "extern_kernels": products,
        "empty_strided_cuda": cost.empty,
        "reinterpret_tensor": reinterpret,
        "copy_if_misaligned": lambda buffer: buffer,
        "get_raw_stream": lambda index: 0,
        "math": math,
        **dict.fromkeys(("assert_size_stride", "assert_alignment"), lambda *a: None),
    }
    given = [cost.empty(*each) for each in inputs]  # which the caller holds
    before = cost.memory.live
    exec(body, space)  # Inductor's own text, with nothing but these names
    space["call"](None, list(given))
    cost.memory.peak -= before
    return cost


def _body(source: str) -> str:
    """Return the function ``call`` of a wrapper, which is a method there."""
    lines = source[source.index("def call(self, args):") :].splitlines()
    kept = [lines[0]]
    for line in lines[1:]:
        if line.strip() and not line.startswith(" " * 8):
            break
        kept.append(line[4:])
    return "\n".join(kept)


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


def inference(preset: str) -> tuple[str, list[Any], int]:
    """Energies and edge forces with folded weights: the wrapper, its inputs, and its number of edges."""
    from torch.func import functional_call

    from localgraph import energies_and_edge_forces
    from mlip_export.graphs import traced_graph
    from mlip_train.steps.trace import _trace

    model = _model(preset, ["H", "O"], float(NEIGHBORS)).eval()
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


def _model(preset: str, elements: list[str], neighbors: float) -> Any:
    import torch

    from allegro_model import Allegro, presets

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Allegro(getattr(presets, f"spice_{preset}")(elements, avg_num_neighbors=neighbors))


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


GRAPHS = {"inference": inference, "training": training}


def groups(presets: Sequence[str]) -> Iterator[tuple[str, dict[str, int]]]:
    """Every group of these counters by name: inference of all presets, training of the first."""
    for preset in presets:
        yield f"code for an H100: inference, {preset}", count("inference", preset)
    yield f"code for an H100: training, {presets[0]}", count("training", presets[0])


if __name__ == "__main__":
    pretend()
    print(json.dumps(counters(*GRAPHS[sys.argv[1]](sys.argv[2]))))
