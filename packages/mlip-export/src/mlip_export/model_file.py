"""Metadata of exported models: a record stored as strings in the .pt2, read without running its code."""

from __future__ import annotations

import dataclasses
import json
import os
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

FORMAT = "mlip-export"
FORMAT_VERSION = "1"

SHORTEST_DISTANCE = 0.1
"""Å; every host refuses geometries with nearer atoms. The metadata hands it to the hosts, C++ included."""

EDGES_PER_CALL = {"cpu": 4096, "cuda": 2_000_000}
"""Default edges per call by device: on a CPU the activations of a call stay near the caches."""


class ExportedModelError(ValueError):
    """A file that is no exported model, or one that does not fit this machine; the message says what differs."""


@dataclass(frozen=True)
class Metadata:
    """The description that travels inside an exported model.

    Every field is stored as one string: text as it is, numbers by ``repr``, the rest as JSON.
    """

    type_names: tuple[str, ...]
    """Name of each type, as a rule its element symbol."""
    elements: tuple[str, ...]
    """Element symbol of each type; its name where it is no element."""
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
    precision: str
    """What products of float32 matrices round their operands to: ``float32`` (not at all), ``tf32`` or ``bf16``."""
    device: str
    """``cpu`` or ``cuda``."""
    isa: str
    """Instructions: ``amx``, ``avx512``, ``avx2`` or ``default`` (cpu), or a GPU's ``sm_XX`` or ``gfxXXX``."""
    parameters: int
    """Number of parameters."""
    checksum: str
    """sha256 of the weights (names, shapes, dtypes and bytes)."""
    torch_version: str
    """torch that compiled the code."""
    exporter_version: str
    """mlip-export that wrote the file."""
    training: dict[str, Any]
    """Metadata of the model file: the training summary."""
    verification: dict[str, Any]
    """Largest differences found before the file was written, eV and eV/Å: from eager, and from float64 on the CPU."""
    edges_per_call: int
    """Edges that hosts evaluate per call by default; bounds the memory of activations."""
    max_edges: int
    """Most edges of one call, which the code's indices address."""
    max_atoms: int
    """Most atoms of one call, which the code's indices address."""
    bytes_per_edge: int
    """Memory that a call takes per edge beside its inputs, measured at export."""
    bytes_per_atom: int
    """Memory that a call takes per atom beside its inputs, measured at export."""
    products: dict[str, Any]
    """Products with constant matrices on a CPU: ``chosen``, ``packed`` (our kernel) or ``torch``; what that was chosen
    by, the ``speedup`` of our kernel over ``torch.mm`` or the ``milliseconds`` of the whole program with each; and of
    our kernel the vector length, the speedup for each (inner x columns), and how many products it computes. Pairs of
    products on a GPU: ``chosen``, ``chained`` or ``torch``, the number of pairs ``forward`` and ``backward``, and the
    ``milliseconds`` of the whole program with either, where they were measured. Empty where there was no choice."""
    two_body_table: dict[str, Any]
    """Tables of what depends on edges' lengths and types alone: the ``tolerance`` of forces and the largest difference
    found, ``max_force``, eV/Å, and of energies ``max_energy``, eV per atom; the fewest and most ``intervals`` of a pair
    of types, and ``bytes``. Empty without tables."""
    shortest_distance: float = SHORTEST_DISTANCE
    """Å; hosts refuse geometries with nearer atoms."""
    length_unit: str = "angstrom"
    """Unit of edge vectors and cutoffs."""
    energy_unit: str = "eV"
    """Unit of energies."""
    format: str = FORMAT
    """Always ``mlip-export``."""
    format_version: str = FORMAT_VERSION
    """Version of this record and of the calling convention."""

    def to_strings(self) -> dict[str, str]:
        """Return the record as a string → string mapping, the only kind that a .pt2 holds."""
        return {f.name: _to_string(getattr(self, f.name)) for f in dataclasses.fields(self)}

    @classmethod
    def from_strings(cls, strings: dict[str, str], where: str = "file") -> Metadata:
        """Build metadata from the mapping of :meth:`to_strings`.

        Parameters
        ----------
        strings : dict
            Result of :meth:`to_strings`.
        where : str
            Name of the source in errors, such as a path.

        Raises
        ------
        ExportedModelError
            If it is no such mapping, of another format version, or incomplete.
        """
        if not isinstance(strings, dict) or strings.get("format") != FORMAT:
            raise ExportedModelError(
                f"{where} must be an exported model, written by mlip-export compile, got a file without its metadata"
            )
        if strings.get("format_version") != FORMAT_VERSION:
            raise ExportedModelError(
                f"{where} must have format version {FORMAT_VERSION!r}, got {strings.get('format_version')!r}; "
                "compile it again with this version of mlip-export"
            )
        try:
            values: dict[str, Any] = {}
            for f in dataclasses.fields(cls):
                text = strings[f.name]
                values[f.name] = text if f.type == "str" else json.loads(text)
            values["type_names"], values["elements"] = tuple(values["type_names"]), tuple(values["elements"])
            values["cutoffs"] = tuple(tuple(float(c) for c in row) for row in values["cutoffs"])
            for name in ("cutoff", "shortest_distance"):
                values[name] = float(values[name])
        except (KeyError, ValueError, TypeError) as e:
            raise ExportedModelError(
                f"{where} must have complete metadata, got {e!r} on reading it"
            ) from None
        return cls(**values)


def _to_string(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Read the metadata of an exported model without loading its code, on any machine.

    Raises
    ------
    FileNotFoundError
        If ``path`` does not exist.
    ExportedModelError
        If the file is truncated, is no exported model, or has another format version.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"path must be an existing .pt2 file, got {str(path)!r}")
    try:
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if n.endswith("_metadata.json")]
            if not names:
                raise ExportedModelError(
                    f"{path} must be an exported model (.pt2), got an archive of something else"
                )
            damaged = archive.testzip()
            if damaged is not None:
                raise ExportedModelError(
                    f"{path} must be undamaged, got one whose {damaged} fails its checksum"
                )
            strings = json.loads(archive.read(names[0]))
    except (zipfile.BadZipFile, json.JSONDecodeError, UnicodeDecodeError, EOFError) as e:
        raise ExportedModelError(
            f"{path} must be a complete .pt2 file, got a truncated or foreign one ({e})"
        ) from None
    return Metadata.from_strings(strings, str(path))


def write_exported(file: BinaryIO, compiled: Path, metadata: Metadata) -> None:
    """Copy what the compiler wrote into ``file``, with the metadata added to the compiler's own."""
    with zipfile.ZipFile(compiled) as source, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("_metadata.json"):
                data = json.dumps(json.loads(data) | metadata.to_strings()).encode()
            target.writestr(entry, data)
