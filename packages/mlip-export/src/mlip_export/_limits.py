"""Largest sizes that compiled code indexes, and the memory that it takes, measured at export."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

from mlip_export.graphs import Graphs, Inputs
from mlip_export.model_file import EDGES_PER_CALL

INDEX_LIMIT = 2**31 - 2**20
"""Elements that a kernel with 32-bit indices addresses, less its last block, whose indices pass the end."""

INT64 = 2**63 - 1


class Widths(NamedTuple):
    """Elements per edge and per atom of the widest tensors of a program."""

    edge: int
    atom: int


def widths(program: torch.export.ExportedProgram, example: Inputs) -> Widths:
    """Return the widths of a program of edges and atoms.

    Inductor's kernels iterate over tensors of this graph or parts of them, so no index of theirs is larger.

    Raises
    ------
    ValueError
        For a tensor whose size is not linear in the numbers of edges and atoms.
    """
    edges, atoms = (_symbol(program, place) for place in _places(program, example))
    edge = atom = 1
    for size in _sizes(program):

        def elements(e: int, n: int, size: Any = size) -> int:
            return int(size.subs({edges: e, atoms: n}))

        fixed = elements(0, 0)
        per_edge, per_atom = elements(1, 0) - fixed, elements(0, 1) - fixed
        if elements(1000, 1000) != fixed + 1000 * (per_edge + per_atom):
            raise ValueError(f"model must have tensors linear in edges and atoms, got one of {size} elements")
        shares = 2 if per_edge and per_atom else 1  # a tensor of both gets half of the indices for each
        edge, atom = max(edge, shares * per_edge), max(atom, shares * per_atom)
    return Widths(edge, atom)


def _places(program: torch.export.ExportedProgram, example: Inputs) -> tuple[Any, Any]:
    """Return the values of the inputs ``edge_vectors`` and ``types``, whose first sizes are edges and atoms."""
    names = program.graph_signature.user_inputs
    values = [n.meta["val"] for n in program.graph.nodes if n.op == "placeholder" and n.name in names]
    if len(values) != len(example):
        raise ValueError(f"program must have {len(example)} inputs, got {len(values)}")
    return values[0], values[2]


def _symbol(program: torch.export.ExportedProgram, value: Tensor) -> Any:
    size: Any = value.shape[0]
    return size.node.expr


def _sizes(program: torch.export.ExportedProgram) -> Iterator[Any]:
    """Yield the number of elements of every tensor whose size is not fixed."""
    for node in program.graph.nodes:
        value = node.meta.get("val")
        for tensor in value if isinstance(value, (tuple, list)) else (value,):
            count: Any = tensor.numel() if isinstance(tensor, Tensor) else 0
            if isinstance(count, torch.SymInt):
                yield count.node.expr


def largest(width: Widths, device: str) -> tuple[int, int]:
    """Return the most edges and atoms of one call: GPU kernels have 32-bit indices, code for a CPU 64-bit ones."""
    limit = INDEX_LIMIT if device == "cuda" else INT64
    return limit // width.edge, limit // width.atom


def memory(function: Callable[..., Any], measured: tuple[Inputs, Inputs]) -> tuple[int, int]:
    """Return the bytes per edge and per atom that one call takes at its peak, beside its inputs.

    The peak is the largest of sums linear in edges and atoms; it is at most edges times the first plus atoms times
    the second, which are measured with edges on few atoms and with atoms without edges.
    """
    found = []
    for inputs, count in zip(measured, (len(measured[0].edge_vectors), len(measured[1].types)), strict=True):
        function(*inputs)
        peak = peak_bytes(lambda inputs=inputs: function(*inputs), inputs.types.device)  # type: ignore[misc]
        found.append(-(-peak // max(1, count)))
    return found[0], found[1]


def sizes(
    program: torch.export.ExportedProgram, function: Callable[..., Any], graphs: Graphs
) -> dict[str, Any]:
    """Return the metadata's limits of one call: indices of the program, and memory of its compiled function."""
    kind = graphs.traced.types.device.type
    max_edges, max_atoms = largest(widths(program, graphs.traced), kind)
    per_edge, per_atom = memory(function, graphs.measured)
    return {
        "edges_per_call": min(EDGES_PER_CALL[kind], max_edges),
        "max_edges": max_edges,
        "max_atoms": max_atoms,
        "bytes_per_edge": per_edge,
        "bytes_per_atom": per_atom,
    }


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Return the largest sum of bytes that torch's allocator of ``device`` held at once for ``call``.

    What was allocated before does not count. On a CPU the profiler's allocations are read, those inside operators too.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    gc.collect()
    collecting = gc.isenabled()
    gc.disable()
    try:
        activities = [torch.profiler.ProfilerActivity.CPU]
        with (
            mock.patch.dict(os.environ, KINETO_LOG_LEVEL="99"),  # it prints when it starts and stops
            torch.profiler.profile(activities=activities, profile_memory=True) as profile,
        ):
            call()
    finally:
        if collecting:
            gc.enable()
    events = [e for e in profile.profiler.kineto_results.events() if e.name() == "[memory]"]
    now = peak = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        now += event.nbytes()
        peak = max(peak, now)
    return peak
