"""One run per output folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

LOCK, OWNER = ".lock", ".lock.json"


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the system releases it when the process ends, however it does.

    Raises
    ------
    ValueError
        If another run holds it, naming process and host.
    """
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        try:
            owner = json.loads((folder / OWNER).read_text())
        except (OSError, ValueError):
            owner = {"process": "unknown", "host": "unknown"}
        raise ValueError(
            f"output must be a folder that no other run uses, got {str(folder)!r}, in use by process "
            f"{owner['process']} on {owner['host']}"
        ) from None
    try:
        (folder / OWNER).write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
    finally:
        (folder / OWNER).unlink(missing_ok=True)
        lock.release()
