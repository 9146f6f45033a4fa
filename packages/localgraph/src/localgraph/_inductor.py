"""A workaround for torch 2.13's Inductor, which can read a scattered buffer before the scatter on CPUs."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import torch


@contextlib.contextmanager
def inductor_workaround() -> Iterator[None]:
    """Work around pytorch issue 185509: in torch 2.13, Inductor may read a scatter's result before it is written.

    When torch 2.13 aligns the loops of two nodes in order to fuse them, it recomputes a node's dependencies and drops
    the renames of mutated buffers: ``index_add``, then a pointwise reader fused with another
    node of as many elements, gave values without the scatter. Other versions of torch are left as they are. The
    patch is undone at the end of the context; Inductor's cache of compiled graphs does not know of it.
    """
    if not torch.__version__.startswith("2.13."):
        yield
        return
    from torch._inductor.scheduler import SchedulerNode

    original: Callable[..., None] = SchedulerNode.recompute_size_and_body

    def recompute(self: Any, *args: Any, **kwargs: Any) -> None:
        original(self, *args, **kwargs)
        self.set_read_writes(self.read_writes.rename(self.mutation_renames))

    with mock.patch.object(SchedulerNode, "recompute_size_and_body", recompute):
        yield
