"""Shared fixtures: run a provider and record its environment."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


@pytest.fixture(autouse=True)
def same_default_dtype() -> Iterator[None]:
    """Every benchmark starts with the same default dtype, which nequip's models change and need while they run."""
    dtype = torch.get_default_dtype()
    yield
    torch.set_default_dtype(dtype)


@pytest.fixture
def timed(benchmark: Any, request: pytest.FixtureRequest) -> Callable[..., Any]:
    """``timed(call, reference=None, atoms=…, edges=…, dtype=…, parameters=…)`` times ``call``, warmed up by one call.

    ``reference`` names the provider whose least time in the same run ours is divided by. Everything else is kept as
    extra_info, with the provider and the number of threads.
    """

    def run(call: Callable[[], Any], *, reference: str | None = None, **extra: Any) -> Any:
        benchmark.extra_info |= {"provider": request.node.callspec.params["provider"], **extra}
        benchmark.extra_info["threads"] = torch.get_num_threads()
        if reference is not None:
            benchmark.extra_info["reference"] = reference
        call()
        return benchmark(call)

    return run
