"""Table of released files: URLs, sizes and checksums (``releases.json``)."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, NamedTuple

import requests

RECORD_API = "https://zenodo.org/api/records/{record}"


class Release(NamedTuple):
    """One released file.

    Attributes
    ----------
    name, title : str
        Key in the table, and name in words.
    file : str
        File name.
    doi : str
        DOI of the Zenodo record.
    record : int
        Number of the Zenodo record.
    size : int or None
        Bytes; ``None`` where only the record states it.
    md5 : str or None
        Hexadecimal; likewise.
    license : str or None
        SPDX identifier.
    groups, conformations : int or None
        Counts stated by the release.
    urls : tuple of str
        Mirrors, in order of preference.
    """

    name: str
    title: str
    file: str
    doi: str
    record: int
    size: int | None
    md5: str | None
    license: str | None
    groups: int | None
    conformations: int | None
    urls: tuple[str, ...]


def releases() -> dict[str, Release]:
    """Return the table of releases by name.

    Examples
    --------
    >>> releases()["2.0.1"].size
    37479271148
    """
    table = json.loads(files("spice_data.download").joinpath("releases.json").read_text("utf-8"))
    return {name: Release(name=name, **{**row, "urls": tuple(row["urls"])}) for name, row in table.items()}


def release(name: str) -> Release:
    """Return release ``name``; ``ValueError`` naming the known ones otherwise."""
    table = releases()
    if name not in table:
        raise ValueError(f"release must be one of {sorted(table)}, got {name!r}")
    return table[name]


def completed(entry: Release, session: requests.Session, timeout: float, api: str = RECORD_API) -> Release:
    """Return ``entry`` with size and md5, from its Zenodo record where the table has none.

    Raises
    ------
    ConnectionError
        If the record cannot be read or does not list the file.
    """
    if entry.size is not None and entry.md5 is not None:
        return entry
    url = api.format(record=entry.record)
    try:
        answer = session.get(url, timeout=timeout)
        answer.raise_for_status()
        listed: list[dict[str, Any]] = answer.json()["files"]
        row = next(f for f in listed if f["key"] == entry.file)
        kind, _, md5 = str(row["checksum"]).partition(":")
        size = int(row["size"])
    except (requests.RequestException, ValueError, KeyError, TypeError, StopIteration) as e:
        raise ConnectionError(f"size and md5 of {entry.file} must be at {url}, got {e!r}") from None
    if kind != "md5":
        raise ConnectionError(f"checksum of {entry.file} must be an md5 at {url}, got {kind!r}")
    return entry._replace(size=size, md5=md5)
