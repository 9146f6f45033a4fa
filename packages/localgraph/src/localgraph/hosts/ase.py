"""Tensors and graphs of ASE Atoms; ASE itself is not imported."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from localgraph._graph import Graph
from localgraph._neighbors import neighbors

if TYPE_CHECKING:
    from ase import Atoms


class AtomsTensors(NamedTuple):
    """Geometry of an Atoms object.

    Attributes
    ----------
    positions : Tensor, (N, 3)
        Å.
    cell : Tensor, (3, 3)
        Rows are lattice vectors, Å; zero rows where Atoms has none.
    pbc : Tensor, (3,) bool
        Periodic axes.
    """

    positions: Tensor
    cell: Tensor
    pbc: Tensor


def from_atoms(
    atoms: Atoms, dtype: torch.dtype = torch.float64, device: torch.device | str = "cpu"
) -> AtomsTensors:
    """Return positions, cell and periodic axes of ``atoms``, copied.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from localgraph import neighbors
    >>> positions, cell, pbc = from_atoms(bulk("Cu"))
    >>> neighbors(positions, 3.0, cell, pbc).num_edges
    12
    """
    return AtomsTensors(
        torch.tensor(atoms.positions, dtype=dtype, device=device),
        torch.tensor(atoms.cell.array, dtype=dtype, device=device),
        torch.tensor(atoms.pbc, device=device),
    )


def atoms_neighbors(atoms: Atoms, cutoff: float | Tensor, **keywords: Any) -> Graph:
    """Search the neighbors of an Atoms object; keywords go to :func:`localgraph.neighbors`.

    Examples
    --------
    >>> from ase.build import bulk
    >>> atoms_neighbors(bulk("Cu"), 3.0).shifts.shape
    torch.Size([12, 3])
    """
    positions, cell, pbc = from_atoms(atoms)
    return neighbors(positions, cutoff, cell, pbc, **keywords)
