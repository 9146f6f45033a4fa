"""Formal charges from a SMILES: a parser of its atoms that needs no chemistry library."""

from __future__ import annotations

import re
from typing import NamedTuple

from spice_data.elements import NUMBERS

_BRACKET = re.compile(
    r"(?P<isotope>\d+)?"
    r"(?P<symbol>[A-Z][a-z]?|[bcnops]|se|as|te|\*)"
    r"(?P<chiral>@(?:@|TH[12]|AL[12]|SP[123]|TB(?:1\d|20|[1-9])|OH(?:[12]\d|30|[1-9]))?)?"
    r"(?P<hydrogens>H\d*)?"
    r"(?P<charge>\+\+|--|[+-]\d*)?"
    r"(?P<map>:\d+)?"
)
_BARE = re.compile(r"Cl|Br|[BCNOPSFI*]|[bcnops]")
_BETWEEN = re.compile(r"[-=#$:/\\.~()]|%\d\d|%\(\d+\)|\d")


class SmilesAtom(NamedTuple):
    """One atom written in a SMILES.

    Attributes
    ----------
    symbol : str
        Element symbol, capitalized (aromatic atoms too); ``*`` for a wildcard.
    charge : int
        Formal charge.
    hydrogens : int
        Hydrogens that the bracket itself states (``[NH3+]``: 3).
    map_number : int or None
        The number after the colon; in SPICE, the position of the atom in the arrays, from 1.
    """

    symbol: str
    charge: int
    hydrogens: int
    map_number: int | None


def _bracket(text: str, smiles: str) -> SmilesAtom:
    match = _BRACKET.fullmatch(text)
    symbol = match["symbol"].capitalize() if match else ""
    if not match or (symbol != "*" and symbol not in NUMBERS):
        raise ValueError(
            f"smiles must have bracket atoms of the OpenSMILES grammar, got [{text}] in {smiles!r}"
        )
    sign, count = match["charge"] or "", match["hydrogens"] or ""
    if not sign:
        charge = 0
    elif sign[1:].isdigit():
        charge = int(sign)
    else:
        charge = len(sign) if sign[0] == "+" else -len(sign)
    hydrogens = int(count[1:] or 1) if count else 0
    return SmilesAtom(symbol, charge, hydrogens, int(match["map"][1:]) if match["map"] else None)


def smiles_atoms(smiles: str) -> tuple[SmilesAtom, ...]:
    """Return the atoms written in ``smiles``, in order; implicit hydrogens are not listed.

    Raises
    ------
    ValueError
        If a part of the text is neither atom, bond, branch nor ring closure.

    Examples
    --------
    >>> [a.charge for a in smiles_atoms("[O-:1][C:2](=[O:3])[H:4]")]
    [-1, 0, 0, 0]
    """
    atoms: list[SmilesAtom] = []
    i = 0
    while i < len(smiles):
        if smiles[i] == "[":
            end = smiles.find("]", i)
            if end < 0:
                raise ValueError(f"smiles must have a closing bracket after position {i}, got {smiles!r}")
            atoms.append(_bracket(smiles[i + 1 : end], smiles))
            i = end + 1
        elif match := _BARE.match(smiles, i):
            atoms.append(SmilesAtom(match[0].capitalize(), 0, 0, None))
            i = match.end()
        elif match := _BETWEEN.match(smiles, i):
            i = match.end()
        else:
            raise ValueError(
                f"smiles must have an atom, bond or ring closure at position {i}, got {smiles!r}"
            )
    if not atoms:
        raise ValueError(f"smiles must have at least one atom, got {smiles!r}")
    return tuple(atoms)


def formal_charges(smiles: str) -> tuple[int, ...]:
    """Return the formal charge of each atom written in ``smiles``; their sum is the total charge.

    Examples
    --------
    >>> formal_charges("C[N+](=O)[O-]"), sum(formal_charges("[H:3][C:1]#[C:2][H:4].[Na+:5]"))
    ((0, 1, 0, -1), 1)
    """
    return tuple(a.charge for a in smiles_atoms(smiles))


def mapped_numbers(smiles: str) -> tuple[int, ...] | None:
    """Return the atomic numbers in order of the map numbers 1…N; ``None`` if the atoms are numbered otherwise.

    Examples
    --------
    >>> mapped_numbers("[H:2][O:1][H:3]"), mapped_numbers("CO")
    ((8, 1, 1), None)
    """
    atoms = smiles_atoms(smiles)
    order = [a.map_number for a in atoms]
    if any(a.hydrogens or a.symbol == "*" for a in atoms) or {*order} != {*range(1, len(atoms) + 1)}:
        return None
    return tuple(NUMBERS[a.symbol] for a in sorted(atoms, key=lambda a: a.map_number or 0))


def without_map_numbers(smiles: str) -> str:
    """Return ``smiles`` without its map numbers, which is equal for two groups of the same molecule.

    Examples
    --------
    >>> without_map_numbers("[H:3][C:1]#[C:2][H:4]")
    '[H][C]#[C][H]'
    """
    return re.sub(r":\d+\]", "]", smiles)
