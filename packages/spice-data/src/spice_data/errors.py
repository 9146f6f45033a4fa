"""The exception for defective data files."""

from __future__ import annotations

import os
from typing import Self


class DataError(ValueError):
    """Defective data file: ``file 'x', group 'g', dataset 'd' must {requirement}, got {received}``.

    Parameters
    ----------
    path : path
        The file.
    requirement : str
        What the place must do, beginning with a verb: ``"be ..."``, ``"have ..."``.
    received : object
        What was found; its text is the end of the message.
    group, dataset : str, optional
        Place in the file.
    at : str, optional
        Place in a file without groups, such as ``"frame 3"``.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        requirement: str,
        received: object,
        group: str | None = None,
        dataset: str | None = None,
        at: str | None = None,
    ) -> None:
        place = f", {at}" if at is not None else ""
        place += f", group {group!r}" if group is not None else ""
        place += f", dataset {dataset!r}" if dataset is not None else ""
        self._set(path, f"{place} must {requirement}, got {received}", group, dataset)

    def _set(
        self, path: str | os.PathLike[str], text: str, group: str | None = None, dataset: str | None = None
    ) -> Self:
        self.path, self.group, self.dataset = os.fspath(path), group, dataset
        self.args = (f"file {self.path!r}{text}",)
        return self

    @classmethod
    def inside(cls, path: str | os.PathLike[str], at: str, error: Exception) -> Self:
        """Return the error of a value at a place in a file: ``file 'x', frame 3, {error}``."""
        return cls.__new__(cls)._set(path, f", {at}, {error}")

    def __reduce__(self) -> tuple[object, ...]:
        return _unpickle, (self.args[0], vars(self))


def _unpickle(message: str, fields: dict[str, str | None]) -> DataError:
    error = DataError.__new__(DataError)
    error.args = (message,)
    vars(error).update(fields)
    return error
