"""Files read at known bytes with ``pread``, without mapping them."""

from __future__ import annotations

import os
from pathlib import Path
from types import TracebackType
from typing import Self


class RawFile:
    """Read an existing file with ``pread``; a context manager.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"path must be an existing file, got {str(self.path)!r}")
        self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        """Close the file; closing twice is harmless."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __del__(self) -> None:
        if "fd" in self.__dict__:
            self.close()

    def read_at(self, place: int, size: int) -> bytes:
        """Return ``size`` bytes from byte ``place`` on.

        Raises
        ------
        EOFError
            If the file ends before.
        """
        data = os.pread(self.fd, size, place)
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), place + len(data))
            if not more:
                raise EOFError(f"the end of the file, {len(data)} of {size} bytes after byte {place}")
            data += more
        return data
