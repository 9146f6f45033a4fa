"""Data parallelism without a wrapper: the complete backward first, then one flat reduction of all gradients."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn


def broadcast_state(module: nn.Module, source: int = 0) -> None:
    """Give every process the parameters and buffers of process ``source``."""
    for tensor in (*module.parameters(), *module.buffers()):
        dist.broadcast(tensor.detach(), source)


def reduce_gradients(parameters: Sequence[Tensor], op: str = "sum", bucket_mib: float = 0.0) -> None:
    """Sum (or average) ``.grad`` over processes by flat all-reduces of one fixed layout.

    The layout holds every parameter that requires a gradient, in order, with zeros where this process has none:
    processes may differ in which parameters were used. A parameter that no process used keeps ``grad = None``.

    Parameters
    ----------
    parameters : sequence of Tensor
        The same ones in the same order on every process.
    op : {"sum", "mean"}
        ``"sum"`` for losses normalized over the global batch (:class:`mlip_train.data.batches.Batch`), ``"mean"`` for
        losses normalized per process.
    bucket_mib : float
        Size of a reduction, MiB; 0 reduces everything at once (per dtype).
    """
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    for p in parameters:
        if p.requires_grad:
            by_dtype.setdefault(p.dtype, []).append(p)
    for group in by_dtype.values():
        for bucket in _buckets(group, bucket_mib):
            parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in bucket]
            used = torch.tensor([float(p.grad is not None) for p in bucket]).to(parts[0])
            flat = torch.cat([*(g.reshape(-1) for g in parts), used])
            dist.all_reduce(flat)
            values, anywhere = flat[: -len(bucket)], flat[-len(bucket) :].tolist()
            if op == "mean":
                values = values / dist.get_world_size()
            for p, value, anyone in zip(
                bucket, torch.split(values, [p.numel() for p in bucket]), anywhere, strict=True
            ):
                if p.grad is not None:
                    p.grad.copy_(value.view_as(p))
                elif anyone:
                    p.grad = value.reshape(p.shape).clone()


def _buckets(parameters: list[Tensor], mib: float) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0.0
    for p in parameters:
        bucket.append(p)
        size += p.numel() * p.element_size() / 2**20
        if mib and size >= mib:
            yield bucket
            bucket, size = [], 0.0
    if bucket:
        yield bucket


class SyncAfterBackward(DDPStrategy):
    """Lightning strategy: the module is not wrapped; gradients are reduced once, after the complete backward.

    Nothing hooks into autograd, so a compiled step that returns gradients works as an eager one does. Parameters
    and buffers are broadcast at the start. Inside gradient accumulation nothing is reduced. ``on_after_backward``,
    clipping and the optimizer see reduced gradients. Launchers and backends are those of Lightning's ``ddp``: its
    own processes or torchrun, gloo on CPUs, nccl on GPUs.

    Parameters
    ----------
    op : {"sum", "mean"}
        See :func:`reduce_gradients`.
    bucket_mib : float
        See :func:`reduce_gradients`.
    **options
        Passed to Lightning's ``DDPStrategy`` (``process_group_backend``, ``timeout``, ``start_method``).

    Raises
    ------
    ValueError
        For another ``op``.
    """

    strategy_name = "sync_after_backward"

    def __init__(self, op: str = "sum", bucket_mib: float = 0.0, **options: Any):
        if op not in ("sum", "mean"):
            raise ValueError(f"op must be 'sum' or 'mean', got {op!r}")
        super().__init__(**options)
        self.op, self.bucket_mib = op, bucket_mib
        self.reductions = 0
        self._accumulating = False

    def configure_ddp(self) -> None:
        """Broadcast parameters and buffers instead of wrapping the module."""
        if self.model is not None:
            broadcast_state(self.model)

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Accumulate gradients locally in the backward passes of this context."""
        self._accumulating = True
        try:
            yield
        finally:
            self._accumulating = False

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the complete backward, reduce gradients, then call gradient hooks.

        Raises
        ------
        RuntimeError
            Before a Trainer has set the strategy up.
        """
        module = self.lightning_module
        if module is None or self.model is None:
            raise RuntimeError("strategy must be set up by a Trainer before backward")
        self.pre_backward(closure_loss)
        closure_loss = self.precision_plugin.pre_backward(closure_loss, module)
        self.precision_plugin.backward(closure_loss, module, optimizer, *args, **kwargs)
        if not self._accumulating:
            reduce_gradients(list(self.model.parameters()), self.op, self.bucket_mib)
            self.reductions += 1
        closure_loss = self.precision_plugin.post_backward(closure_loss, module)
        self.post_backward(closure_loss)
        return closure_loss
