"""What every part of the GPU day shares: arguments, the turn on the device, timing, and its section of the record."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import machine, versions, write_json

TINY = dict(
    num_scalar_features=8,
    num_tensor_features=4,
    latent_width=16,
    latent_depth=1,
    embed_dim=8,
    scalar_embed_width=8,
    readout_width=8,
)
"""Changes to a preset so that the whole day runs on a CPU in minutes; the code is the same."""
QUEUED, GROUP = 20, 2e-3
"""Calls between two events at most, and the seconds that they should take."""
CLOCK = 2e9
"""Cycles per second of a GPU, at most, for which it is kept busy."""


BRIEFLY = 5, 25
"""Milliseconds of a tile config in tuning, to warm up and timed: hundreds of launches, a fifth of what is usual."""


@contextlib.contextmanager
def alone(lock: Path, seconds: float = 10.0) -> Iterator[bool]:
    """Hold a lock that processes share, or go on without it after so many seconds: its holder may be paused."""
    with lock.open("w") as file:
        end = time.monotonic() + seconds
        held = False
        while not held and time.monotonic() < end:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                held = True
            except BlockingIOError:
                time.sleep(0.005)
        yield held


def tune_alone(lock: Path) -> None:
    """Let equitensor's tuning time a kernel only while no other process with this lock times one."""
    import triton.testing

    from equitensor.backends.triton import tuning

    def bench(call: Callable[[], None], quantiles: Sequence[float]) -> list[float]:
        call()  # compiled outside the lock
        torch.cuda.synchronize()
        with alone(lock):
            times: list[float] = triton.testing.do_bench(call, *BRIEFLY, quantiles=quantiles)
        return times

    tuning.fastest = partial(tuning.fastest, bench=bench)


class Part:
    """One part: build first, beside the others; then wait for the device, measure, and write a section.

    Attributes
    ----------
    device : torch.device
        Where to measure.
    tiny : bool
        Smallest sizes.
    work : Path
        Folder of exported models and data.
    build_until : float
        When what is not built is left out, by ``time.monotonic``.
    """

    def __init__(self, name: str, arguments: Sequence[str] | None = None):
        parser = argparse.ArgumentParser(description=f"The part {name} of the GPU day.")
        parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
        parser.add_argument("--tiny", action="store_true", help="smallest sizes, for a test of the code")
        parser.add_argument("--out", type=Path, default=Path("gpu-out"))
        parser.add_argument(
            "--wait", action="store_true", help="print 'ready' and wait for a line before measuring"
        )
        parser.add_argument("--build", type=float, default=float("inf"), help="seconds for building")
        options = parser.parse_args(arguments)
        self.name, self.tiny, self.wait, self.out = name, options.tiny, options.wait, options.out.resolve()
        self.build_until = time.monotonic() + options.build
        self.device = torch.device(options.device)
        self.work = self.out / "work"
        self.work.mkdir(parents=True, exist_ok=True)
        self.section: dict[str, Any] = {"device": self.device_name(), "tiny": self.tiny}
        if self.device.type == "cuda":
            tune_alone(self.work / "tuning.lock")

    def device_name(self) -> str:
        """Return the name of the GPU, or the processor's."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return str(machine()["processor"])

    def pick(self, full: Any, tiny: Any) -> Any:
        """Return the full sizes, or the smallest."""
        return tiny if self.tiny else full

    def changes(self) -> dict[str, Any]:
        """Return the changes to presets."""
        return TINY if self.tiny else {}

    def turn(self) -> None:
        """Say that everything is built, and wait for the device; end if nobody gives it any more."""
        self.save()
        if self.wait:
            print("ready", flush=True)
            if not sys.stdin.readline():
                raise SystemExit(f"{self.name}: the day ended before this part's turn")

    def synchronize(self) -> None:
        """Wait for the device."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def milliseconds(self, call: Callable[[], object], seconds: float = 0.5, most: int = 200) -> float:
        """Return the median time of a call, between CUDA events on a GPU, after two calls to warm up.

        Each call begins on an idle device, as a step of a host does: its dispatch counts.
        """
        seconds, most = self.pick((seconds, most), (0.01, 3))
        repeats = min(most, max(3, int(seconds / self._once(call))))
        if self.device.type == "cuda":
            return statistics.median(self._between_events(call) for _ in range(repeats))
        times = []
        for _ in range(repeats):
            begin = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - begin))
        return statistics.median(times)

    def device_milliseconds(self, call: Callable[[], object], seconds: float = 0.1, most: int = 200) -> float:
        """Return the median time of a call on the device alone.

        Calls are queued while the device is kept busy, so that it waits for no dispatch; on a CPU
        this is ``milliseconds``.
        """
        if self.device.type != "cuda":
            return self.milliseconds(call, seconds, most)
        seconds, most = self.pick((seconds, most), (0.01, 3))
        once = self._once(call)
        calls = min(QUEUED, max(1, int(GROUP / once)))
        repeats = min(most, max(3, int(seconds / (once * calls))))
        return statistics.median(self._between_events(call, calls, busy=once) for _ in range(repeats))

    def _once(self, call: Callable[[], object]) -> float:
        """Return the seconds of a call, dispatch and wait included, after two to warm up."""
        for _ in range(2):
            call()
        self.synchronize()
        begin = time.perf_counter()
        call()
        self.synchronize()
        return max(time.perf_counter() - begin, 1e-6)

    def _between_events(self, call: Callable[[], object], calls: int = 1, busy: float = 0.0) -> float:
        """Return the milliseconds of one of several calls between two events, queued while the device is busy."""
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if busy:
            torch.cuda._sleep(int(CLOCK * (2e-4 + 1.5 * calls * busy)))
        start.record()
        for _ in range(calls):
            call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / calls

    def copy_bandwidth(self, elements: int) -> float:
        """Return the bandwidth of a copy of so many float32, bytes read and written per second."""
        source = torch.empty(elements, device=self.device)
        target = torch.empty_like(source)
        return 2e3 * source.nbytes / self.device_milliseconds(lambda: target.copy_(source), 0.5)

    def peak_bytes(self, call: Callable[[], object]) -> int | None:
        """Return the peak of bytes allocated on the device during a call, over those before it; None on a CPU."""
        if self.device.type != "cuda":
            return None
        call()
        self.synchronize()
        torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device)
        call()
        self.synchronize()
        return torch.cuda.max_memory_allocated(self.device) - before

    def attempt(self, name: str, measure: Callable[[], Any]) -> Any:
        """Return a measurement; a failure is written down with its traceback, and the rest of the part goes on."""
        try:
            value = measure()
        except Exception as error:
            self.section.setdefault("failed", {})[name] = f"{error!r}\n{traceback.format_exc()[-1500:]}"
            print(f"{self.name}: {name} failed: {error!r}", file=sys.stderr, flush=True)
            value = None
        self.save()
        return value

    def save(self) -> None:
        """Write the section of this part."""
        write_json(self.out / f"{self.name}.json", {**self.section, "versions": versions()})
