"""The order in which a CUDA graph is captured and replayed, with records in place of torch's streams and graphs."""

from contextlib import contextmanager

import pytest
import torch

from mlip_export.recording import WARM_UP, CaptureError, CudaGraph

DEVICE = torch.device("cuda", 1)
INPUTS = torch.ones(2, 3), torch.zeros(2, 2), torch.zeros(1)


class Stream:
    def __init__(self, log, name):
        self.log, self.name = log, name

    def wait_stream(self, other):
        self.log.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event):
        self.log.append(f"{self.name} waits for the event")


class Event:
    def record(self, stream):
        stream.log.append(f"event on {stream.name}")


@pytest.fixture
def log(monkeypatch):
    """What is done, by name, on which stream."""
    log, main = [], Stream([], "main")
    main.log, current = log, [main]

    @contextmanager
    def device(index):
        assert index == DEVICE
        log.append("device")
        try:
            yield
        finally:
            log.append("left device")

    @contextmanager
    def stream(other):
        before, current[0] = current[0], other
        try:
            yield
        finally:
            current[0] = before

    class Graph:
        def replay(self):
            log.append(f"replay on {current[0].name}")

    class Capture:
        """As torch's: its end fails where the capture did, and leaves the stream current."""

        def __init__(self, graph, stream, capture_error_mode):
            assert isinstance(graph, Graph) and capture_error_mode == "thread_local"
            self.stream, self.before = stream, current[0]

        def __enter__(self):
            current[0] = self.stream
            log.append(f"capture on {self.stream.name}")

        def __exit__(self, kind, *rest):
            if kind is not None:
                raise RuntimeError("the end of the capture failed")
            current[0] = self.before
            log.append("captured")

    monkeypatch.setattr(torch._C, "_cuda_clearCublasWorkspaces", lambda: log.append("clear"), raising=False)
    for name, value in {
        "device": device,
        "stream": stream,
        "graph": Capture,
        "CUDAGraph": Graph,
        "Event": Event,
        "Stream": lambda: Stream(log, "side"),
        "current_stream": lambda device=None: current[0],
        "set_stream": lambda other: current.__setitem__(0, other),
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    return log


def call_of(log, fails_at=None, error=None):
    calls = []

    def call(*given):
        assert given == INPUTS
        calls.append(torch.cuda.current_stream().name)
        log.append(f"call on {calls[-1]}")
        if len(calls) == fails_at:
            raise error
        return torch.zeros(1), torch.zeros(2, 3)

    return call


def test_captured_on_a_side_stream_after_calls_that_warm_up(log):
    graph = CudaGraph(call_of(log), INPUTS, DEVICE)
    warm_up = ["call on side"] * WARM_UP
    capture = ["clear", "capture on side", "call on side", "captured", "clear"]
    expected = ["device", "side waits for main", *warm_up, "main waits for side", *capture, "left device"]
    assert log == expected
    log.clear()
    graph.begin()
    graph.replay()
    graph.end()
    assert log == ["main waits for the event", "replay on main", "event on main"]


@pytest.mark.parametrize("at, where", [(WARM_UP + 1, "capture"), (1, "warm-up")])
def test_names_what_failed_and_leaves_the_stream(log, at, where):
    """Not the failure of the capture's end, which follows from it, nor an error that was being handled before."""
    error = RuntimeError("operation not permitted when stream is capturing\nCompile with ...")
    try:
        raise KeyError("handled")
    except KeyError:
        with pytest.raises(CaptureError) as caught:
            CudaGraph(call_of(log, at, error), INPUTS, DEVICE)
    assert str(caught.value) == (
        "cuda_graph must be False here, got an error while the model was captured: operation not permitted when stream "
        "is capturing"
    )
    assert torch.cuda.current_stream().name == "main" and log[-1] == "left device"
