"""Neighbor search on an NVIDIA GPU by vesin, which finds both directions of a pair, sorted to a deterministic order.

It works on tensors wherever they are: tests run it on a CPU. It has not run on a GPU.
"""

from __future__ import annotations

import torch
from torch import Tensor
from vesin import NeighborList

from localgraph._graph import Graph, row_offsets
from localgraph.search.arguments import Structures
from localgraph.search.vesin import boxes


def search(structures: Structures, cutoff: float) -> Graph:
    """Find all edges below ``cutoff`` (Å); in one center, by neighbor and shift."""
    device, atoms = structures.positions.device, structures.positions.shape[0]
    counts = torch.bincount(structures.batch, minlength=structures.cells.shape[0]).tolist()
    positions, (cells, periodic) = structures.positions.contiguous(), boxes(structures, cutoff)
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()  # vesin works on the default stream
    ends, shifts, start = [torch.zeros((0, 2), dtype=torch.int64, device=device)], [], 0
    shifts.append(torch.zeros((0, 3), dtype=torch.int32, device=device))
    finder = NeighborList(cutoff=cutoff, full_list=True)
    for count, cell, pbc in zip(counts, cells, periodic, strict=True):
        if count:
            p, s = finder.compute(positions[start : start + count], cell, pbc, "PS")
            ends.append(p.to(torch.int64) + start)
            shifts.append(s)
        start += count
    return _ordered(torch.cat(ends), torch.cat(shifts), atoms)


def _ordered(ends: Tensor, shifts: Tensor, atoms: int) -> Graph:
    """Return the edges sorted by center, neighbor and shift."""
    base = 1 + int((shifts.amax(0) - shifts.amin(0)).amax()) if len(shifts) else 1
    digits = (shifts - shifts.amin(0)).to(torch.int64) if len(shifts) else shifts.to(torch.int64)
    order = ((digits[:, 0] * base + digits[:, 1]) * base + digits[:, 2]).argsort()
    order = order[(ends[order, 0] * atoms + ends[order, 1]).argsort(stable=True)]
    edge_index = ends[order].T.contiguous()
    return Graph(edge_index, shifts[order].contiguous(), row_offsets(edge_index[0], atoms))
