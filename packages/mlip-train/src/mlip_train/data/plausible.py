"""Plausibility of labels: what wrong units, signs and columns, outliers and duplicates look like."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from mlip_train.data.frames import FrameTable
from mlip_train.data.statistics import compositions, fit_energies

log = logging.getLogger(__name__)

STRESS = 1.0
"""Largest stress that is not remarkable, eV/Å³ (160 GPa)."""
OUTLIER = 10.0
"""Standard deviations of the energy per atom, and root mean squares of forces by ten, that make an outlier."""
NET = 0.05
"""Net force that is not remarkable, eV/Å and atom: without an external field the forces of a frame cancel."""
ENOUGH = 20
"""Frames that a trend needs."""


def report(tables: dict[str, FrameTable], rows: NDArray[np.int64], held: NDArray[np.int64]) -> list[str]:
    """Log the frames of every source, elements without training frames and the :func:`findings`, which are returned.

    Parameters
    ----------
    tables : dict of str to FrameTable
        By part: ``train``, ``validation`` and ``test``.
    rows, held : (F,) and (H,) int64
        Frames of ``train`` that are trained on, and held out for validation.
    """
    found, table = findings(tables, held), tables["train"]
    for part, each in tables.items():
        for i, (file, count) in enumerate(zip(each.files, each.source_counts, strict=True)):
            log.info("data.%s[%d]: %d frames from %s", part, i, count, file)
    log.info("%d training frames, %d held out for validation", len(rows), len(held))
    present = table.arrays["composition"].sum(0)
    absent = [name for name, count in zip(table.type_names, present, strict=True) if not count]
    for line in found:
        log.warning("%s", line)
    if absent:
        log.warning("elements of the model without training frames: %s", ", ".join(absent))
    return found


def findings(tables: dict[str, FrameTable], held: NDArray[np.int64]) -> list[str]:
    """Return what is implausible in the labels of the data, one sentence each, naming a frame.

    Parameters
    ----------
    tables : dict of str to FrameTable
        By part: ``train``, ``validation`` and ``test``.
    held : (H,) int64
        Frames of ``train`` that are held out for validation.
    """
    found = [line for table in tables.values() for check in CHECKS for line in check(table)]
    train = tables["train"]
    kept = np.delete(train.arrays["geometry"], held)
    found += [line for table in tables.values() for line in _contradictions(table)]
    found += _shared(train, held, kept, "the frames held out")
    for part, table in tables.items():
        found += _shared(table, np.arange(len(table)), kept, f"data.{part}") if part != "train" else []
    return found


def _known(table: FrameTable, *names: str) -> NDArray[np.int64]:
    """Return the frames that have all of these columns."""
    return np.flatnonzero(np.all([np.isfinite(table.arrays[name]) for name in names], axis=0))


def _stresses(table: FrameTable) -> Iterator[str]:
    rows = _known(table, "stress_max")
    if len(rows):
        worst = int(rows[table.arrays["stress_max"][rows].argmax()])
        value = float(table.arrays["stress_max"][worst])
        if value > STRESS:
            yield (
                f"{table.where(worst)}: stress of {value:.4g} eV/Å³ ({value * 160.2:.4g} GPa); set stress_unit if the "
                "file has GPa or kbar"
            )


def _forces(table: FrameTable) -> Iterator[str]:
    rows = _known(table, "force_squares")
    if not len(rows):
        return
    largest, net = table.arrays["force_max"][rows], table.arrays["force_net"][rows]
    atoms = table.atom_counts[rows]
    rms = float(np.median(np.sqrt(table.arrays["force_squares"][rows] / (3 * atoms))))
    high = largest > max(10 * OUTLIER * rms, 50.0)
    if high.any():
        worst = int(rows[largest.argmax()])
        yield (
            f"{table.where(worst)}: force of {largest.max():.4g} eV/Å, where the root mean square of a frame is "
            f"{rms:.2g} eV/Å ({int(high.sum())} such frames)"
        )
    drifting = (net > NET * atoms) & (net > 0.1 * rms)
    if drifting.any():
        worst = int((net / atoms).argmax())
        yield (
            f"{table.where(int(rows[worst]))}: net force of {net[worst]:.4g} eV/Å on {int(atoms[worst])} atoms "
            f"({int(drifting.sum())} of {len(rows)} frames above {NET} eV/Å per atom)"
        )


def _energies(table: FrameTable) -> Iterator[str]:
    rows = _known(table, "energy")
    if len(rows) < ENOUGH:
        return
    shifts = fit_energies(table, rows, 1e-9)
    rest = table.arrays["energy"][rows] - compositions(table, rows) @ shifts
    rest = rest / table.atom_counts[rows]
    middle = float(np.median(rest))
    spread = 1.4826 * float(np.median(np.abs(rest - middle)))
    far = np.abs(rest - middle) > max(OUTLIER * spread, 1.0)
    if far.any():
        worst = int(np.abs(rest - middle).argmax())
        yield (
            f"{table.where(int(rows[worst]))}: energy {rest[worst] - middle:+.4g} eV/atom from the middle of frames of "
            f"its composition, whose spread is {spread:.2g} eV/atom ({int(far.sum())} such frames)"
        )


def _pressures(table: FrameTable) -> Iterator[str]:
    """Compare stresses with volumes: of one composition, the larger volume is under the larger tension."""
    rows = _known(table, "tension", "volume")
    same, first = np.unique(table.arrays["composition"][rows], axis=0, return_inverse=True)
    for k in range(len(same)):
        part = rows[np.ravel(first) == k]
        volume, tension = table.arrays["volume"][part], table.arrays["tension"][part]
        if len(part) < ENOUGH or np.ptp(volume) < 0.01 * volume.mean() or np.ptp(tension) == 0:
            continue
        slope = float(np.corrcoef(volume, tension)[0, 1])
        if slope < -0.5:
            yield (
                f"{table.where(int(part[0]))} and {len(part) - 1} frames of its composition: stress falls as the "
                f"volume grows (correlation {slope:.2f}); if the file holds pressures, set stress_scale: -1"
            )


def _works(table: FrameTable) -> Iterator[str]:
    """Compare energy differences along trajectories with the work of the forces."""
    rows = _known(table, "work", "energy")
    rows = rows[rows > 0]
    rows = rows[np.isfinite(table.arrays["energy"][rows - 1])]
    if len(rows) < ENOUGH:
        return
    work, change = table.arrays["work"][rows], table.arrays["energy"][rows] - table.arrays["energy"][rows - 1]
    if not (work.std() > 0 and change.std() > 0):
        return
    agreement = float(np.corrcoef(work, change)[0, 1])
    slope = float((work * change).sum() / (work * work).sum())
    # Long anharmonic steps give 0.8, bohr taken for Å 0.53 or 1.9.
    if abs(agreement) > 0.9 and not 2 / 3 < slope < 3 / 2:
        yield (
            f"{table.where(int(rows[0]))} and {len(rows) - 1} further steps: energy differences are {slope:.4g} times "
            "the work of the forces; check energy_unit, length_unit and the sign of force_scale"
        )


def _contradictions(table: FrameTable) -> Iterator[str]:
    """Find structures that are there twice with different energies."""
    _, first, group = np.unique(table.arrays["geometry"], return_index=True, return_inverse=True)
    energy = table.arrays["energy"]
    before = energy[first][group]
    other = np.abs(energy - before) > 1e-6 * np.maximum(1.0, np.abs(energy))
    if other.any():
        i = int(other.argmax())
        yield (
            f"{table.where(i)}: energy of {energy[i]:.10g} eV, and {before[i]:.10g} eV for the same structure in "
            f"{table.where(int(first[group[i]]))} ({int(other.sum())} such frames)"
        )


def _shared(
    table: FrameTable, rows: NDArray[np.int64], training: NDArray[np.uint64], name: str
) -> Iterator[str]:
    """Find structures that are trained on among frames that should be new."""
    shared = rows[np.isin(table.arrays["geometry"][rows], training)]
    if len(shared):
        yield f"{table.where(int(shared[0]))}: structure of {name} that is trained on ({len(shared)} such frames)"


CHECKS = (_stresses, _forces, _energies, _pressures, _works)
