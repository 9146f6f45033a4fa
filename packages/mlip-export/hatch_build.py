"""Puts the LAMMPS sources into the wheel: from the checkout, or from the sdist that carries them."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class LammpsSources(BuildHookInterface):
    """Adds lammps/ to wheels (as mlip_export/lammps_src) and sdists; editable installs read the checkout."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose where the sources lie and where they go."""
        if version == "editable":
            return
        root = Path(self.root)
        found = [p for p in (root / "lammps_src", root.parents[1] / "lammps") if (p / "src").is_dir()]
        if not found:
            raise FileNotFoundError(
                f"required the LAMMPS sources in {root / 'lammps_src'} or beside the packages"
            )
        target = "mlip_export/lammps_src" if self.target_name == "wheel" else "lammps_src"
        build_data["force_include"][str(found[0])] = target
