"""Files that appear under their final name whole or not at all, and one process at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout


def sync_directory(path: Path) -> None:
    """Make a rename in directory ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_target(path: Path, overwrite: bool, source: Path | None = None) -> None:
    """Refuse to write ``path`` where that would destroy something.

    Raises
    ------
    FileExistsError
        When it is ``source`` under any name, a folder, or an existing file and ``overwrite`` is not set.
    """
    if source is not None and path.exists() and path.samefile(source):
        raise FileExistsError(f"path: required another file than the source, got {str(path)!r}")
    if path.is_dir() or (path.exists() and not overwrite):
        required = "a new file (or overwrite=True)"
        raise FileExistsError(f"path: required {required}, got the existing {str(path)!r}")


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """A temporary text file (UTF-8) beside ``path`` to write to, renamed to ``path`` unless something is raised."""
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            yield f
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to a temporary file beside ``path``, then rename it."""
    with replacing(Path(path)) as file:
        file.write(text)


@contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of ``path``, a hidden file beside it; whether another process had to be waited for.

    Parameters
    ----------
    path : Path
        The file that will be written.
    wait : bool
        Wait for the other process instead of raising.

    Raises
    ------
    BlockingIOError
        When another process holds it and ``wait`` is not set.
    FileNotFoundError
        When the folder does not exist.
    """
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path: required an existing folder, got {str(path.parent)!r}")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise BlockingIOError(
                f"path: required a file that no other process is writing, got {str(path)!r}"
            ) from None
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()
