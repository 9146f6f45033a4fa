"""Checked arguments of a neighbor search: float64, completed cells, periodic axes per structure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

MOST_WRAPS = 1 << 18


class Structures(NamedTuple):
    """Checked input of a neighbor search over B structures.

    Attributes
    ----------
    positions : Tensor, (N, 3) float64
        Å, detached.
    cells : Tensor, (B, 3, 3) float64
        Å; the row of an axis that is not periodic is a unit vector orthogonal to the other rows.
    pbc : Tensor, (B, 3) bool
        Periodic axes.
    batch : Tensor, (N,) int64
        Structure of each atom, non-decreasing.
    fractional : Tensor, (N, 3) float64
        Positions in units of the completed cells; along open axes that is Å.
    low : Tensor, (B, 3) float64
        Lowest fractional coordinate of each structure along its open axes; zero along periodic ones.
    extent : Tensor, (B, 3) float64
        Å: distance between opposite faces of the cell along periodic axes, spread of the atoms along open
        ones.
    """

    positions: Tensor
    cells: Tensor
    pbc: Tensor
    batch: Tensor
    fractional: Tensor
    low: Tensor
    extent: Tensor


def check_positions(positions: Tensor) -> Tensor:
    """Check shape, dtype and values of positions; return them as detached float64."""
    if not isinstance(positions, Tensor) or not positions.dtype.is_floating_point:
        got = positions.dtype if isinstance(positions, Tensor) else type(positions).__name__
        raise ValueError(f"positions must be a floating-point tensor, got {got}")
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise ValueError(f"positions must have shape (N, 3), got {tuple(positions.shape)}")
    x = positions.detach().to(torch.float64)
    finite = torch.isfinite(x).all(1)
    if not bool(finite.all()):
        first = int(torch.nonzero(~finite)[0])
        raise ValueError(f"positions must be finite, got {x[first].tolist()} for atom {first}")
    return x


def check_batch(batch: Tensor | None, num_atoms: int, device: torch.device) -> Tensor:
    """Return the checked structure index of each atom; all zero by default."""
    if batch is None:
        return torch.zeros(num_atoms, dtype=torch.int64, device=device)
    if not isinstance(batch, Tensor) or batch.dtype not in (torch.int64, torch.int32):
        raise ValueError(
            f"batch must be an int64 tensor, got {getattr(batch, 'dtype', type(batch).__name__)}"
        )
    if batch.shape != (num_atoms,):
        raise ValueError(
            f"batch must have one index per atom, shape ({num_atoms},), got {tuple(batch.shape)}"
        )
    if num_atoms and (int(batch[0]) < 0 or bool((batch[1:] < batch[:-1]).any())):
        raise ValueError("batch must be indices ≥ 0 that never decrease (atoms of a structure contiguous)")
    return batch.to(torch.int64)


def check_cells(
    cell: Tensor | None, pbc: bool | Sequence[bool] | Tensor, batch: Tensor
) -> tuple[Tensor, Tensor]:
    """Return cells (B, 3, 3) float64 with open axes completed, and periodic axes (B, 3) bool."""
    device = batch.device
    periodic = torch.as_tensor(pbc, dtype=torch.bool, device=device)
    least = int(batch[-1]) + 1 if batch.shape[0] else 1
    if cell is None:
        if bool(periodic.any()):
            raise ValueError(f"cell must be given where pbc is {pbc}, got None")
        count = periodic.shape[0] if periodic.ndim == 2 else least
        cells = torch.zeros((count, 3, 3), dtype=torch.float64, device=device)
    else:
        cells = torch.as_tensor(cell, device=device).detach().to(torch.float64)
        if cells.ndim not in (2, 3) or cells.shape[-2:] != (3, 3):
            raise ValueError(f"cell must have shape (3, 3) or (B, 3, 3), got {tuple(cells.shape)}")
        if cells.ndim == 2:
            cells = cells.expand(least, 3, 3)
        if not bool(torch.isfinite(cells).all()):
            raise ValueError("cell must be finite, got NaN or infinity")
    if cells.shape[0] < least:
        raise ValueError(
            f"cell must have one per structure ({least}, by the largest index in batch), got {cells.shape[0]}"
        )
    count = cells.shape[0]
    if periodic.shape not in ((), (3,), (count, 3)):
        raise ValueError(f"pbc must have shape (), (3,) or ({count}, 3), got {tuple(periodic.shape)}")
    periodic = periodic.expand(count, 3)
    return complete_cells(cells, periodic), periodic


def measure(positions: Tensor, cells: Tensor, pbc: Tensor, batch: Tensor) -> Structures:
    """Compute fractional positions and extents of checked arguments.

    Raises
    ------
    ValueError
        If an atom lies 2¹⁸ or more periodic cells away: its shifts would leave the range of the search.
    """
    inverse = torch.linalg.inv(cells)
    if cells.shape[0] == 1:
        fractional = positions @ inverse[0]
    else:
        fractional = (positions[:, None, :] @ inverse[batch])[:, 0]
    if positions.shape[0] == 0:
        low = high = torch.zeros_like(cells[:, 0])
    elif cells.shape[0] == 1:
        low, high = (end[None] for end in torch.aminmax(fractional, dim=0))
    else:
        zero, rows = torch.zeros_like(cells[:, 0]), batch[:, None].expand_as(fractional)
        low = zero.scatter_reduce(0, rows, fractional, "amin", include_self=False)
        high = zero.scatter_reduce(0, rows, fractional, "amax", include_self=False)
    far = (torch.maximum(high, -low) >= MOST_WRAPS) & pbc
    if bool(far.any()):
        k = int(torch.nonzero((fractional.abs() >= MOST_WRAPS).any(1))[0])
        raise ValueError(
            f"positions must lie within {MOST_WRAPS} cells of the origin along periodic axes, got "
            f"{positions[k].tolist()} for atom {k}"
        )
    heights = 1.0 / inverse.norm(dim=1)
    extent = torch.where(pbc, heights, high - low)
    return Structures(positions, cells, pbc, batch, fractional, torch.where(pbc, 0.0, low), extent)


def complete_cells(cells: Tensor, pbc: Tensor) -> Tensor:
    """Replace the rows of axes that are not periodic by unit vectors orthogonal to the others.

    Raises
    ------
    ValueError
        If the rows of the periodic axes are linearly dependent, to 1e-9 of the product of their lengths.
    """
    full = cells if bool(pbc.all()) else _complete(cells, pbc)
    lengths = full.norm(dim=2)
    volume = torch.linalg.det(full).abs()
    bad = (lengths == 0).any(1) | (volume <= 1e-9 * lengths.prod(1))
    if bool(bad.any()):
        k = int(torch.nonzero(bad)[0])
        raise ValueError(
            f"cell must be linearly independent vectors along the periodic axes {pbc[k].tolist()}, "
            f"got {cells[k].tolist()}" + (f" for structure {k}" if cells.shape[0] > 1 else "")
        )
    return full


def _complete(cells: Tensor, pbc: Tensor) -> Tensor:
    """Complete the cells, without a check that they span space."""
    done = torch.where(pbc[:, :, None], cells, 0.0)
    number = pbc.sum(1)
    eye = torch.eye(3, dtype=cells.dtype, device=cells.device)
    a, b, c = done.unbind(1)
    # one periodic axis: two unit vectors orthogonal to it, built from the Cartesian axis least along it
    v = done.sum(1)
    u = v / v.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    e = torch.linalg.cross(u, eye[u.abs().argmin(1)])
    e = e / e.norm(dim=1, keepdim=True).clamp_min(torch.finfo(v.dtype).tiny)
    f = torch.linalg.cross(u, e)
    first = torch.cumsum(~pbc, 1) == 1
    one = torch.where(pbc[:, :, None], done, torch.where(first[:, :, None], e[:, None], f[:, None]))
    # two periodic axes: their normal
    normal = torch.stack([torch.linalg.cross(b, c), torch.linalg.cross(c, a), torch.linalg.cross(a, b)], 1)
    length = normal.norm(dim=2, keepdim=True)
    two = torch.where(pbc[:, :, None], done, normal / length.clamp_min(torch.finfo(v.dtype).tiny))
    n = number[:, None, None]
    return torch.where(n == 3, done, torch.where(n == 2, two, torch.where(n == 1, one, eye)))


def check_cutoff(cutoff: float | Tensor, types: Tensor | None, num_atoms: int) -> tuple[float, Tensor | None]:
    """Return the largest cutoff, and the (T, T) table where there is one."""
    if not isinstance(cutoff, Tensor) or cutoff.ndim == 0:
        value = float(cutoff)
        if not 0.0 < value < float("inf"):
            raise ValueError(f"cutoff must be a finite number > 0, got {value}")
        return value, None
    if cutoff.ndim != 2 or cutoff.shape[0] != cutoff.shape[1] or cutoff.shape[0] == 0:
        raise ValueError(f"cutoff must be a number or a (T, T) table, got shape {tuple(cutoff.shape)}")
    table = cutoff.detach().to(torch.float64)
    if not bool((torch.isfinite(table) & (table > 0)).all()):
        raise ValueError(f"cutoff must be finite numbers > 0, got {table.tolist()}")
    if types is None:
        raise ValueError("types must be given with a table of cutoffs per ordered type pair, got None")
    if types.shape != (num_atoms,):
        raise ValueError(f"types must have one type per atom, shape ({num_atoms},), got {tuple(types.shape)}")
    if types.dtype.is_floating_point or types.dtype.is_complex:
        raise ValueError(f"types must be an integer tensor, got {types.dtype}")
    if num_atoms and not 0 <= int(types.min()) <= int(types.max()) < table.shape[0]:
        raise ValueError(
            f"types must be indices in [0, {table.shape[0]}), the size of the table of cutoffs, got "
            f"[{int(types.min())}, {int(types.max())}]"
        )
    return float(table.max()), table
