"""Downloads: resumable, checked by size and md5, from several mirrors, by one process at a time."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

import requests

from spice_data.download._releases import Release, completed, release
from spice_data.download.transfer import CHUNK, MirrorError, Progress, RangeRefused, RetryPolicy, Transfer
from spice_data.errors import DataError
from spice_data.files import exclusive, sync


def file_md5(path: str | os.PathLike[str], progress: Progress | None = None) -> str:
    """Return the MD5 of a file, hexadecimal; ``progress`` is called with (bytes done, bytes)."""
    digest, done, size = hashlib.md5(usedforsecurity=False), 0, os.stat(path).st_size
    with open(path, "rb") as file:
        while piece := file.read(8 * CHUNK):
            digest.update(piece)
            done += len(piece)
            if progress:
                progress(done, size)
    return digest.hexdigest()


def check_file(path: str | os.PathLike[str], size: int, md5: str, progress: Progress | None = None) -> None:
    """Compare a file with its expected size, then its md5; ``DataError`` if either differs."""
    actual = os.stat(path).st_size
    if actual != size:
        raise DataError(path, f"have {size} bytes", actual)
    found = file_md5(path, progress)
    if found != md5:
        raise DataError(path, f"have md5 {md5}", found)


def fetch(
    urls: Sequence[str],
    path: str | os.PathLike[str],
    size: int,
    md5: str,
    *,
    proxy: str | None = None,
    retry: RetryPolicy | None = None,
    wait: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Download a file of known size and md5 to ``path``, from the first of ``urls`` that has it.

    Bytes received are kept beside ``path`` under a hidden name, and the next call continues from them, in this process
    or another. Mirrors that refuse to continue are asked for the whole file after all others. ``path`` appears only
    when size and md5 are correct.

    Parameters
    ----------
    urls : sequence of str
        Mirrors, in order of preference.
    path : path
        The file to write. A correct file that is already there is kept.
    size, md5 : int, str
        Of the correct file.
    proxy : str, optional
        Proxy for http and https; otherwise the environment's (``HTTPS_PROXY``…).
    retry : RetryPolicy, optional
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
        If ``urls`` is empty.
    DataError
        If a file is already at ``path`` and is not the right one (it is not changed).
    ConnectionError
        If no mirror has the file; the message gives each one's reason.
    BlockingIOError
        If another process is downloading it and ``wait`` is not set.
    OSError
        If the disk is, or would become, full; received bytes are kept.
    """
    path = Path(path)
    if not urls:
        raise ValueError("urls must be at least one, got none")
    with exclusive(path, wait):
        if path.exists():
            check_file(path, size, md5, progress)
            return path
        part = path.with_name(f".{path.name}.part")
        session = requests.Session()
        if proxy is not None:
            session.proxies = {"http": proxy, "https": proxy}
        transfer = Transfer(part, size, session, retry or RetryPolicy(), progress)
        transfer.need(size - transfer.have())
        with session:
            _from_mirrors(transfer, urls, part, md5)
        os.replace(part, path)
        sync(path.parent)
    return path


def _from_mirrors(transfer: Transfer, urls: Sequence[str], part: Path, md5: str) -> None:
    """Continue from each mirror in turn; then start again with those that refused to continue."""
    reasons: list[str] = []
    queue = [(url, True) for url in urls]
    while queue:
        url, resume = queue.pop(0)
        resumed = resume and transfer.have() > 0
        try:
            transfer.run(url, resume)
        except MirrorError as e:
            if resume and isinstance(e, RangeRefused):
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
    retry: RetryPolicy | None = None,
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
    proxy, retry, wait, progress
        As for :func:`fetch`.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If there is no such release.
    NotADirectoryError
        If ``folder`` is not an existing folder.
    ConnectionError
        If the record that says size and md5 cannot be read, or no mirror has the file.
    DataError, BlockingIOError, OSError
        As for :func:`fetch`.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise NotADirectoryError(f"folder must be an existing folder, got {str(folder)!r}")
    retry = retry or RetryPolicy()
    with requests.Session() as session:
        if proxy is not None:
            session.proxies = {"http": proxy, "https": proxy}
        entry: Release = completed(release(name), session, retry.timeout)
    urls = (*mirrors, *entry.urls)
    return fetch(
        urls,
        folder / entry.file,
        entry.size or 0,
        entry.md5 or "",
        proxy=proxy,
        retry=retry,
        wait=wait,
        progress=progress,
    )
