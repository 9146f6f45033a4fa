"""Data parallelism without a wrapper: flat reductions of gradients after the complete backward, or during it."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterable, Iterator, Sequence
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
    for tensors in _buckets(parameters, bucket_mib):
        bucket = Bucket(tensors)
        bucket.start()
        bucket.finish(op)


class Bucket:
    """Parameters of one dtype whose gradients are reduced by one flat all-reduce.

    Attributes
    ----------
    missing : int
        Gradients that the backward has not completed yet (:class:`Overlapped`).
    """

    def __init__(self, parameters: Sequence[Tensor]):
        self.parameters = list(parameters)
        self.missing = len(self.parameters)
        self._flat: Tensor | None = None
        self._work: Any = None

    def start(self) -> None:
        """Copy the gradients together, with who has one, and begin to sum them over processes."""
        parts = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        has = [float(p.grad is not None) for p in self.parameters]
        used = parts[0].new_ones(len(has)) if all(has) else torch.tensor(has).to(parts[0])
        self._flat = torch.cat([*(g.reshape(-1) for g in parts), used])
        self._work = dist.all_reduce(self._flat, async_op=True)

    def finish(self, op: str) -> None:
        """Wait for the sums and put them into ``.grad``."""
        assert self._flat is not None  # started
        self._work.wait()
        count = len(self.parameters)
        values, used = self._flat[:-count], self._flat[-count:]
        if op == "mean":
            values = values / dist.get_world_size()
        split = torch.split(values, [p.numel() for p in self.parameters])
        absent = []
        for i, (p, value) in enumerate(zip(self.parameters, split, strict=True)):
            if p.grad is None:
                absent.append((i, value))
            else:
                p.grad.copy_(value.view_as(p))
        if absent:  # only then is it read who has gradients, for which a GPU would be waited for
            anywhere = used.tolist()
            for i, value in absent:
                if anywhere[i]:
                    p = self.parameters[i]
                    p.grad = value.reshape(p.shape).clone()
        self._flat = self._work = None
        self.missing = count


def _buckets(parameters: Iterable[Tensor], mib: float) -> list[list[Tensor]]:
    """Divide parameters that require gradients into buckets of one dtype, in order of their last parameters."""
    by_dtype: dict[torch.dtype, list[Tensor]] = {}
    sizes: dict[torch.dtype, float] = {}
    full = []
    for p in parameters:
        if not p.requires_grad:
            continue
        bucket = by_dtype.setdefault(p.dtype, [])
        bucket.append(p)
        sizes[p.dtype] = sizes.get(p.dtype, 0.0) + p.numel() * p.element_size() / 2**20
        if mib and sizes[p.dtype] >= mib:
            full.append(by_dtype.pop(p.dtype))
            sizes[p.dtype] = 0.0
    return full + list(by_dtype.values())


class Overlapped:
    """Reductions that start during the backward, as soon as the gradients of a bucket are complete.

    Buckets hold parameters from the last to the first, as the backward completes them, and start in this order on every
    process, whichever parameters it used; one with a parameter that gets no gradient, and those behind it, start after
    the backward. On a GPU they run in a stream of their own, which the optimizer waits for.

    Parameters
    ----------
    parameters, op, bucket_mib
        See :func:`reduce_gradients`.
    """

    def __init__(self, parameters: Sequence[Tensor], op: str, bucket_mib: float):
        self.op = op
        self.buckets = [Bucket(tensors) for tensors in _buckets(reversed(parameters), bucket_mib)]
        self.started, self.during = 0, 0
        self.paused = True
        self.stream: Any = None
        if self.buckets and self.buckets[0].parameters[0].is_cuda:
            device = self.buckets[0].parameters[0].device
            self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._handles = [
            p.register_post_accumulate_grad_hook(  # type: ignore[no-untyped-call]
                functools.partial(self._completed, bucket)
            )
            for bucket in self.buckets
            for p in bucket.parameters
        ]

    def _completed(self, bucket: Bucket, _: Tensor) -> None:
        if self.paused:
            return
        bucket.missing -= 1
        while self.started < len(self.buckets) and self.buckets[self.started].missing == 0:
            self._start_next()
            self.during += 1

    def _start_next(self) -> None:
        with self._side_stream():
            self.buckets[self.started].start()
        self.started += 1

    @contextlib.contextmanager
    def _side_stream(self) -> Iterator[None]:
        if self.stream is None:
            yield
            return
        self.stream.wait_stream(torch.cuda.current_stream(self.stream.device))
        with torch.cuda.stream(self.stream):
            yield

    def finish(self) -> None:
        """Start what is left (parameters that this process did not use), wait for all, and write gradients."""
        while self.started < len(self.buckets):
            self._start_next()
        with self._side_stream():
            for bucket in self.buckets:
                bucket.finish(self.op)
        if self.stream is not None:
            torch.cuda.current_stream(self.stream.device).wait_stream(self.stream)
        self.started = 0

    def remove(self) -> None:
        """Take the hooks off the parameters."""
        for handle in self._handles:
            handle.remove()


class SyncAfterBackward(DDPStrategy):
    """Lightning strategy: the module is not wrapped; gradients are reduced once, after the complete backward.

    Unless ``overlap``, nothing hooks into autograd; a compiled step that returns gradients works as an eager one does.
    Parameters and buffers are broadcast at the start. Inside gradient accumulation nothing is reduced.
    ``on_after_backward``, clipping and the optimizer see reduced gradients. Launchers and backends are those of
    Lightning's ``ddp``: its own processes or torchrun, gloo on CPUs, nccl on GPUs.

    Parameters
    ----------
    op : {"sum", "mean"}
        See :func:`reduce_gradients`.
    bucket_mib : float
        See :func:`reduce_gradients`.
    overlap : bool
        Reduce buckets during the backward, see :class:`Overlapped`. It pays where a reduction takes as long as a
        backward, and ``bucket_mib`` is well below the size of the gradients.
    **options
        Passed to Lightning's ``DDPStrategy`` (``process_group_backend``, ``timeout``, ``start_method``).

    Raises
    ------
    ValueError
        For another ``op``, and for ``overlap`` without ``bucket_mib``.
    """

    strategy_name = "sync_after_backward"

    def __init__(self, op: str = "sum", bucket_mib: float = 0.0, overlap: bool = False, **options: Any):
        if op not in ("sum", "mean"):
            raise ValueError(f"op must be 'sum' or 'mean', got {op!r}")
        if overlap and not bucket_mib:
            raise ValueError(f"bucket_mib must be greater than 0 with overlap, got {bucket_mib}")
        super().__init__(**options)
        self.op, self.bucket_mib, self.overlap = op, bucket_mib, overlap
        self.overlapped: Overlapped | None = None
        self.reductions = 0
        self._accumulating = False

    def configure_ddp(self) -> None:
        """Broadcast parameters and buffers instead of wrapping the module."""
        if self.model is not None:
            broadcast_state(self.model)
            if self.overlap:
                self.overlapped = Overlapped(list(self.model.parameters()), self.op, self.bucket_mib)

    def teardown(self) -> None:
        """Take hooks off the parameters."""
        if self.overlapped is not None:
            self.overlapped.remove()
            self.overlapped = None
        super().teardown()

    @contextlib.contextmanager
    def block_backward_sync(self) -> Iterator[None]:
        """Accumulate gradients locally in the backward passes of this context."""
        self._accumulating = True
        try:
            yield
        finally:
            self._accumulating = False

    def backward(self, closure_loss: Tensor, optimizer: Any, *args: Any, **kwargs: Any) -> Tensor:
        """Run the backward, reduce gradients, then call gradient hooks.

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
        if self.overlapped is not None:
            self.overlapped.paused = self._accumulating
        self.precision_plugin.backward(closure_loss, module, optimizer, *args, **kwargs)
        if not self._accumulating:
            if self.overlapped is not None:
                self.overlapped.paused = True
                self.overlapped.finish()
            else:
                reduce_gradients(list(self.model.parameters()), self.op, self.bucket_mib)
            self.reductions += 1
        closure_loss = self.precision_plugin.post_backward(closure_loss, module)
        self.post_backward(closure_loss)
        return closure_loss
