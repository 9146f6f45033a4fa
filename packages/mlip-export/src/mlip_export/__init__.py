"""One AOT-Inductor package of a potential for ASE, torch-sim and LAMMPS."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_export import ase as ase
    from mlip_export import lammps as lammps
    from mlip_export import torchsim as torchsim
    from mlip_export.memory import keep_freed_memory
    from mlip_export.metadata import Metadata, PackageError, read_metadata
    from mlip_export.package import compile
    from mlip_export.runtime import EdgePotential, GeometryError, load
    from mlip_export.verify import Disagreement

__version__ = "0.1.0"

__all__ = [
    "Disagreement",
    "EdgePotential",
    "GeometryError",
    "Metadata",
    "PackageError",
    "compile",
    "keep_freed_memory",
    "load",
    "read_metadata",
]

_HOMES = {
    "Disagreement": "verify",
    "EdgePotential": "runtime",
    "GeometryError": "runtime",
    "Metadata": "metadata",
    "PackageError": "metadata",
    "compile": "package",
    "keep_freed_memory": "memory",
    "load": "runtime",
    "read_metadata": "metadata",
}

_HOSTS = ("ase", "lammps", "torchsim")
"""Modules that ``import mlip_export`` reaches without importing what they need."""


def __getattr__(name: str) -> Any:
    """Import on first use: each start of LAMMPS asks for the plugin and must not wait for torch."""
    if name in _HOSTS:
        return import_module(f"mlip_export.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_export' has no attribute {name!r}")
    return getattr(import_module(f"mlip_export.{_HOMES[name]}"), name)
