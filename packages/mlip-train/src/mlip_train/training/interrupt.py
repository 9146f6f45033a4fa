"""Signals that end a run between two steps, after a checkpoint."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class Interrupted(KeyboardInterrupt):
    """A run that a signal has ended; the message says where it continues.

    Attributes
    ----------
    signum : int
        The signal.
    """

    def __init__(self, signum: int, message: str):
        super().__init__(f"{signal.Signals(signum).name}: {message}")
        self.signum = signum


class Ended(BaseException):
    """End of a run inside the Trainer, which turns a KeyboardInterrupt into an exit; ``fit`` raises ``Interrupted``."""

    def __init__(self, signum: int, message: str = "no training step was lost"):
        super().__init__(message)
        self.signum = signum


class Interruption:
    """Handlers of Ctrl-C, SIGTERM and SIGUSR1 for the duration of a run.

    While steps are taken a signal is only remembered, and the run ends between two steps; before, and for a second
    signal, it ends at once.

    Attributes
    ----------
    received : int
        The signal remembered, or 0.
    """

    def __init__(self) -> None:
        self.received = 0
        self.deferred = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.getsignal(number) for number in SIGNALS}
        self.install()
        return self

    def install(self) -> None:
        """Install the handlers, in the main thread only; Lightning puts its own in their place."""
        for number in self._before:
            signal.signal(number, self._handle)

    def defer(self) -> None:
        """From now on the run ends between two steps."""
        self.install()
        self.deferred = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if not self.deferred or self.received:
            raise Ended(number)
        self.received = number
