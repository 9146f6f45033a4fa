"""Tensors and graphs of torch-sim states; torch-sim itself is not imported."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from localgraph._graph import Graph
from localgraph._neighbors import neighbors


class State(Protocol):
    """Attributes of a ``torch_sim.SimState`` that are read."""

    positions: Tensor
    """(N, 3) Å."""
    cell: Tensor
    """(B, 3, 3) Å, lattice vectors in COLUMNS."""
    pbc: Any
    """bool, three bools, or a tensor of them."""
    system_idx: Tensor
    """(N,) int64, never decreasing."""


class StateTensors(NamedTuple):
    """A state in the conventions of this package.

    Attributes
    ----------
    positions : Tensor, (N, 3)
        Å.
    cell : Tensor, (B, 3, 3)
        Lattice vectors in rows, Å.
    pbc : Tensor, (3,) or () bool
        Periodic axes.
    batch : Tensor, (N,) int64
        Structure of each atom.
    """

    positions: Tensor
    cell: Tensor
    pbc: Tensor
    batch: Tensor


def from_state(state: State) -> StateTensors:
    """Return positions, cells in rows, periodic axes and batch index of a state, on its device, not copied."""
    device = state.positions.device
    return StateTensors(
        state.positions,
        state.cell.transpose(-1, -2),
        torch.as_tensor(state.pbc, dtype=torch.bool, device=device),
        state.system_idx,
    )


def state_neighbors(state: State, cutoff: float | Tensor, **keywords: Any) -> Graph:
    """Search the neighbors of all structures; keywords go to :func:`localgraph.neighbors`."""
    positions, cell, pbc, index = from_state(state)
    return neighbors(positions, cutoff, cell, pbc, batch=index, **keywords)
