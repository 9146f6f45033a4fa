"""One run per output folder."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from spice_data.files import exclusive


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of an output folder; the system releases it when the process ends, however it does.

    Raises
    ------
    ValueError
        If another run holds it, naming process and host.
    """
    owner = folder / ".lock.json"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(exclusive(folder / "run", wait=False))
        except BlockingIOError:
            holder = {"process": "unknown", "host": "unknown"}
            with contextlib.suppress(OSError, ValueError):
                holder = json.loads(owner.read_text())
            raise ValueError(
                f"output must be a folder that no other run uses, got {str(folder)!r}, in use by process "
                f"{holder['process']} on {holder['host']}"
            ) from None
        stack.callback(owner.unlink, missing_ok=True)
        owner.write_text(json.dumps({"process": os.getpid(), "host": socket.gethostname()}))
        yield
