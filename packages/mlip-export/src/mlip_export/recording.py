"""Calls of a function on fixed inputs that can be repeated: a CUDA graph, and a stand-in for CPUs."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from mlip_export.loaded import Function

WARM_UP = 3
"""Calls before a capture: they load kernels and workspaces, which cannot be captured."""


class CaptureError(RuntimeError):
    """A model that cannot run as a CUDA graph; the message says why."""


class Recording(Protocol):
    """Calls of a function on fixed inputs that can be repeated.

    Attributes
    ----------
    outputs : (Tensor, Tensor)
        What each repetition overwrites.
    """

    outputs: tuple[Tensor, Tensor]

    def __init__(
        self, function: Function, inputs: tuple[Tensor, Tensor, Tensor], device: torch.device
    ) -> None: ...

    def begin(self) -> None:
        """Let what follows on this stream wait for the last use of inputs and outputs."""

    def replay(self) -> None:
        """Repeat the call."""

    def end(self) -> None:
        """Mark the end of this use."""


class CudaGraph:
    """A :class:`Recording` by CUDA; it keeps the memory that a call takes.

    Raises
    ------
    CaptureError
        If the function does what cannot be captured, such as a read by the host, or memory is short.
    """

    outputs: tuple[Tensor, Tensor]

    def __init__(
        self, function: Function, inputs: tuple[Tensor, Tensor, Tensor], device: torch.device
    ) -> None:
        self._device = device
        self._done: Any = torch.cuda.Event()  # type: ignore[no-untyped-call]
        self._error: RuntimeError | None = None
        with torch.cuda.device(device):
            before = torch.cuda.current_stream()
            try:
                self._capture(function, inputs)
            except RuntimeError as e:
                reason = str(self._error or e).partition("\n")[0]  # the end of a failed capture fails too
                raise CaptureError(
                    f"cuda_graph must be False here, got an error while the model was captured: {reason}"
                ) from e
            finally:
                torch.cuda.set_stream(before)  # torch does not restore it when a capture fails

    def _capture(self, function: Function, inputs: tuple[Tensor, Tensor, Tensor]) -> None:
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                function(*inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        # so that the workspace of cuBLAS on this stream lies in the graph's memory, and nothing else uses or frees it
        torch._C._cuda_clearCublasWorkspaces()
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            try:
                self.outputs = function(*inputs)
            except RuntimeError as e:
                self._error = e
                raise
        torch._C._cuda_clearCublasWorkspaces()

    def begin(self) -> None:
        """Let what follows on this stream wait for the last use of inputs and outputs."""
        torch.cuda.current_stream(self._device).wait_event(self._done)

    def replay(self) -> None:
        """Launch the graph on this stream."""
        self._graph.replay()

    def end(self) -> None:
        """Mark the end of this use."""
        self._done.record(torch.cuda.current_stream(self._device))


class Repeated:
    """A :class:`Recording` that calls the function again, for tests where there is no GPU."""

    outputs: tuple[Tensor, Tensor]

    def __init__(
        self, function: Function, inputs: tuple[Tensor, Tensor, Tensor], device: torch.device
    ) -> None:
        self._function, self._inputs = function, inputs
        energies, edge_forces = function(*inputs)
        self.outputs = energies.clone(), edge_forces.clone()

    def begin(self) -> None:
        """Do nothing: calls on a CPU are in order."""

    def replay(self) -> None:
        """Call the function on the inputs and overwrite the outputs."""
        for kept, new in zip(self.outputs, self._function(*self._inputs), strict=True):
            kept.copy_(new)

    def end(self) -> None:
        """Do nothing."""
