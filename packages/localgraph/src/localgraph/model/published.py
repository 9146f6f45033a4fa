"""Published model files by name: downloaded once, resumed, checked by MD5 and kept in a cache."""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

log = logging.getLogger("localgraph")

PUBLISHED = "mlip.published"
_NAME = re.compile(r"[\w.-]+:[\w./-]+:[\w.-]+")  # site:group/model:version
_CHUNK = 1 << 18


class Published(NamedTuple):
    """One published model file.

    Attributes
    ----------
    name : str
        ``site:group/model:version``, as the site spells it.
    file, md5 : str
        Name of the file, and its MD5, hexadecimal.
    urls : tuple of str
        Where it is, in order of preference.
    license, source : str
        SPDX identifier, and the page to cite.
    """

    name: str
    file: str
    md5: str
    urls: tuple[str, ...]
    license: str
    source: str


class RetryPolicy(NamedTuple):
    """Timeout of a connection, number of attempts without progress, and delay before the second attempt, seconds."""

    timeout: float = 30.0
    attempts: int = 5
    pause: float = 1.0


class _Refused(Exception):
    """A URL does not have the file."""


def published() -> dict[str, Published]:
    """Return the published model files that installed packages know, by name (entry-point group "mlip.published").

    An entry point is a function that returns a mapping from names to ``file``, ``md5``, ``urls``, ``license`` and
    ``source``; allegro-model brings one.
    """
    found = {}
    for entry in entry_points(group=PUBLISHED):
        for name, row in entry.load()().items():
            found[name] = Published(name=name, **{**row, "urls": tuple(row["urls"])})
    return found


def is_published_name(name: str | os.PathLike[str]) -> bool:
    """Return whether ``name`` is spelled like the name of a published model, and no file has it."""
    return _NAME.fullmatch(os.fspath(name)) is not None and not Path(name).exists()


def cache_folder() -> Path:
    """Return where published files are kept: ``$MLIP_CACHE``, or the folder ``mlip`` of the user's cache."""
    own = os.environ.get("MLIP_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "mlip"


def fetch(
    name: str,
    *,
    cache: str | os.PathLike[str] | None = None,
    mirrors: Sequence[str] = (),
    retry: RetryPolicy | None = None,
) -> Path:
    """Return the file of a published model, downloaded unless the cache has it.

    Received bytes are kept, and the next call continues from them. The file appears only when its MD5 is right; a file
    of the cache with another MD5 is replaced. Other processes that want the same file wait. Needs ``requests`` and
    ``tqdm`` (extra ``fetch``) where it downloads.

    Parameters
    ----------
    name : str
        A key of :func:`published`.
    cache : path, optional
        Folder of the files; by default ``$MLIP_CACHE``, or ``mlip`` in the user's cache.
    mirrors : sequence of str
        URLs of folders that hold the file under its own name, tried before the public record.
    retry : RetryPolicy, optional
        Timeout and attempts.

    Returns
    -------
    Path
        The file.

    Raises
    ------
    ValueError
        If no installed package knows the name.
    ConnectionError
        If no URL has the file; the message gives each one's reason, and where to put a copy by hand.
    ImportError
        Where it must download and ``requests`` or ``tqdm`` is missing.
    """
    known = published()
    if name not in known:
        have = ", ".join(sorted(known)) or "none (allegro-model, which lists some, is not installed)"
        raise ValueError(f"name must be that of a published model, got {name!r}; known: {have}")
    entry = known[name]
    folder = Path(cache) if cache is not None else cache_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / entry.file
    with _alone(path):
        if path.exists():
            if _md5(path) == entry.md5:
                return path
            log.warning("%s has another MD5 than %s: it is downloaded again", path, entry.name)
        urls = [f"{mirror.rstrip('/')}/{entry.file}" for mirror in mirrors] + list(entry.urls)
        log.warning("downloading %s, license %s (%s), to %s", name, entry.license, entry.source, path)
        part = path.with_name(f".{path.name}.{entry.md5[:8]}.part")
        _from_any(urls, part, entry, path, retry or RetryPolicy())
        os.replace(part, path)
    return path


def _from_any(urls: Sequence[str], part: Path, entry: Published, path: Path, retry: RetryPolicy) -> None:
    """Fill ``part`` from the first URL that has the right file; a wrong one that came in pieces is asked for again."""
    requests, _ = _libraries()
    reasons, queue = [], list(urls)
    with requests.Session() as session:
        while queue:
            url = queue.pop(0)
            try:
                in_pieces = _receive(session, url, part, retry)
            except (_Refused, requests.RequestException) as e:
                reasons.append(f"{url}: {e}")
                continue
            found = _md5(part)
            if found == entry.md5:
                return
            part.unlink()
            if in_pieces:
                queue.insert(0, url)
            else:
                reasons.append(f"{url}: MD5 {found} instead of {entry.md5}")
    raise ConnectionError(
        f"{entry.name} must be at one of its URLs, got none of them ({'; '.join(reasons)}); "
        f"a copy from elsewhere is used if it is put at {path}"
    )


def _receive(session: Any, url: str, part: Path, retry: RetryPolicy) -> bool:
    """Continue ``part`` to the end of the file at ``url``, through interruptions; return whether it came in pieces."""
    requests, _ = _libraries()
    failures, before = 0, _size(part)
    in_pieces = before > 0
    while True:
        try:
            if _once(session, url, part, retry.timeout):
                return in_pieces
            reason: Exception = _Refused("the connection ends early")
        except requests.RequestException as e:
            reason = e
        have = _size(part)
        failures = 0 if have > before else failures + 1
        before = have
        in_pieces = in_pieces or have > 0
        if failures >= retry.attempts:
            raise reason
        time.sleep(min(60.0, retry.pause * 2 ** max(0, failures - 1)))


def _once(session: Any, url: str, part: Path, timeout: float) -> bool:
    """Make one request, from the end of ``part``; return whether the file is whole."""
    _, tqdm = _libraries()
    start = _size(part)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with session.get(url, headers=headers, stream=True, timeout=timeout) as answer:
        if answer.status_code == 416:  # longer than the file, or all of it
            total = re.fullmatch(r"bytes \*/(\d+)", answer.headers.get("Content-Range", ""))
            if total and int(total[1]) == start:
                return True
            part.unlink(missing_ok=True)
            return False
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 429):
            raise _Refused(f"{answer.status_code} {answer.reason}")
        answer.raise_for_status()
        continued = re.fullmatch(r"bytes (\d+)-\d+/(\d+)", answer.headers.get("Content-Range", ""))
        if answer.status_code != 206 or not continued or int(continued[1]) != start:
            start = 0  # a server without ranges sends the whole file
        length = answer.headers.get("Content-Length")
        total_size = None if length is None else start + int(length)
        with (
            open(part, "ab" if start else "wb") as file,
            tqdm(
                total=total_size,
                initial=start,
                unit="B",
                unit_scale=True,
                desc=Path(url).name,
                disable=None,
                leave=False,
            ) as bar,
        ):
            for piece in answer.iter_content(_CHUNK):
                file.write(piece)
                bar.update(len(piece))
    return total_size is None or _size(part) == total_size


def _libraries() -> tuple[Any, Any]:
    try:
        import requests
        from tqdm import tqdm
    except ImportError as e:
        raise ImportError(f"a download needs {e.name}: pip install 'mlip-localgraph[fetch]'") from None
    return requests, tqdm


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _md5(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Hold the lock of ``path``; it is released when the process ends, however it ends."""
    with open(path.with_name(f".{path.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def find_published(name: str | os.PathLike[str]) -> Path | None:
    """Return the file of a published model by its name, downloaded if needed; None for what is no such name."""
    return fetch(os.fspath(name)) if is_published_name(name) else None
