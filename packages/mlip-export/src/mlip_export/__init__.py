"""Export a potential to one compiled file that runs in ASE, torch-sim, OpenMM, LAMMPS and i-PI."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_export import ase as ase
    from mlip_export import lammps as lammps
    from mlip_export import openmm as openmm
    from mlip_export import torchsim as torchsim
    from mlip_export._compile import compile
    from mlip_export._hessian import hessian
    from mlip_export._select import select
    from mlip_export._verify import Disagreement
    from mlip_export.memory import keep_freed_memory
    from mlip_export.model_file import ExportedModelError, Metadata, read_metadata
    from mlip_export.recording import CaptureError
    from mlip_export.runtime import EdgePotential, GeometryError, load

__version__ = "0.1.0"

__all__ = [
    "CaptureError",
    "Disagreement",
    "EdgePotential",
    "ExportedModelError",
    "GeometryError",
    "Metadata",
    "compile",
    "hessian",
    "keep_freed_memory",
    "load",
    "read_metadata",
    "select",
]

_HOMES = {
    "CaptureError": "recording",
    "Disagreement": "_verify",
    "EdgePotential": "runtime",
    "GeometryError": "runtime",
    "ExportedModelError": "model_file",
    "Metadata": "model_file",
    "compile": "_compile",
    "hessian": "_hessian",
    "keep_freed_memory": "memory",
    "load": "runtime",
    "read_metadata": "model_file",
    "select": "_select",
}

_HOSTS = ("ase", "lammps", "metatomic", "openmm", "torchsim")
"""Modules of the hosts, imported on first use, with what they need."""


def __getattr__(name: str) -> Any:
    """Import on first use: each start of LAMMPS asks for the plugin and must not wait for torch."""
    if name in _HOSTS:
        return import_module(f"mlip_export.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module 'mlip_export' has no attribute {name!r}")
    return getattr(import_module(f"mlip_export.{_HOMES[name]}"), name)
