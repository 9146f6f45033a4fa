"""Counts and moments of a data set, gathered block by block in constant memory and resumable."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spice_data.elements import SYMBOLS
from spice_data.records import Block
from spice_data.store.layout import Units
from spice_data.units import ENERGY, GRADIENT, STRESS


@dataclass
class SubsetCount:
    """Molecules, frames and atoms of one subset."""

    molecules: int = 0
    frames: int = 0
    atoms: int = 0


@dataclass
class Statistics:
    """Counts and moments of everything passed to :meth:`add`.

    Attributes
    ----------
    molecules, frames, atoms : int
        Counts; an atom counts once per frame.
    subsets : dict of str to SubsetCount
        The same, by subset.
    elements : dict of str to int
        Atoms of each element.
    labels : dict of str to int
        Frames with an energy, with forces and with a stress.
    energy_mean, energy_std : float
        Of the formation energy per atom over frames, eV; of the total energy per atom where there is none.
    force_rms, force_max : float
        Root mean square and largest magnitude of the force components, eV/Å.
    stress_max : float
        Largest magnitude of a stress component, eV/Å³.
    """

    molecules: int = 0
    frames: int = 0
    atoms: int = 0
    subsets: dict[str, SubsetCount] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=lambda: {"energy": 0, "forces": 0, "stress": 0})
    energy_mean: float = 0.0
    force_max: float = 0.0
    stress_max: float = 0.0
    _energy_m2: float = 0.0
    _force_squares: float = 0.0
    _force_atoms: int = 0
    _normal: NDArray[np.float64] = field(default_factory=lambda: np.zeros((len(SYMBOLS), len(SYMBOLS))))
    _moment: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(SYMBOLS)))
    _counts: NDArray[np.int64] = field(default_factory=lambda: np.zeros(len(SYMBOLS), np.int64))

    def add(self, block: Block, units: Units | None = None, *, new_molecule: bool) -> None:
        """Add a block in ``units``, by default Å and eV; absent labels (NaN) add to the number of frames only."""
        per_energy, per_force = (ENERGY[units.energy], GRADIENT[units.force]) if units else (1.0, 1.0)
        m, n = len(block.energies), len(block.numbers)
        for c in (self, self.subsets.setdefault(block.subset, SubsetCount())):
            c.molecules += new_molecule
            c.frames += m
            c.atoms += m * n
        every = np.bincount(block.numbers)
        z = np.flatnonzero(every)
        self._counts[z] += m * every[z]
        formation = np.where(np.isnan(block.formation_energies), block.energies, block.formation_energies)
        self._add_energies(z, every[z], block.energies * per_energy, formation * per_energy / n)
        forces = block.forces.astype(np.float64) * per_force
        absent = np.isnan(forces[:, 0, 0])
        flat = (forces[~absent] if absent.any() else forces).reshape(-1)
        self._force_atoms += len(flat) // 3
        self._force_squares += float(np.einsum("i,i->", flat, flat, dtype=np.float64))
        self.force_max = max(self.force_max, float(np.abs(flat).max(initial=0.0)))
        self.labels["forces"] += m - int(absent.sum())
        if block.stresses is not None:
            known = block.stresses[~np.isnan(block.stresses[:, 0, 0])]
            self.labels["stress"] += len(known)
            self.stress_max = max(self.stress_max, float(np.abs(known).max(initial=0.0)))

    def _add_energies(
        self,
        z: NDArray[np.int64],
        counts: NDArray[np.int64],
        energies: NDArray[np.float64],
        per_atom: NDArray[np.float64],
    ) -> None:
        absent = np.isnan(energies)
        if absent.any():
            energies, per_atom = energies[~absent], per_atom[~absent]
        m = len(energies)
        if m == 0:
            return
        self.labels["energy"] += m
        total = self.labels["energy"]
        mean = float(per_atom.mean())
        delta = mean - self.energy_mean
        self._energy_m2 += float(((per_atom - mean) ** 2).sum()) + delta**2 * m * (total - m) / total
        self.energy_mean += delta * m / total
        self._normal[z[:, None], z] += m * np.outer(counts, counts)
        self._moment[z] += counts * energies.sum()

    @property
    def energy_std(self) -> float:
        """Standard deviation of the energy per atom over frames, eV."""
        n = self.labels["energy"]
        return math.sqrt(self._energy_m2 / n) if n else 0.0

    @property
    def force_rms(self) -> float:
        """Root mean square of the force components, eV/Å."""
        return math.sqrt(self._force_squares / (3 * self._force_atoms)) if self._force_atoms else 0.0

    @property
    def elements(self) -> dict[str, int]:
        """Atoms of each element, by atomic number."""
        return {SYMBOLS[z]: int(self._counts[z]) for z in np.flatnonzero(self._counts)}

    def element_energies(self) -> dict[str, float]:
        """Return the energy of each element (eV) from a least-squares fit of the total energies to the compositions.

        Where the compositions do not determine them, it is the solution of least norm.
        """
        z = np.flatnonzero(self._counts)
        if len(z) == 0:
            return {}
        solution = np.linalg.lstsq(self._normal[np.ix_(z, z)], self._moment[z], rcond=1e-12)[0]
        return {SYMBOLS[k]: float(e) for k, e in zip(z, solution, strict=True)}

    def to_json(self) -> dict[str, Any]:
        """Return everything as plain data, from which :meth:`from_json` continues exactly."""
        z = np.flatnonzero(self._counts)
        return {
            "molecules": self.molecules,
            "frames": self.frames,
            "atoms": self.atoms,
            "subsets": {k: [c.molecules, c.frames, c.atoms] for k, c in self.subsets.items()},
            "labels": self.labels,
            "energy_mean": self.energy_mean,
            "energy_m2": self._energy_m2,
            "force_max": self.force_max,
            "stress_max": self.stress_max,
            "force_squares": self._force_squares,
            "force_atoms": self._force_atoms,
            "numbers": z.tolist(),
            "counts": self._counts[z].tolist(),
            "normal": self._normal[np.ix_(z, z)].tolist(),
            "moment": self._moment[z].tolist(),
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Statistics:
        """Return the statistics that :meth:`to_json` described."""
        self = cls(data["molecules"], data["frames"], data["atoms"])
        self.subsets = {k: SubsetCount(*c) for k, c in data["subsets"].items()}
        self.labels, self._force_atoms = dict(data["labels"]), data["force_atoms"]
        self.energy_mean, self._energy_m2 = data["energy_mean"], data["energy_m2"]
        self.force_max, self._force_squares = data["force_max"], data["force_squares"]
        self.stress_max = data["stress_max"]
        z = np.array(data["numbers"], np.int64)
        if len(z):
            self._counts[z] = data["counts"]
            self._normal[np.ix_(z, z)] = data["normal"]
            self._moment[z] = data["moment"]
        return self

    def warnings(self) -> list[str]:
        """Return what is implausible, as a wrong unit makes it: forces above 300 eV/Å, stresses above 1 eV/Å³."""
        found = []
        if self.force_max > 300:
            found.append(
                f"largest force component {self.force_max:.6g} eV/Å: check the units, or leave the frame out"
            )
        if self.stress_max > 1:
            gpa = self.stress_max / STRESS["GPa"]
            found.append(
                f"largest stress component {self.stress_max:.6g} eV/Å³ ({gpa:,.0f} GPa): check its unit"
            )
        return found

    def table(self) -> str:
        """Return a summary as text."""
        lines = [
            f"{self.frames:,} frames of {self.molecules:,} molecules, {self.atoms:,} atoms",
            "labels           " + ", ".join(f"{k} {n:,}" for k, n in self.labels.items()),
            f"energy per atom  {self.energy_mean:.6f} ± {self.energy_std:.6f} eV",
            f"force components rms {self.force_rms:.6f}, max {self.force_max:.6f} eV/Å",
            f"stress components max {self.stress_max:.6f} eV/Å³",
            "elements         " + ", ".join(f"{s} {n:,}" for s, n in self.elements.items()),
            "element energies "
            + ", ".join(f"{s} {e:.4f}" for s, e in self.element_energies().items())
            + " eV",
        ]
        for name, c in sorted(self.subsets.items()):
            lines.append(f"  {name}: {c.molecules:,} molecules, {c.frames:,} frames, {c.atoms:,} atoms")
        return "\n".join(lines)
