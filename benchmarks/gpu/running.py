"""Parts of the GPU day in their processes: ready, given a turn, paused, ended."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import NamedTuple

from benchmarks.common import ROOT, bounded


class Turn(NamedTuple):
    """How a part runs.

    Attributes
    ----------
    arguments : list of str
        Its module and options.
    limit : float
        Seconds of its turn; a part that takes more is ended.
    threads : int
        Threads of each of its processes that build.
    timed : bool
        Whether it needs the device for itself.
    """

    arguments: list[str]
    limit: float
    threads: int = 2
    timed: bool = True


class Running:
    """A part in its process.

    Attributes
    ----------
    note : str
        Why it was ended.
    seconds : dict of str to float
        When it was ready, began and ended, since the day began.
    """

    def __init__(self, name: str, turn: Turn, command: list[str], out: Path, device: str, begin: float):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = {**os.environ, "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}
        environment |= bounded(turn.threads) | {"TORCHINDUCTOR_COMPILE_THREADS": str(turn.threads)}
        # one that a compiler was ended in, in another day, may hold broken files
        environment["TORCHINDUCTOR_CACHE_DIR"] = str(out / "work" / "inductor")
        if device == "cpu":
            environment["CUDA_VISIBLE_DEVICES"] = ""
        self.name, self.turn, self.begin = name, turn, begin
        self.log = (out / f"{name}.log").open("w")
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.log, text=True, env=environment, start_new_session=True
        )
        self.note, self.seconds, self.paused = "", dict[str, float](), False
        self._ready, self._spent = threading.Event(), 0.0
        self._since: float | None = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.strip() == "ready":
                self._mark("ready")
                self._ready.set()
            else:
                self.log.write(line)
                self.log.flush()

    def _mark(self, name: str) -> None:
        self.seconds[name] = round(time.monotonic() - self.begin, 1)

    @property
    def ended(self) -> bool:
        """Whether the process is over."""
        over = self.process.poll() is not None
        if over and "ended" not in self.seconds:
            self._mark("ended")
        return over

    @property
    def waiting(self) -> bool:
        """Whether it is ready for its turn."""
        return self._ready.is_set() and "began" not in self.seconds and not self.ended

    @property
    def busy(self) -> bool:
        """Whether it builds, or has its turn."""
        return not self.waiting and not self.ended

    def spent(self) -> float:
        """Return the seconds of its turn so far, without those in which it was paused."""
        return self._spent + (time.monotonic() - self._since if self._since is not None else 0.0)

    def go(self) -> None:
        """Give the part its turn."""
        self._mark("began")
        self._since = time.monotonic()
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write("go\n")
            self.process.stdin.flush()

    def pause(self) -> None:
        """Stop the part and what it started, until :meth:`resume`."""
        if not self.paused:
            self._signal(signal.SIGSTOP)
            self._spent, self._since, self.paused = self.spent(), None, True

    def resume(self) -> None:
        """Let a paused part go on."""
        if self.paused:
            self._signal(signal.SIGCONT)
            self._since, self.paused = time.monotonic() if "began" in self.seconds else None, False

    def kill(self, note: str) -> None:
        """End the part and what it started."""
        self.note = note
        self._signal(signal.SIGKILL)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(timeout=5.0)

    def _signal(self, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Close the pipes and the log."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self._reader.join(timeout=0.5)
        if not self._reader.is_alive():  # else a process that it left behind holds the pipe
            self.process.stdout.close()
            self.log.close()
