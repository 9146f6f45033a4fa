"""The potential ``allegro`` of OpenMM-ML: exported models in MLPotential, whole systems or mixed ones.

OpenMM-ML loads the entry points of all potentials when it is imported, so this module must not import it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlip_export._openmmml import ExportedModel


class ExportedModelFactory:
    """Create the implementation for ``MLPotential("allegro", model_path="model.pt2")``."""

    def createImpl(self, name: str, **args: Any) -> ExportedModel:
        """Return the implementation; ``ValueError`` where ``model_path`` is missing."""
        from mlip_export._openmmml import ExportedModel

        return ExportedModel(name, **args)
