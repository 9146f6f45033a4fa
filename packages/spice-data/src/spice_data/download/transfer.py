"""Transfer of one file over HTTP: continued after a break, refused if it is another file."""

from __future__ import annotations

import errno
import os
import re
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import requests

Progress = Callable[[int, int], None]
CHUNK = 1 << 20


class RetryPolicy(NamedTuple):
    """Timeouts and attempts of a transfer.

    Attributes
    ----------
    timeout : float
        Seconds without a byte after which a connection counts as lost.
    attempts : int
        Consecutive attempts without progress after which a mirror is given up.
    pause : float
        Seconds before the second attempt; doubled for each further one, up to a minute.
    """

    timeout: float = 30.0
    attempts: int = 6
    pause: float = 1.0


class MirrorError(Exception):
    """A mirror does not have the requested file; another may."""


def _content_range(header: str | None) -> tuple[int, int]:
    """Return first byte and total length from a Content-Range header."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", header or "")
    if not match:
        raise MirrorError(f"an unreadable Content-Range {header!r}")
    return int(match[1]), int(match[2])


class RangeRefused(MirrorError):
    """A mirror does not continue from the requested byte."""


class Transfer:
    """Receive one file in ``part`` from one mirror after another.

    A body from the first byte on goes to a second file while ``part`` holds something: the longer is kept.
    """

    def __init__(
        self, part: Path, size: int, session: requests.Session, retry: RetryPolicy, progress: Progress | None
    ) -> None:
        self.part, self.size, self.session = part, size, session
        self.retry, self.progress = retry, progress
        self.second = part.with_name(f"{part.name}2")
        self.settle()

    def have(self) -> int:
        """Return the bytes in ``part``."""
        return self.part.stat().st_size if self.part.exists() else 0

    def restart(self) -> None:
        """Drop ``part``."""
        self.part.unlink(missing_ok=True)

    def settle(self) -> None:
        """Keep the longer of the two files, as ``part``."""
        if self.second.exists() and self.second.stat().st_size > self.have():
            os.replace(self.second, self.part)
        self.second.unlink(missing_ok=True)

    def need(self, size: int) -> None:
        """Raise ``OSError`` if the disk has no space for ``size`` more bytes."""
        free = shutil.disk_usage(self.part.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, f"{size} more bytes are needed, {free} are free", str(self.part))

    def _once(self, url: str, resume: bool) -> None:
        """Make one request, from the end of ``part`` or from the first byte; raise if it ends early."""
        if self.have() > self.size:
            self.restart()
        start = self.have() if resume else 0
        if start == self.size:
            return
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self.session.get(url, headers=headers, stream=True, timeout=self.retry.timeout) as answer:
            self._check(answer, start)
            if resume:
                self._receive(answer, self.part, start)
                return
            self.need(self.size)
            try:
                self._receive(answer, self.second, 0)
            finally:
                self.settle()

    def _check(self, answer: requests.Response, start: int) -> None:
        """Refuse an answer that is not the file from byte ``start`` on."""
        if answer.status_code in (408, 425, 429) or answer.status_code >= 500:
            raise requests.ConnectionError(f"status {answer.status_code}")
        if answer.status_code == 416:
            raise RangeRefused(f"status 416 for a range from byte {start}")
        if answer.status_code not in (200, 206):
            raise MirrorError(f"status {answer.status_code}")
        if answer.status_code == 206:
            first, total = _content_range(answer.headers.get("Content-Range"))
            if total != self.size:
                raise MirrorError(f"a file of {total} bytes instead of {self.size}")
            if first != start:
                raise RangeRefused(f"bytes from {first} instead of {start}")
            return
        length = answer.headers.get("Content-Length")
        if length is None:  # a proxy's or log-in page, as a rule
            kind = answer.headers.get("Content-Type")
            raise MirrorError(f"{kind or 'something'} of unknown length instead of {self.size} bytes")
        if length != str(self.size):
            raise MirrorError(f"a file of {length} bytes instead of {self.size}")
        if start:
            raise RangeRefused(f"the whole file instead of a range from byte {start}")

    def _receive(self, answer: requests.Response, target: Path, done: int) -> None:
        answer.raw.enforce_content_length = False  # bytes before a break are kept; the length is checked here
        with open(target, "ab") as file:
            for piece in answer.iter_content(CHUNK):
                if done + len(piece) > self.size:
                    raise MirrorError(f"more than {self.size} bytes")
                file.write(piece)
                done += len(piece)
                if self.progress:
                    self.progress(done, self.size)
            file.flush()
            os.fsync(file.fileno())
        if done < self.size:
            raise requests.ConnectionError(f"the connection ended at byte {done} of {self.size}")

    def run(self, url: str, resume: bool) -> None:
        """Fetch the missing bytes from ``url``, or all; ``MirrorError`` if that fails."""
        failures, pause = 0, self.retry.pause
        while True:
            before = self.have()
            try:
                return self._once(url, resume)
            except requests.RequestException as e:
                reason = str(e)
            if self.have() > before:
                failures, pause = 0, self.retry.pause
            failures += 1
            if failures >= self.retry.attempts:
                raise MirrorError(f"{failures} attempts without progress, the last: {reason}") from None
            time.sleep(pause)
            pause = min(2 * pause, 60.0)
