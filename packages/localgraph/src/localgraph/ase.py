"""From ASE Atoms to the tensors and graphs of this package; ASE itself is not imported."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from localgraph.graph import Graph
from localgraph.neighbors import neighbors

if TYPE_CHECKING:
    from ase import Atoms


class AtomsTensors(NamedTuple):
    """What an Atoms object says about geometry.

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
    """Positions, cell and periodic axes of ``atoms``, copied.

    Examples
    --------
    >>> from ase.build import bulk
    >>> from localgraph import neighbors
    >>> positions, cell, pbc = from_atoms(bulk("Cu"))
    >>> neighbors(positions, 3.0, cell, pbc).num_edges
    12
    """
    return AtomsTensors(
        torch.tensor(atoms.get_positions(), dtype=dtype, device=device),
        torch.tensor(atoms.get_cell().array, dtype=dtype, device=device),
        torch.tensor(atoms.get_pbc(), device=device),
    )


def types_of(atoms: Atoms, type_names: Sequence[str], device: torch.device | str = "cpu") -> Tensor:
    """Type of each atom (N,) int64: the place of its chemical symbol in ``type_names``.

    Raises
    ------
    ValueError
        If a symbol is not among ``type_names``.

    Examples
    --------
    >>> from ase.build import molecule
    >>> types_of(molecule("H2O"), ("H", "O"))
    tensor([1, 0, 0])
    """
    place = {name: i for i, name in enumerate(type_names)}
    symbols = atoms.get_chemical_symbols()
    unknown = sorted(set(symbols) - set(place))
    if unknown:
        raise ValueError(f"atoms: required symbols among {list(type_names)}, got also {unknown}")
    return torch.tensor([place[s] for s in symbols], dtype=torch.int64, device=device)


def atoms_neighbors(atoms: Atoms, cutoff: float | Tensor, **keywords: Any) -> Graph:
    """:func:`localgraph.neighbors` of an Atoms object; further keywords are passed on.

    Examples
    --------
    >>> from ase.build import bulk
    >>> atoms_neighbors(bulk("Cu"), 3.0).shifts.shape
    torch.Size([12, 3])
    """
    positions, cell, pbc = from_atoms(atoms)
    return neighbors(positions, cutoff, cell, pbc, **keywords)
