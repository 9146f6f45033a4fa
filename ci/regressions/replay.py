"""Runs of Inductor's wrapper on records of buffers instead of tensors: launches, bytes, peak memory, sizes."""

from __future__ import annotations

import contextlib
import math
import re
from collections import Counter
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any, NamedTuple


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


class Generated(NamedTuple):
    """A kernel that Inductor generated: its parameters, and how often its source loads from and stores to each."""

    parameters: tuple[str, ...]
    loads: Counter[str]
    stores: Counter[str]

    def bytes(self, given: Sequence[Any]) -> int:
        """Return the bytes read and written: of a buffer all, once each, or what the loads or stores reach if less.

        A load or store reaches an element per point of the kernel's ranges: of a slice of a wider tensor not all.
        """
        named = dict(zip(self.parameters, given, strict=False))
        points = math.prod(value for name, value in named.items() if name.endswith("numel"))
        total = 0
        for name, buffer in named.items():
            if isinstance(buffer, Buffer):
                times = [n for n in (self.loads[name], self.stores[name]) if n]
                total += sum(min(buffer.nbytes, n * points * buffer.item) for n in times)
                total += 0 if times else buffer.nbytes  # searched by a helper of Inductor's
        return total


def generated(source: str) -> dict[str, Generated]:
    """Return the kernels that Inductor generated into a wrapper, by name."""
    found = {}
    for name, parameters, body in re.findall(
        r"^def (triton_\w+)\(([^)]*)\):\n(.*?)^\'\'\'", source, re.M | re.S
    ):
        loads = Counter(re.findall(r"\btl\.load\((\w+)", body))
        stores = Counter(re.findall(r"\btl\.(?:store|atomic_add)\((\w+)", body))
        found[name] = Generated(tuple(re.findall(r"\w+(?= *[,:]|$)", parameters)), loads, stores)
    return found


class Cost:
    """What one run of a wrapper launches, reads and writes."""

    def __init__(self) -> None:
        self.memory = Memory()
        self.launches = self.products = self.bytes = self.largest = 0
        self.kernels: list[tuple[int, int]] = []  # bytes, and operations of products

    def empty(self, shape: Sequence[int], stride: Sequence[int], dtype: str) -> Buffer:
        """Allocate."""
        item = ITEMS[dtype]
        extent = 0 if 0 in shape else 1 + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
        return Buffer(shape, stride, item, _Storage(self.memory, extent * item))

    def launch(self, given: Sequence[Any], kernel: Generated | None = None, operations: int = 0) -> None:
        """Count a kernel, of which every buffer is read or written once, or what the source of a generated one says."""
        self.launches += 1
        size = (
            sum(g.nbytes for g in given if isinstance(g, Buffer)) if kernel is None else kernel.bytes(given)
        )
        self.bytes += size
        self.kernels.append((size, operations))
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
        inner = operands[-1].shape[-2]
        self.launch([*operands, out], operations=2 * inner * math.prod(out.shape))


def in_pairs(name: str, given: Sequence[Any]) -> int:
    """Return the operations of mlip-export's kernels of two products in a row; 0 of other kernels."""
    if not name.startswith("hidden_layers"):
        return 0
    backward = name.startswith("hidden_layers_backward")
    (first, second), rows = given[2:4] if backward else given[3:5], given[0].shape[0]
    return 2 * rows * (math.prod(first.shape) + math.prod(second.shape))


def run(source: str, inputs: Sequence[tuple[Sequence[int], Sequence[int], str]]) -> Cost:
    """Run a wrapper's ``call`` on records of its inputs, given by shape, stride and dtype."""
    cost, sources = Cost(), generated(source)

    def kernel(name: str) -> Any:
        return SimpleNamespace(
            run=lambda *given, **named: cost.launch(given, sources.get(name), in_pairs(name, given))
        )

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
