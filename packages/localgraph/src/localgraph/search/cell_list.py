"""A batched cell list in torch, on the device of its input; only sizes are read by the host.

Atoms are sorted by cell. Every atom visits the cells within reach of its own, images included, and every
atom in them is a candidate; candidates come out ordered by center, so that what is left after the
comparison with the cutoff is sorted already. The cells of an axis are at least as wide as the cutoff, or
the axis is one cell and its images are visited as far as the cutoff reaches. Only cells with atoms are kept.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from localgraph._graph import Graph, row_offsets
from localgraph.search.arguments import Structures

CANDIDATES_AT_ONCE = {"cpu": 1 << 18}
"""Candidates compared per chunk, about 100 bytes each, to fit a CPU's cache; 2²⁴ on other devices."""


class Grid(NamedTuple):
    """Atoms sorted by cell, for B structures with one grid each.

    Attributes
    ----------
    wrapped : Tensor, (N, 3) float64
        Positions inside the cell along periodic axes, Å.
    wraps : Tensor, (N, 3) int64
        What was subtracted, in cells.
    place : Tensor, (N, 3) int64
        Cell of each atom along the three axes.
    shape, reach : Tensor, (B, 3) int64
        Cells along each axis, and how many of them a cutoff spans.
    first : Tensor, (B,) int64
        Number of the first cell of each structure.
    atoms : Tensor, (N,) int64
        Atoms in order of their cells.
    numbers : Tensor, (N,) int64
        Their cells, which never decrease. Cells without atoms take no memory, however far apart atoms are.
    """

    wrapped: Tensor
    wraps: Tensor
    place: Tensor
    shape: Tensor
    reach: Tensor
    first: Tensor
    atoms: Tensor
    numbers: Tensor


def make_grid(structures: Structures, cutoff: float) -> Grid:
    """Sort atoms into cells for a search below ``cutoff`` (Å)."""
    x, cells, pbc, batch, fractional, low, extent = structures
    b = cells.shape[0]
    wraps = torch.where(pbc[batch], fractional.floor(), 0.0)
    wrapped = x - (wraps[:, None, :] @ cells[batch])[:, 0]
    margin = cutoff * (1 + 1e-9)
    shape = (
        (extent / margin).floor().clamp(1, int((2.0**62 / b) ** (1 / 3)))
    )  # numbers of cells stay below 2⁶²
    reach = torch.where(pbc, (margin * shape / extent).ceil(), (shape > 1).to(x.dtype))
    # the width of a cell in fractional units, which along open axes are Å
    width = torch.where(pbc, 1.0, extent.clamp_min(margin)) / shape
    shape, reach = shape.to(torch.int64), reach.to(torch.int64)
    place = ((fractional - wraps - low[batch]) / width[batch]).floor().to(torch.int64)
    place = torch.minimum(place.clamp_min(0), shape[batch] - 1)
    sizes = shape.prod(1)
    first = sizes.cumsum(0) - sizes
    numbers, atoms = torch.sort(first[batch] + _ravel(place, shape[batch]), stable=True)
    return Grid(wrapped, wraps.to(torch.int64), place, shape, reach, first, atoms, numbers)


def search(structures: Structures, cutoff: float, at_once: int | None = None) -> Graph:
    """Find all edges below ``cutoff`` (Å), in one center by the cell of the neighbor and then by its number."""
    n = structures.positions.shape[0]
    device = structures.positions.device
    if n == 0:
        none = torch.zeros(0, 3, dtype=torch.int64, device=device)
        return Graph(none[:, :2].T, none.to(torch.int32), torch.zeros(1, dtype=torch.int64, device=device))
    at_once = at_once or CANDIDATES_AT_ONCE.get(device.type, 1 << 24)
    grid = make_grid(structures, cutoff)
    ordered = grid.wrapped[grid.atoms]
    stencil = (2 * grid.reach + 1).prod(1)[structures.batch]
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    for atoms in _chunks(stencil, at_once):
        visitor, cell, image = _visits(grid, structures, atoms, stencil[atoms])
        cells = structures.cells[structures.batch[visitor]]
        translation = (image.to(torch.float64)[:, :, None] * cells).sum(1)
        origin = grid.wrapped[visitor]
        begin = torch.searchsorted(grid.numbers, cell)
        size = torch.searchsorted(grid.numbers, cell, right=True) - begin
        for visits in _chunks(size, at_once):
            row, k = _within(size[visits])
            slot = begin[visits].index_select(0, row) + k
            # in this order the vectors of the two directions are exact negatives, also at the cutoff itself
            vector = ordered.index_select(0, slot) - origin[visits].index_select(0, row)
            vector += translation[visits].index_select(0, row)
            close = torch.nonzero((vector * vector).sum(1) < cutoff * cutoff)[:, 0]
            row, neighbor = row[close] + visits.start, grid.atoms[slot[close]]
            center, shift = visitor[row], image[row]
            keep = torch.nonzero((center != neighbor) | (shift != 0).any(1))[:, 0]
            center, neighbor, shift = center[keep], neighbor[keep], shift[keep]
            found.append(
                (center, neighbor, (shift + grid.wraps[center] - grid.wraps[neighbor]).to(torch.int32))
            )
    center, neighbor, shifts = (torch.cat(parts) for parts in zip(*found, strict=True))
    return Graph(torch.stack([center, neighbor]), shifts, row_offsets(center, n))


def _ravel(place: Tensor, shape: Tensor) -> Tensor:
    """Return the number of a cell in its grid, the last axis running fastest."""
    return (place[:, 0] * shape[:, 1] + place[:, 1]) * shape[:, 2] + place[:, 2]


def _chunks(work: Tensor, at_once: int) -> list[slice]:
    """Split into consecutive rows whose work adds up to about ``at_once`` or less, at least one row each."""
    total = work.cumsum(0)
    count = int(total[-1] // at_once) + 1 if work.shape[0] else 0
    marks = torch.arange(1, count, device=work.device) * at_once
    ends = [*torch.searchsorted(total, marks, right=True).tolist(), work.shape[0]]
    slices, start = [], 0
    for end in ends:
        if end > start:
            slices.append(slice(start, end))
            start = end
    return slices


def _within(counts: Tensor) -> tuple[Tensor, Tensor]:
    """Return, for rows repeated ``counts`` times, the row of each repetition and its number within the row."""
    total = int(counts.sum())
    row = torch.repeat_interleave(
        torch.arange(counts.shape[0], device=counts.device), counts, output_size=total
    )
    return row, torch.arange(total, device=counts.device) - (counts.cumsum(0) - counts)[row]


def _visits(
    grid: Grid, structures: Structures, atoms: slice, stencil: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """List every cell that ``atoms`` visit: the visiting atom, the cell's number, and its image (V, 3)."""
    row, k = _within(stencil)
    atom = row + atoms.start
    structure = structures.batch[atom]
    reach, shape = grid.reach[structure], grid.shape[structure]
    span = 2 * reach + 1
    step = (
        torch.stack([k // (span[:, 1] * span[:, 2]), k // span[:, 2] % span[:, 1], k % span[:, 2]], 1) - reach
    )
    target = grid.place[atom] + step
    image = torch.div(target, shape, rounding_mode="floor")
    inside = torch.nonzero((structures.pbc[structure] | (image == 0)).all(1))[:, 0]
    atom, structure, target, image, shape = (t[inside] for t in (atom, structure, target, image, shape))
    return atom, grid.first[structure] + _ravel(target - image * shape, shape), image
