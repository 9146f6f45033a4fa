"""Choose frames to label: those on which a committee disagrees, far from one another."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import ase.io
import numpy as np
import torch
from ase import Atoms

from mlip_export.ase import TYPE_NAMES, Calculator
from mlip_export.runtime import GeometryError

BINS = 16
"""Radial functions per ordered pair of types in the description of a frame."""

Path = str | os.PathLike[str]


class Selection(NamedTuple):
    """Chosen frames, in the order of their choice.

    Attributes
    ----------
    frames : list of int
        Indices in the trajectory.
    spreads : list of float
        Largest force spread of an atom of each, eV/Å.
    evaluated, skipped : int
        Frames whose spread is known, and frames that no model answers (overlapping atoms).
    """

    frames: list[int]
    spreads: list[float]
    evaluated: int
    skipped: int


def select(
    trajectory: Path, models: Sequence[Path], count: int, *, at_least: float = 0.0, every: int = 1
) -> Selection:
    """Choose frames of a trajectory by the spread of a committee and by diversity.

    The first frame is the one of the largest spread; each further one maximizes its spread times its distance to the
    nearest chosen frame (farthest-point sampling). The distance is that of histograms of neighbors over distance, per
    ordered pair of types and atom. Fewer frames are chosen where the others repeat chosen ones or have less spread than
    ``at_least``.

    Parameters
    ----------
    trajectory : path
        Any file of frames that ASE reads; it is read frame by frame.
    models : sequence of path
        Exported models of a committee, at least two.
    count : int
        Largest number of frames to choose, at least 1.
    at_least : float
        Smallest force spread of a chosen frame, eV/Å.
    every : int
        Use every Nth frame.

    Raises
    ------
    FileNotFoundError, ExportedModelError
        As :func:`mlip_export.load`; also without the trajectory.
    ValueError
        For an argument out of range, a trajectory that ASE cannot read, elements that the models do not know, or no
        frame with enough spread.
    """
    if len(models) < 2:
        raise ValueError(f"models must be at least two members of a committee, got {len(models)}")
    for name, value in (("count", count), ("every", every)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value!r}")
    calculator = Calculator(models, compute_stress=False)
    found: list[tuple[int, float, np.ndarray]] = []
    evaluated = skipped = 0
    for index, atoms in read_frames(trajectory, every):
        try:
            calculator.calculate(atoms)
        except GeometryError:
            skipped += 1
            continue
        evaluated += 1
        spread = 0.0 if calculator.spread is None or not len(atoms) else float(calculator.spread.forces.max())
        if spread >= at_least:
            found.append((index, spread, _description(calculator, atoms)))
    if not found:
        raise ValueError(
            f"trajectory must hold frames with a force spread of at least {at_least} eV/Å, got {str(trajectory)!r}, "
            f"with none among {evaluated} frames ({skipped} skipped for overlapping atoms)"
        )
    indices, spreads, descriptions = zip(*found, strict=True)
    order = _farthest(np.array(spreads), np.stack(descriptions), count)
    return Selection([indices[k] for k in order], [spreads[k] for k in order], evaluated, skipped)


def read_frames(trajectory: Path, every: int = 1) -> Iterator[tuple[int, Atoms]]:
    """Read every Nth frame of a trajectory, with their indices."""
    try:
        for index, atoms in enumerate(ase.io.iread(str(trajectory), index=":")):
            if index % every == 0:
                yield index, atoms
    except OSError:
        raise
    except Exception as e:  # readers of formats raise whatever they meet
        raise ValueError(f"trajectory must be a file that ASE reads, got {str(trajectory)!r} ({e!r})") from e


def _description(calculator: Calculator, atoms: Atoms) -> np.ndarray:
    """Return smooth histograms of neighbors over distance per ordered pair of types, divided by the number of atoms."""
    potential = calculator.potential
    positions, cell = (
        torch.from_numpy(np.array(atoms.positions)),
        torch.from_numpy(np.array(atoms.cell.array)),
    )
    types = potential.types_of(list(atoms.arrays.get(TYPE_NAMES, atoms.get_chemical_symbols())))
    r, index = calculator.edges.update(positions, cell, atoms.pbc.tolist(), types)
    x = r.norm(dim=1) / potential.cutoff
    centers = (torch.arange(BINS, dtype=torch.float64) + 0.5) / BINS
    values = torch.exp(-0.5 * ((x[:, None] - centers) * BINS) ** 2) * (1 - x[:, None]) ** 2
    kinds = len(potential.type_names)
    pair = types[index[0]] * kinds + types[index[1]]
    total = torch.zeros(kinds * kinds, BINS, dtype=torch.float64).index_add(0, pair, values)
    result: np.ndarray = (total / max(1, len(atoms))).flatten().numpy()
    return result


def _farthest(spreads: np.ndarray, descriptions: np.ndarray, count: int) -> list[int]:
    """Return the order of a greedy choice by spread times distance to the nearest chosen frame."""
    order = [int(spreads.argmax())]
    nearest = np.full(len(spreads), np.inf)
    while len(order) < count:
        nearest = np.minimum(nearest, np.linalg.norm(descriptions - descriptions[order[-1]], axis=1))
        score = spreads * nearest
        best = int(score.argmax())
        if not score[best] > 1e-12:
            break
        order.append(best)
    return order
