"""Atomic file writes, and safetensors files with a checked header."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from safetensors import SafetensorError, safe_open
from torch import Tensor


@contextmanager
def atomic_write(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """Open a temporary binary file beside ``path`` that replaces it when the block ends.

    The data is flushed to disk first. If the block raises, the temporary file is removed and ``path`` is unchanged.

    Examples
    --------
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with atomic_write(Path(folder) / "a") as file:
    ...         _ = file.write(b"all of it")
    ...     print((Path(folder) / "a").read_text(), len(os.listdir(folder)))
    all of it 1
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read_safetensors(
    path: str | os.PathLike[str], header: Mapping[str, str], argument: str = "path", kind: str = "model file"
) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Return the metadata and the tensors, on the CPU, of a safetensors file.

    Parameters
    ----------
    path : path
        The file.
    header : dict
        Metadata that the file must have.
    argument, kind : str
        Names of the argument and of the kind of file in errors.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged, or has other metadata than ``header``.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{argument} must be an existing {kind}, got {str(path)!r}")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, OSError) as e:
        raise ValueError(
            f"{argument} must be a complete {kind}, got the damaged or foreign file {str(path)!r} ({e})"
        ) from None
    if any(found.get(key) != value for key, value in header.items()):
        wanted, got = (
            ", ".join(f"{key} {values.get(key)!r}" for key in header) for values in (header, found)
        )
        raise ValueError(f"{argument} must be a {kind} of {wanted}, got {str(path)!r} with {got}")
    return found, tensors
