"""The lines of a LAMMPS input that depend on the model and the data file."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path

from mlip_export.model_file import read_metadata

MASS_TOLERANCE = 0.02
"""Relative difference up to which a mass of a data file stands for an element."""

_SECTION = re.compile(r"^[A-Z][A-Za-z ]*(#.*)?$")


def input_lines(
    model: str | os.PathLike[str], data: str | os.PathLike[str], elements: Sequence[str] | None = None
) -> str:
    """Return the lines ``mass``, ``pair_style`` and ``pair_coeff`` for a data file.

    The element (the model's type name) of each atom type is, in this order: the one of ``elements``, its type label,
    the comment behind its mass, or the model's only element of that mass (within 2 %).

    Parameters
    ----------
    model : path
        An exported model; none of its code runs.
    data : path
        A LAMMPS data file.
    elements : sequence of str, optional
        Element, or type name of the model, of each atom type of the data file.

    Returns
    -------
    str
        Lines without a newline at the end.

    Raises
    ------
    FileNotFoundError, ExportedModelError
        For a missing data file or model, or a file that is no exported model.
    ValueError
        For a data file without a number of atom types, a type whose element is unknown, or an element that the model
        does not know.
    """
    from ase.data import atomic_masses, atomic_numbers

    metadata = read_metadata(model)
    known = metadata.type_names
    if not Path(data).is_file():
        raise FileNotFoundError(f"data must be an existing LAMMPS data file, got {str(data)!r}")
    count, sections = _read(Path(data))
    mass_of = {
        name: float(atomic_masses[atomic_numbers[element]])
        for name, element in zip(known, metadata.elements, strict=True)
        if element in atomic_numbers
    }
    if elements is not None and len(elements) != count:
        raise ValueError(f"elements must be {count}, one per atom type of {data}, got {list(elements)}")
    chosen = []
    for kind in range(1, count + 1):
        element = elements[kind - 1] if elements is not None else _element(kind, sections, mass_of, known)
        if element not in known:
            raise ValueError(
                f"elements must be among {list(known)}, got {element!r} for atom type {kind} of {data}; "
                "name the element of each type by --elements"
            )
        chosen.append(element)
    lines = [f"mass {k} {mass_of[e]:.6g}" for k, e in enumerate(chosen, 1) if e in mass_of]
    return "\n".join([*lines, "pair_style allegro", f"pair_coeff * * {model} {' '.join(chosen)}"])


def _read(data: Path) -> tuple[int, dict[str, dict[int, tuple[str, str]]]]:
    """Return the number of atom types, and per section and type the value and the comment; stop at the atoms."""
    count, section = 0, ""
    sections: dict[str, dict[int, tuple[str, str]]] = {"Masses": {}, "Atom Type Labels": {}}
    with data.open(errors="replace") as lines:
        next(lines, None)  # a title
        for line in lines:
            content, _, comment = (part.strip() for part in line.partition("#"))
            words = content.split()
            if words[1:] == ["atom", "types"]:
                count = int(words[0])
            elif _SECTION.match(line.strip()):
                section = content
                if section == "Atoms":
                    break
            elif section in sections and len(words) == 2 and words[0].isdigit():
                sections[section][int(words[0])] = (words[1], comment)
    if count < 1:
        raise ValueError(f"data must be a LAMMPS data file with a line 'N atom types', got {str(data)!r}")
    return count, sections


def _element(
    kind: int,
    sections: dict[str, dict[int, tuple[str, str]]],
    mass_of: dict[str, float],
    known: Sequence[str],
) -> str:
    """Return the element of a type by its label, the comment behind its mass, or its mass; else what is there."""
    label = sections["Atom Type Labels"].get(kind, ("", ""))[0]
    mass, comment = sections["Masses"].get(kind, ("", ""))
    for name in (label, comment):
        if name in known:
            return name
    if not mass:
        return label or "?"
    near = [e for e, m in mass_of.items() if abs(float(mass) - m) <= MASS_TOLERANCE * m]
    return near[0] if len(near) == 1 else label or comment or mass
