"""Files that appear under their final name whole or not at all, and one process at a time."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout


def sync_directory(path: Path) -> None:
    """Make a rename in directory ``path`` durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write ``text`` (UTF-8) to a temporary file beside ``path``, then rename it."""
    path = Path(path)
    fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(fd, "w", encoding="utf-8") as f:
            f.write(text)
            f.flush()
            os.fsync(f.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


@contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[None]:
    """Hold the lock of ``path``, a hidden file beside it.

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
    try:
        lock.acquire(timeout=-1 if wait else 0)
    except Timeout:
        raise BlockingIOError(
            f"path: required a file that no other process is writing, got {str(path)!r}"
        ) from None
    try:
        yield
    finally:
        lock.release()
