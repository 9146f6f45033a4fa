"""types_of: symbols, type names and atomic numbers; every atom has exactly one type or is refused."""

import pytest
import torch
from ase.build import molecule
from ase.data import chemical_symbols

from localgraph import types_of
from localgraph.model.types import ELEMENTS


def test_elements_are_those_of_ase():
    assert list(ELEMENTS) == chemical_symbols[1:119]


@pytest.mark.parametrize(
    "atoms, names, elements, expected",
    [
        (["O", "H", "H"], ["H", "O"], None, [1, 0, 0]),
        (molecule("H2O").symbols, ("O", "H"), None, [0, 1, 1]),
        (torch.tensor(molecule("CH3OH").numbers), ["C", "H", "O"], None, [0, 2, 1, 1, 1, 1]),
        (["Ow", "O"], ["Ow", "O"], None, [0, 1]),
        ([8, 1], ["Hw", "Ow"], ["H", "O"], [1, 0]),
        (["O", "Hw"], ["Hw", "Ow"], ["H", "O"], [1, 0]),
        (["O1", "O2"], ["O1", "O2"], ["O", "O"], [0, 1]),
        ([], ["H"], None, []),
        (torch.zeros(0, dtype=torch.int64), ["H"], None, []),
    ],
)
def test_types(atoms, names, elements, expected):
    if len(atoms) and isinstance(atoms[0], int):
        atoms = torch.tensor(atoms, dtype=torch.int32)
    found = types_of(atoms, names, elements)
    assert found.dtype == torch.int64 and found.tolist() == expected


@pytest.mark.parametrize(
    "atoms, names, elements, message",
    [
        (["Cl", "H", "Na"], ["H"], None, r"atoms must be among the types \['H'\], got also \['Cl', 'Na'\]"),
        (torch.tensor([1, 6]), ["H"], None, r"atoms must be among the types \['H'\], got also \['C'\]"),
        (torch.tensor([0, 119]), ["H"], None, r"atomic numbers from 1 to 118, got \[0, 119\]"),
        (torch.tensor([1.0]), ["H"], None, "atoms must be integers"),
        (["O"], ["O1", "O2"], ["O", "O"], r"several of the types \['O1', 'O2'\], got \['O'\]"),
        (["O"], ["O1", "O2"], ["O"], "elements must be 2 symbols, one per type"),
    ],
)
def test_refused(atoms, names, elements, message):
    with pytest.raises(ValueError, match=message):
        types_of(atoms, names, elements)
