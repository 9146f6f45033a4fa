"""The exception for files that are not what they should be, and how it names the place."""

from __future__ import annotations

import os


class DataError(ValueError):
    """A file does not hold what it should; the message names file, group and dataset.

    Parameters
    ----------
    path : path
        The file.
    required, received : str
        What was required and what was found.
    group, dataset : str, optional
        Where inside the file.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        required: str,
        received: str,
        group: str | None = None,
        dataset: str | None = None,
    ) -> None:
        self.path, self.group, self.dataset = os.fspath(path), group, dataset
        place = f"file {self.path!r}"
        place += f", group {group!r}" if group is not None else ""
        place += f", dataset {dataset!r}" if dataset is not None else ""
        super().__init__(f"{place}: required {required}, got {received}")
