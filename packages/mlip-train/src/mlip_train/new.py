"""A commented configuration for a file of structures, after a look at it."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from ase import Atoms

import localgraph
from spice_data import read_atoms

LOOKED_AT = 2000
"""Structures that are read for the suggestions."""
SIZES = {
    "small": "l_max: 2, num_layers: 1, num_scalar_features: 32, num_tensor_features: 16, latent_width: 64",
    "medium": "l_max: 2, num_layers: 2, num_scalar_features: 64, num_tensor_features: 32, latent_width: 128",
    "large": "l_max: 2, num_layers: 2, num_scalar_features: 64, num_tensor_features: 64, latent_width: 256",
}
"""Architectures by size; large is that of ``allegro_model.presets.spice_small``."""
FORCES = {"small": 0, "medium": 20_000, "large": 2_000_000}
"""Force vectors from which on a size is suggested."""
CUTOFF = 5.0
DEFAULT_KEYS = ("energy", "forces", "stress", "virial")


class Found(NamedTuple):
    """What a file holds.

    Attributes
    ----------
    frames, atoms, sizes : int, int and (smallest, largest)
        Structures looked at, their atoms, and the extremes of atoms per structure.
    elements : dict
        Atoms by element.
    keys : dict
        Structures that have each label, by quantity (energy, forces, stress, virial) and key.
    isolated : int
        Structures of one atom.
    periodic : int
        Structures with three periodic axes.
    edges : float
        Neighbors of an atom within 5 Å, on average.
    whole : bool
        Whether the file ended before ``LOOKED_AT`` structures.
    """

    frames: int
    atoms: int
    sizes: tuple[int, int]
    elements: dict[str, int]
    keys: dict[str, dict[str, int]]
    isolated: int
    periodic: int
    edges: float
    whole: bool


def look_at(path: str | Path) -> Found:
    """Read the first structures of a file that ASE reads.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or no structure in it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"data must be an existing file, got {str(path)!r}")
    elements: Counter[str] = Counter()
    keys: dict[str, Counter[str]] = {name: Counter() for name in DEFAULT_KEYS}
    sizes: list[int] = []
    periodic, neighbors, sampled = 0, 0, 0
    structures = read_atoms(path)
    for number, atoms in enumerate(itertools.islice(structures, LOOKED_AT)):
        sizes.append(len(atoms))
        elements.update(atoms.get_chemical_symbols())
        periodic += bool(atoms.pbc.all())
        for quantity, key in _labels(atoms):
            keys[quantity][key] += 1
        if number % 20 == 0:
            neighbors, sampled = neighbors + _count(atoms), sampled + len(atoms)
    if not sizes:
        raise ValueError(f"data must hold at least one structure, got none in {str(path)!r}")
    return Found(
        len(sizes),
        sum(sizes),
        (min(sizes), max(sizes)),
        dict(elements.most_common()),
        {name: dict(found.most_common()) for name, found in keys.items()},
        sum(size == 1 for size in sizes),
        periodic,
        neighbors / sampled,
        next(structures, None) is None,
    )


def _labels(atoms: Atoms) -> list[tuple[str, str]]:
    """Pairs of quantity and key of what looks like a label."""
    results = {} if atoms.calc is None else atoms.calc.results
    found = [(name, name) for name in ("energy", "forces", "stress") if name in results]
    for key, value in {**atoms.info, **atoms.arrays}.items():
        word, size = key.lower(), np.size(value)
        if "energy" in word and size == 1 and isinstance(value, int | float | np.number):
            found.append(("energy", key))
        elif "force" in word and np.shape(value) == (len(atoms), 3):
            found.append(("forces", key))
        for name in ("stress", "virial"):
            if name in word and size in (6, 9):
                found.append((name, key))
    return list(dict.fromkeys(found))


def _count(atoms: Atoms) -> int:
    """Edges within 5 Å."""
    graph = localgraph.neighbors(
        torch.from_numpy(atoms.positions),
        CUTOFF,
        torch.from_numpy(atoms.cell.array),
        torch.from_numpy(atoms.pbc),
    )
    return int(graph.edge_index.shape[1])


def suggest(path: str | Path) -> str:
    """Return the text of a commented configuration for a file.

    Raises
    ------
    FileNotFoundError, ValueError
        See :func:`look_at`.
    """
    found = look_at(path)
    vectors = found.atoms * (1 if found.whole else 10)
    size = [name for name, least in FORCES.items() if vectors >= least][-1]
    more = "" if found.whole else " (the first; there are more)"
    counts = ", ".join(f"{name} {count}" for name, count in found.elements.items())
    lines = [
        f"# {Path(path).name}: {found.frames} structures{more} of {found.sizes[0]} to {found.sizes[1]} atoms, "
        f"{found.periodic} of them periodic in three axes",
        f"# atoms: {counts}",
        f"# labels: {_listed(found) or 'none found'}",
        f"# {found.edges:.0f} neighbors of an atom within {CUTOFF:g} Å on average",
        "# mlip-train check THIS.yaml reads every structure; mlip-train fit --help lists all keys",
        "output: run",
        "model:",
        "  config:",
        f"    cutoff: {CUTOFF}  # Å; larger sees more and costs its third power",
        *(f"    {words}" for words in SIZES[size].split(", ")),
        "data:",
        f"  train: [{{{_source(path, found)}}}]",
        "  validation_fraction: 0.1  # held out; selects the saved weights",
        *(["  partial_labels: true  # not every structure has every label"] if _partial(found) else []),
        *(
            [f"statistics: {{energy_shifts: isolated}}  # {found.isolated} structures are single atoms"]
            if found.isolated
            else []
        ),
        "# batch: {frames: 5}  # default: a hundredth of the data, at most 20,000 edges",
        f"# loss: {{energy: 1.0, forces: 1.0}}{_stress(found)}",
        "# optimizer: {lr: 0.02}  # halve it if the loss jumps",
        "stop: {epochs: 100}  # the learning rate falls to its minimum at the end",
        "# compile: {mode: eager}  # for runs of seconds; by default the step is compiled first",
        "",
    ]
    return "\n".join(lines)


def _listed(found: Found) -> str:
    return ", ".join(f"{key} in {count}" for keys in found.keys.values() for key, count in keys.items())


def _chosen(found: Found) -> dict[str, str | None]:
    """Return the key of each quantity: the usual one where it exists, else the most frequent; None without any."""
    return {name: name if name in keys else next(iter(keys), None) for name, keys in found.keys.items()}


def _source(path: str | Path, found: Found) -> str:
    chosen = _chosen(found)
    words = [f"path: {json.dumps(str(Path(path).resolve()))}"]
    for name, key in chosen.items():
        if key is None and name in ("energy", "forces"):
            words.append(f"{name}: null")
        elif key is not None and key != name:
            words.append(f"{name}: {key}")
    return ", ".join(words)


def _partial(found: Found) -> bool:
    """Whether some structures lack a label; forces of single atoms are zero without one."""
    chosen = _chosen(found)
    counts = {name: found.keys[name].get(key, 0) for name, key in chosen.items() if key is not None}
    alone = found.isolated
    return any(
        counts.get(name, whole) < whole
        for name, whole in (("energy", found.frames), ("forces", found.frames - alone))
    )


def _stress(found: Found) -> str:
    """Return a comment on the weight of stresses where there are some."""
    chosen = _chosen(found)
    if chosen["stress"] is None and chosen["virial"] is None:
        return ""
    return "  # stress: by default the square of the volume per atom, Å⁶"
