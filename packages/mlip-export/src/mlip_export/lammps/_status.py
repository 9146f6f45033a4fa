"""Report the versions, compiler and plugin of LAMMPS."""

from __future__ import annotations

import os
from collections.abc import Callable

from mlip_export.lammps._build import PLUGIN, BuildError, compiler, mpi_include, plugin_directory, versions


def status() -> str:
    """Return lines that name the versions, the compiler, mpi.h and the plugin, or how to get what is missing."""
    plugin = plugin_directory() / PLUGIN
    return "\n".join(
        [
            *versions(),
            f"compiler: {_found(lambda: ' '.join(compiler()))}",
            f"mpi.h: {_found(lambda: str(mpi_include()))}",
            f"torch threads per rank: OMP_NUM_THREADS={os.environ.get('OMP_NUM_THREADS', 'unset (LAMMPS takes 1)')}",
            f"plugin: {plugin}" if plugin.is_file() else "plugin: not built, run 'mlip-export lammps build'",
        ]
    )


def _found(look: Callable[[], str]) -> str:
    try:
        return look()
    except BuildError as e:
        return f"missing ({e})"
