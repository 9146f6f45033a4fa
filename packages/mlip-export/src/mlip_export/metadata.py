"""What a package says about itself: a record stored as strings in the .pt2, read without its code."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FORMAT = "mlip-export"
FORMAT_VERSION = "1"


class PackageError(ValueError):
    """A file that is no package, or one that does not fit this machine; the message says what differs."""


@dataclass(frozen=True)
class Metadata:
    """The description that travels inside a package.

    Every field is stored as one string: text as it is, numbers by ``repr``, the rest as JSON.
    """

    type_names: tuple[str, ...]
    """Element symbol of each type."""
    cutoff: float
    """Largest cutoff, Å."""
    cutoffs: tuple[tuple[float, ...], ...]
    """Cutoff of each ordered pair ``[type of center][type of neighbor]``, Å."""
    model: str
    """Name under which the model class is registered."""
    config: dict[str, Any]
    """The model's config, plain data."""
    dtype: str
    """Precision of the model's weights; inputs and outputs are float64 always."""
    device: str
    """``cpu`` or ``cuda``."""
    isa: str
    """Instructions of the code: ``avx512``, ``avx2`` or ``default`` (cpu), or the GPU's ``sm_XX``."""
    parameters: int
    """Number of parameters."""
    checksum: str
    """sha256 of the weights (names, shapes, dtypes and bytes)."""
    torch_version: str
    """torch that compiled the package."""
    exporter_version: str
    """mlip-export that compiled the package."""
    training: dict[str, Any]
    """Metadata of the model file: the training summary."""
    verification: dict[str, Any]
    """Worst differences from eager found before the package was written, eV and eV/Å."""
    length_unit: str = "angstrom"
    """Unit of edge vectors and cutoffs."""
    energy_unit: str = "eV"
    """Unit of energies."""
    format: str = FORMAT
    """Always ``mlip-export``."""
    format_version: str = FORMAT_VERSION
    """Version of this record and of the calling convention."""

    def to_strings(self) -> dict[str, str]:
        """The record as a string → string mapping, the only kind a package can hold."""
        return {f.name: _to_string(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_strings(cls, strings: dict[str, str], where: str = "package") -> Metadata:
        """Read the mapping back.

        Parameters
        ----------
        strings : dict
            What :meth:`to_strings` made.
        where : str
            What messages call it, such as a path.

        Raises
        ------
        PackageError
            If it is no such mapping, of another format version, or incomplete.
        """
        if not isinstance(strings, dict) or strings.get("format") != FORMAT:
            raise PackageError(
                f"{where}: required a package written by mlip-export compile, got one without its metadata"
            )
        if strings.get("format_version") != FORMAT_VERSION:
            raise PackageError(
                f"{where}: required format version {FORMAT_VERSION}, got {strings.get('format_version')!r}; "
                "compile it again with this version of mlip-export"
            )
        try:
            values: dict[str, Any] = {}
            for f in dataclasses.fields(cls):
                text = strings[f.name]
                values[f.name] = text if f.type == "str" else json.loads(text)
            values["type_names"] = tuple(values["type_names"])
            values["cutoffs"] = tuple(tuple(float(c) for c in row) for row in values["cutoffs"])
            values["cutoff"] = float(values["cutoff"])
        except (KeyError, ValueError, TypeError) as e:
            raise PackageError(
                f"{where}: required complete metadata, got a record that cannot be read ({e!r})"
            ) from None
        return cls(**values)


def _to_string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Read a package's metadata without loading its code, on any machine.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    PackageError
        If the file is truncated, is no package, or has another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path: required an existing .pt2 package, got {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("_metadata.json")]
            if not names:
                raise PackageError(
                    f"{path}: required an AOT-Inductor package (.pt2), got an archive of something else"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise PackageError(
                    f"{path}: required an undamaged package, got one whose {damaged} fails its checksum"
                )
            strings = json.loads(archive.read(names[0]))
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, EOFError) as e:
        raise PackageError(
            f"{path}: required a complete .pt2 package, got a truncated or foreign file ({e})"
        ) from None
    return Metadata.from_strings(strings, str(path))


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Replace the metadata of a package just built by ``metadata``, keeping what the compiler added."""
    rewritten = path.with_suffix(".rewritten")
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(rewritten, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("_metadata.json"):
                data = json.dumps(json.loads(data) | metadata.to_strings()).encode()
            target.writestr(entry, data)
    os.replace(rewritten, path)
