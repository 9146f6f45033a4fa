"""The systems that benchmarks and counters share: boxes of water with their graphs, and models of the three presets."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

import torch
from benchmarks.bench_neighbors import CUTOFF, water
from torch import Tensor

import localgraph

ELEMENTS = ("H", "C", "N", "O", "S")
PRESETS = ("small", "medium", "large")


class Box(NamedTuple):
    """A periodic cubic box of water, 1 g/cm³, with its graph at 6 Å.

    Attributes
    ----------
    positions, cell : Tensor, (N, 3) and (3, 3) float64
        Å; the atoms are O, H, H, O, H, H, …
    graph : localgraph.Graph
        Sorted by center.
    vectors : Tensor, (E, 3) float64
        Å.
    types : Tensor, (N,) int64
        Indices into ``ELEMENTS``.
    """

    positions: Tensor
    cell: Tensor
    graph: localgraph.Graph
    vectors: Tensor
    types: Tensor

    @property
    def atoms(self) -> int:
        """N."""
        return self.positions.shape[0]

    @property
    def edges(self) -> int:
        """E."""
        return self.graph.num_edges


@cache
def box(molecules_per_edge: int) -> Box:
    """The box of ``molecules_per_edge``³ molecules: 2 gives 24 atoms, 3 gives 81, 4 gives 192, 7 gives 1029."""
    positions, cell = (torch.tensor(array) for array in water(molecules_per_edge))
    graph = localgraph.neighbors(positions, CUTOFF, cell, True)
    vectors = localgraph.edge_vectors(positions, graph, cell)
    types = torch.tensor([ELEMENTS.index("O"), 0, 0]).repeat(molecules_per_edge**3)
    return Box(positions, cell, graph, vectors, types)


def model(preset: str, **changes: Any) -> Any:
    """An Allegro of a preset with fixed random weights and the neighbor number of water at 6 Å."""
    from allegro_model import Allegro, presets

    config = getattr(presets, f"spice_{preset}")(ELEMENTS, avg_num_neighbors=86.0, **changes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Allegro(config)


def bare_products(preset: str, edges: int, times: int) -> Any:
    """A call of every matrix product per edge of a folded preset, forward and transposed, ``times`` over: a floor.

    It is made of torch alone, so it does not change with this repository: ratios are taken to it.
    """
    from benchmarks.bench_inference import products

    pairs = products(model(preset).to_config())
    operands = [
        (torch.randn(edges, a), torch.randn(a, b)) for i, o in pairs for a, b in ((i, o), (o, i))
    ] * times

    def call() -> None:
        for x, w in operands:
            torch.mm(x, w)

    return call


def nequip_data(system: Box) -> Any:
    """The same box as nequip takes it, graph included."""
    import ase
    from benchmarks.bench_model import ELEMENTS as THEIRS
    from nequip.data import AtomicDataDict, from_ase
    from nequip.data._nl import compute_neighborlist_

    data = from_ase(
        ase.Atoms("OHH" * (system.atoms // 3), system.positions.numpy(), cell=system.cell.numpy(), pbc=True)
    )
    names = ["O", "H", "H"] * (system.atoms // 3)
    data[AtomicDataDict.ATOM_TYPE_KEY] = torch.tensor([THEIRS.index(name) for name in names])
    return compute_neighborlist_(data, r_max=CUTOFF, backend="ase")
