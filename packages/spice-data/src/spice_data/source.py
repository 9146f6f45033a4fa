"""Getting a released file: resumable, checked by size and md5, from several mirrors, by one process."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import requests

from spice_data.atomic import exclusive, sync_directory
from spice_data.errors import DataError
from spice_data.releases import Release, completed, release

Progress = Callable[[int, int], None]
CHUNK = 1 << 20


class Patience(NamedTuple):
    """How long to try.

    Attributes
    ----------
    timeout : float
        Seconds without a byte before a connection counts as lost.
    attempts : int
        Attempts in a row that bring nothing before a mirror is given up.
    pause : float
        Seconds before the second attempt; doubled for each further one, up to a minute.
    """

    timeout: float = 30.0
    attempts: int = 6
    pause: float = 1.0


class MirrorError(Exception):
    """A mirror does not have the file that was asked for; another may."""


def file_md5(path: str | os.PathLike[str], progress: Progress | None = None) -> str:
    """MD5 of a file, hexadecimal, read in pieces; ``progress`` is called with (bytes done, bytes)."""
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, os.stat(path).st_size
    with open(path, "rb") as file:
        while piece := file.read(8 * CHUNK):
            digest.update(piece)
            done += len(piece)
            if progress:
                progress(done, size)
    return digest.hexdigest()


def check_file(path: str | os.PathLike[str], size: int, md5: str, progress: Progress | None = None) -> None:
    """Compare a file with its expected size, then its md5; ``DataError`` when either differs."""
    actual = os.stat(path).st_size
    if actual != size:
        raise DataError(path, f"{size} bytes", f"{actual} bytes")
    found = file_md5(path, progress)
    if found != md5:
        raise DataError(path, f"md5 {md5}", f"md5 {found}")


def _content_range(header: str | None) -> tuple[int, int]:
    """First byte and total length that a Content-Range header states."""
    match = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", header or "")
    if not match:
        raise MirrorError(f"an unreadable Content-Range {header!r}")
    return int(match[1]), int(match[2])


class _RangeRefused(MirrorError):
    """The mirror will not, or does not, continue where asked."""


class _Transfer:
    """Bytes of one file arriving in ``part`` from one mirror after another.

    A body from the first byte on goes to a second file while ``part`` holds something: the longer is kept.
    """

    def __init__(
        self, part: Path, size: int, session: requests.Session, patience: Patience, progress: Progress | None
    ) -> None:
        self.part, self.size, self.session = part, size, session
        self.patience, self.progress = patience, progress
        self.second = part.with_name(f"{part.name}2")
        self.settle()

    def have(self) -> int:
        return self.part.stat().st_size if self.part.exists() else 0

    def restart(self) -> None:
        self.part.unlink(missing_ok=True)

    def settle(self) -> None:
        """Keep the longer of the two files, as ``part``."""
        if self.second.exists() and self.second.stat().st_size > self.have():
            os.replace(self.second, self.part)
        self.second.unlink(missing_ok=True)

    def need(self, size: int) -> None:
        free = shutil.disk_usage(self.part.parent).free
        if free < size:
            raise OSError(errno.ENOSPC, f"{size} more bytes are needed, {free} are free", str(self.part))

    def _once(self, url: str, resume: bool) -> None:
        """One request, from where ``part`` ends or from the first byte; raises for whatever cuts it short."""
        if self.have() > self.size:
            self.restart()
        start = self.have() if resume else 0
        if start == self.size:
            return
        headers = {"Accept-Encoding": "identity"}
        if start:
            headers["Range"] = f"bytes={start}-"
        with self.session.get(url, headers=headers, stream=True, timeout=self.patience.timeout) as answer:
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
            raise _RangeRefused(f"status 416 for a range from byte {start}")
        if answer.status_code not in (200, 206):
            raise MirrorError(f"status {answer.status_code}")
        if answer.status_code == 206:
            first, total = _content_range(answer.headers.get("Content-Range"))
            if total != self.size:
                raise MirrorError(f"a file of {total} bytes instead of {self.size}")
            if first != start:
                raise _RangeRefused(f"bytes from {first} instead of {start}")
            return
        length = answer.headers.get("Content-Length")
        if length is None:  # a proxy's or log-in page, as a rule
            kind = answer.headers.get("Content-Type")
            raise MirrorError(f"{kind or 'something'} of unknown length instead of {self.size} bytes")
        if length != str(self.size):
            raise MirrorError(f"a file of {length} bytes instead of {self.size}")
        if start:
            raise _RangeRefused(f"the whole file instead of a range from byte {start}")

    def _receive(self, answer: requests.Response, target: Path, done: int) -> None:
        answer.raw.enforce_content_length = False  # what came before a break is kept; length is checked here
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
        """Fetch what is missing from ``url``, or everything; ``MirrorError`` when that cannot be."""
        failures, pause = 0, self.patience.pause
        while True:
            before = self.have()
            try:
                return self._once(url, resume)
            except requests.RequestException as e:
                reason = str(e)
            if self.have() > before:
                failures, pause = 0, self.patience.pause
            failures += 1
            if failures >= self.patience.attempts:
                raise MirrorError(f"{failures} attempts in vain, the last: {reason}") from None
            time.sleep(pause)
            pause = min(2 * pause, 60.0)


def fetch(
    urls: Sequence[str],
    path: str | os.PathLike[str],
    size: int,
    md5: str,
    *,
    proxy: str | None = None,
    patience: Patience | None = None,
    wait: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download a file of known size and md5 to ``path``, from the first of ``urls`` that has it.

    What has arrived is kept beside ``path`` under a hidden name and continued by the next call, in this
    process or another, until something longer has arrived. Mirrors that refuse to continue are asked for the
    whole file after all others. ``path`` appears only when size and md5 are right.

    Parameters
    ----------
    urls : sequence of str
        Mirrors, in order of preference.
    path : path
        Where the file goes. A right file that is already there is left alone.
    size, md5 : int, str
        What the file must be.
    proxy : str, optional
        Proxy for http and https; otherwise the environment's (``HTTPS_PROXY``…).
    patience : Patience, optional
        Timeouts and attempts.
    wait : bool
        Wait when another process is downloading the same file, instead of raising.
    progress : callable, optional
        Called with (bytes done, bytes).

    Returns
    -------
    Path
        ``path``.

    Raises
    ------
    ValueError
        When ``urls`` is empty.
    DataError
        When a file is already at ``path`` and is not the right one (it is left as it is).
    ConnectionError
        When no mirror has the file; the message gives each one's reason.
    BlockingIOError
        When another process is downloading it and ``wait`` is not set.
    OSError
        When the disk is, or would become, full; what has arrived is kept.
    """
    path = Path(path)
    if not urls:
        raise ValueError("urls: required at least one, got none")
    with exclusive(path, wait):
        if path.exists():
            check_file(path, size, md5, progress)
            return path
        part = path.with_name(f".{path.name}.part")
        session = requests.Session()
        if proxy is not None:
            session.proxies = {"http": proxy, "https": proxy}
        transfer = _Transfer(part, size, session, patience or Patience(), progress)
        transfer.need(size - transfer.have())
        with session:
            _from_mirrors(transfer, urls, part, md5)
        os.replace(part, path)
        sync_directory(path.parent)
    return path


def _from_mirrors(transfer: _Transfer, urls: Sequence[str], part: Path, md5: str) -> None:
    """Continue from each mirror in turn; then start anew with those that refused to continue."""
    reasons: list[str] = []
    queue = [(url, True) for url in urls]
    while queue:
        url, resume = queue.pop(0)
        resumed = resume and transfer.have() > 0
        try:
            transfer.run(url, resume)
        except MirrorError as e:
            if resume and isinstance(e, _RangeRefused):
                queue.append((url, False))
            else:
                reasons.append(f"{url}: {e}")
            continue
        found = file_md5(part)
        if found == md5:
            return
        transfer.restart()
        if resumed:
            queue.insert(0, (url, True))
        else:
            reasons.append(f"{url}: md5 {found} instead of {md5}")
    raise ConnectionError("no mirror has the file: " + "; ".join(reasons))


def download(
    name: str = "2.0.1",
    folder: str | os.PathLike[str] = ".",
    *,
    mirrors: Sequence[str] = (),
    proxy: str | None = None,
    patience: Patience | None = None,
    wait: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download a release (``releases()`` lists them) into ``folder``; see :func:`fetch`.

    Parameters
    ----------
    name : str
        ``"2.0.1"`` or ``"test"``.
    folder : path
        An existing folder.
    mirrors : sequence of str
        Further URLs, tried before the table's.
    proxy, patience, wait, progress
        As for :func:`fetch`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        When there is no such release.
    NotADirectoryError
        When ``folder`` is not an existing folder.
    ConnectionError
        When the record that says size and md5 cannot be read, or no mirror has the file.
    DataError, BlockingIOError, OSError
        As for :func:`fetch`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"folder: required an existing folder, got {str(folder)!r}")
    patience = patience or Patience()
    with requests.Session() as session:
        if proxy is not None:
            session.proxies = {"http": proxy, "https": proxy}
        entry: Release = completed(release(name), session, patience.timeout)
    urls = (*mirrors, *entry.urls)
    return fetch(
        urls,
        folder / entry.file,
        entry.size or 0,
        entry.md5 or "",
        proxy=proxy,
        patience=patience,
        wait=wait,
        progress=progress,
    )
