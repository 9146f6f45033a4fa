"""The implementation behind ``MLPotential("allegro", model_path=...)``."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import openmm
from openmm import app
from openmmml.mlpotential import MLPotentialImpl

from mlip_export.openmm import force

OPTIONS = ("skin", "max_edges", "device", "cuda_graph")
"""Options of :func:`mlip_export.openmm.force` that createSystem passes on."""


class ExportedModel(MLPotentialImpl):  # type: ignore[misc]  # OpenMM-ML is not typed
    """Add the force of an exported model to a System.

    The model sees elements and positions alone: charges, bonds and residues of the topology do not enter it. It has
    no long-range part, so mixed systems embed it mechanically. Constraints of the System are left as they are.

    Parameters
    ----------
    name : str
        Name under which the potential was asked for.
    model_path : path or sequence of paths
        An exported model, or the members of a committee.
    """

    def __init__(self, name: str, model_path: Any = None, **other: Any):
        if model_path is None:
            raise ValueError(
                f'model_path must be the path of an exported model, as in MLPotential("{name}", '
                f'model_path="model.pt2"), got {sorted(other) or "nothing"}'
            )
        if other:
            raise ValueError(f"arguments of MLPotential must be model_path alone, got also {sorted(other)}")
        self.name, self.model_path = name, model_path

    def getMLLongRange(self) -> bool:
        """Return False: the potential is strictly local."""
        return False

    def addForces(
        self,
        topology: app.Topology,
        system: openmm.System,
        atoms: Iterable[int] | None,
        forceGroup: int,
        **args: Any,
    ) -> None:
        """Add the force for ``atoms``, or all of them, in a force group.

        Periodic where the topology or the System is. ``skin``, ``max_edges``, ``device`` and ``cuda_graph`` are options
        of :func:`mlip_export.openmm.force`; others are refused.
        """
        if unknown := sorted(set(args) - set(OPTIONS)):
            raise ValueError(f"options of the potential {self.name!r} must be among {OPTIONS}, got {unknown}")
        periodic = topology.getPeriodicBoxVectors() is not None or system.usesPeriodicBoundaryConditions()
        added = force(
            self.model_path,
            topology,
            particles=None if atoms is None else list(atoms),
            periodic=periodic,
            **args,
        )
        added.setForceGroup(forceGroup)
        system.addForce(added)
