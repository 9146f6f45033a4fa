"""Launches of Triton kernels: eager tensors go straight to the kernel, tensors of a tracer are recorded."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

triton = pytest.importorskip("triton")
from equitensor.backends.triton import source  # noqa: E402


class Kernel:
    """A kernel that notes its launches."""

    def __init__(self):
        self.launches = []

    def __getitem__(self, grid):
        return lambda *tensors, **constants: self.launches.append((grid, tensors, constants))


@pytest.fixture
def traced(monkeypatch):
    """Kernels that were handed to ``wrap_triton``."""
    found = []

    def wrap(kernel):
        found.append(kernel)
        return Kernel()

    monkeypatch.setattr(torch.library, "wrap_triton", wrap)
    return found


@pytest.mark.parametrize("kind", [torch.Tensor, torch.nn.Parameter])
@pytest.mark.parametrize("place", [0, 1])
def test_eager_tensors_run_the_kernel(traced, kind, place):
    tensors = [torch.ones(3), torch.ones(3)]
    tensors[place] = torch.nn.Parameter(tensors[place]) if kind is torch.nn.Parameter else tensors[place]
    kernel = Kernel()
    source.launch(kernel, (2, 1), tuple(tensors), BLOCK=32)
    assert traced == [] and len(kernel.launches) == 1 and kernel.launches[0][2] == {"BLOCK": 32}


@pytest.mark.parametrize("grid", [(0, 4), (3, 0)])
def test_an_empty_grid_runs_nothing(traced, grid):
    kernel = Kernel()
    source.launch(kernel, grid, (torch.ones(3),))
    assert traced == [] and kernel.launches == []


@pytest.mark.parametrize("place", [0, 1])
def test_fake_tensors_are_recorded(traced, place):
    tensors = [torch.ones(3), torch.ones(3)]
    with FakeTensorMode(allow_non_fake_inputs=True):
        tensors[place] = torch.ones(3)
    kernel = Kernel()
    source.launch(kernel, (2,), tuple(tensors))
    assert traced == [kernel] and kernel.launches == []
