"""Atomic file writes, one writer per file, and JSON documents of a named format."""

from __future__ import annotations

import json
import multiprocessing
import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar

from filelock import FileLock, Timeout

from spice_data.errors import DataError

T = TypeVar("T")


def sync(path: Path) -> None:
    """Flush a file or a folder to disk: after a rename, its folder makes the rename durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def check_target(path: Path, overwrite: bool, source: Path | None = None) -> None:
    """Raise ``FileExistsError`` if ``path`` is a folder, is ``source``, or exists and ``overwrite`` is not set."""
    if source is not None and path.exists() and path.samefile(source):
        raise FileExistsError(f"path must be another file than the source, got {str(path)!r}")
    if path.is_dir() or (path.exists() and not overwrite):
        raise FileExistsError(f"path must be a new file (or overwrite=True), got the existing {str(path)!r}")


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a temporary text file (UTF-8) beside ``path`` that is renamed to ``path`` unless an error is raised."""
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


@contextmanager
def exclusive(path: Path, wait: bool) -> Iterator[bool]:
    """Hold the lock of ``path``, a hidden file beside it; yield whether another process held it before.

    Parameters
    ----------
    path : Path
        The file that will be written.
    wait : bool
        Wait for the other process instead of raising.

    Raises
    ------
    BlockingIOError
        If another process holds it and ``wait`` is not set.
    FileNotFoundError
        If the folder does not exist.
    RuntimeError
        In a worker that is importing a script without a main guard: the process that started it holds the lock.
    """
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError('script must start its work under if __name__ == "__main__":, got none')
    if not path.parent.is_dir():
        raise FileNotFoundError(f"path must be in an existing folder, got {str(path)!r}")
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    waited = False
    try:
        lock.acquire(timeout=0)
    except Timeout:
        if not wait:
            raise BlockingIOError(
                f"path must be a file that no other process is writing, got {str(path)!r}"
            ) from None
        lock.acquire()
        waited = True
    try:
        yield waited
    finally:
        lock.release()


def read_json(path: str | os.PathLike[str], kind: str, build: Callable[[dict[str, Any]], T]) -> T:
    """Return ``build`` of the JSON object that :func:`write_json` wrote; ``DataError`` for anything else."""
    try:
        data = json.loads(Path(path).read_text("utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as e:
        raise DataError(path, f"be JSON of format {kind!r}", e) from None
    received = (data.get("format"), data.get("version")) if isinstance(data, dict) else type(data).__name__
    if received != (kind, 1):
        raise DataError(path, f"have format {kind!r} version 1", received)
    try:
        return build(data)
    except DataError:
        raise
    except KeyError as e:
        raise DataError(path, f"have the field {e}", "none") from None
    except (TypeError, ValueError, AttributeError) as e:
        raise DataError(path, "have fields of the right types", e) from None


def write_json(path: str | os.PathLike[str], kind: str, data: dict[str, Any]) -> None:
    """Write ``data`` as JSON atomically; ``FileExistsError`` if ``path`` is a file of another kind."""
    path = Path(path)
    if path.is_file():
        with path.open("rb") as existing:
            head = existing.read(64)
        if head and not head.startswith(f'{{"format": "{kind}"'.encode()):
            required = f"a new file or one of format {kind!r}"
            raise FileExistsError(f"path must be {required}, got the existing {str(path)!r}")
    with replacing(path) as file:
        json.dump({"format": kind, "version": 1, **data}, file, ensure_ascii=False)
