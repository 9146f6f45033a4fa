"""Types of atoms, by element symbol, type name or atomic number."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

ELEMENTS = tuple(
    """H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr
    Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu
    Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg
    Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og""".split()
)
"""Symbols of the elements 1 to 118, in order."""


def types_of(
    atoms: Sequence[str] | Tensor, type_names: Sequence[str], elements: Sequence[str] | None = None
) -> Tensor:
    """Return the type of each atom, its index in ``type_names``.

    Parameters
    ----------
    atoms : sequence of str, or Tensor (N,) integer
        Element symbols or type names, or atomic numbers.
    type_names : sequence of str
        The types of a model.
    elements : sequence of str, optional
        Element symbol of each type, where type names are no symbols (``"Ow"`` for O); by default the names.

    Returns
    -------
    Tensor, (N,) int64
        On the device of ``atoms`` where that is a tensor, else on the CPU.

    Raises
    ------
    ValueError
        For an atom that has no type, or an element with several types.

    Examples
    --------
    >>> types_of(["O", "H", "H"], ["H", "C", "O"])
    tensor([2, 0, 0])
    >>> types_of(torch.tensor([8, 1, 1]), ["Hw", "Ow"], elements=["H", "O"])
    tensor([1, 0, 0])
    """
    names, symbols = tuple(type_names), tuple(type_names if elements is None else elements)
    if len(symbols) != len(names):
        raise ValueError(f"elements must be {len(names)} symbols, one per type, got {list(symbols)}")
    places: dict[str, list[int]] = {}
    for place, symbol in enumerate(symbols):
        places.setdefault(symbol, []).append(place)
    for place, name in enumerate(names):
        places[name] = [place]
    if not isinstance(atoms, Tensor):
        return torch.tensor(_look_up(list(atoms), places, names), dtype=torch.int64)
    if atoms.dtype.is_floating_point or atoms.dtype == torch.bool or atoms.ndim != 1:
        raise ValueError(f"atoms must be integers of shape (N,), got {atoms.dtype} of {tuple(atoms.shape)}")
    numbers = torch.unique(atoms).tolist()
    if wrong := [number for number in numbers if not 1 <= number <= len(ELEMENTS)]:
        raise ValueError(f"atoms must be atomic numbers from 1 to {len(ELEMENTS)}, got {wrong}")
    table = torch.zeros(len(ELEMENTS) + 1, dtype=torch.int64)
    if numbers:
        table[numbers] = torch.tensor(_look_up([ELEMENTS[n - 1] for n in numbers], places, names))
    return table.to(atoms.device)[atoms.long()]


def _look_up(symbols: list[str], places: dict[str, list[int]], names: tuple[str, ...]) -> list[int]:
    """Return the only type of each symbol."""
    if unknown := sorted({s for s in symbols if s not in places}):
        raise ValueError(f"atoms must be among the types {list(names)}, got also {unknown}")
    if several := sorted({s for s in symbols if len(places[s]) > 1}):
        raise ValueError(
            f"atoms must be named by type where an element has several of the types {list(names)}, got {several}"
        )
    return [places[s][0] for s in symbols]
