"""Entry point by which LAMMPS finds the built plugin; does nothing where something is missing."""

from __future__ import annotations

import ctypes
import importlib.metadata
import os
import sys
from pathlib import Path

HINT = "mlip-export: the plugin with pair_style allegro is not built here; build it by 'mlip-export lammps build'"

_RANKS = ("PMI_RANK", "OMPI_COMM_WORLD_RANK", "SLURM_PROCID")


def directory() -> str:
    """Return the directory of the plugin built for the installed torch and LAMMPS; no such directory without one.

    Every start of ``lmp`` and every ``import lammps`` calls this, so it imports no torch and never raises. Where the
    plugin is missing and the input of ``lmp`` may ask for it, a hint goes to stderr.
    """
    try:
        from mlip_export.lammps import PLUGIN, plugin_directory

        _load_mpi()
        found = plugin_directory()
        if not (found / PLUGIN).is_file() and _wants_the_plugin(sys.argv):
            print(HINT, file=sys.stderr)
        return str(found)
    except Exception:
        return "/nonexistent/mlip-export-plugin"


def _load_mpi() -> None:
    """Load the MPI library of the wheels, which ``from lammps import lammps`` finds by LD_LIBRARY_PATH alone."""
    try:
        files = importlib.metadata.files("mpich") or []
        libraries = [f.locate() for f in files if f.name.startswith("libmpi.so.")]
        if sys.platform == "linux" and libraries:
            ctypes.CDLL(str(libraries[0]))  # local: its symbols must not reach another MPI
    except (OSError, importlib.metadata.PackageNotFoundError):
        return


def _wants_the_plugin(arguments: list[str]) -> bool:
    """Whether this is the first rank of ``lmp`` with an input that may name the pair style."""
    if Path(arguments[0]).name != "lmp" or any(os.environ.get(name, "0") != "0" for name in _RANKS):
        return False
    if {"-h", "-help"} & set(arguments):
        return False
    named = [arguments[k + 1] for k, word in enumerate(arguments[:-1]) if word in ("-in", "-i")]
    if not named or not Path(named[0]).is_file():
        return True  # commands from stdin
    text = Path(named[0]).read_text(errors="replace")
    return "allegro" in text or "include" in text
