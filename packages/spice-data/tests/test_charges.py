"""Formal charges from SMILES, against RDKit."""

import h5py
import pytest

from spice_data.read.charges import formal_charges, mapped_numbers, smiles_atoms

CASES = {
    "C": 0,
    "[Na+]": 1,
    "[Ca+2]": 2,
    "[Ca++]": 2,
    "[Fe+3]": 3,
    "[O--]": -2,
    "[O-2]": -2,
    "[13CH3-]": -1,
    "[NH4+:7]": 1,
    "C[N+](=O)[O-]": 0,
    "[nH+]1ccccc1": 1,
    "c1cc[nH]c1": 0,
    "[C@@H](N)(C)C(=O)[O-]": -1,
    "[Pt@SP1+2](F)(Cl)(Br)I": 2,
    "[Cl-].[Na+]": 0,
    "[H:3][C:1]#[C:2][H:4].[Na+:5]": 1,
    "[se+]1cccc1": 1,
    "C%12CC%12[NH3+]": 1,
    "F/C=C\\[O-]": -1,
    "[2H+]": 1,
    "[H]": 0,
    "BrC(Cl)I": 0,
    "[N-]=[N+]=C": 0,
    "[S@@+](C)(CC)[O-]": 0,
    "*C": 0,
}


def _rdkit_total_charge(smiles):
    """RDKit's total charge, unsanitized so that all of SPICE parses."""
    chem = pytest.importorskip("rdkit.Chem")
    return chem.GetFormalCharge(chem.MolFromSmiles(smiles, sanitize=False))


@pytest.mark.parametrize("smiles", CASES)
def test_total_charge(smiles):
    assert sum(formal_charges(smiles)) == CASES[smiles] == _rdkit_total_charge(smiles)


@pytest.mark.parametrize(
    "smiles", ["", "[", "[C", "[Qq]", "[C+-]", "[+]", "C!", "[NH4+:]", "[C:1", "C]", "[]", "[Fe+++]"]
)
def test_malformed(smiles):
    with pytest.raises(ValueError, match="smiles"):
        formal_charges(smiles)


def test_atoms():
    atoms = smiles_atoms("[13CH3-:4]Cl[nH]")
    assert [(a.symbol, a.charge, a.hydrogens, a.map_number) for a in atoms] == [
        ("C", -1, 3, 4),
        ("Cl", 0, 0, None),
        ("N", 0, 1, None),
    ]
    assert formal_charges("[O-][N+](C)C") == (-1, 1, 0, 0)


@pytest.mark.parametrize("smiles", ["CO", "[C:1][C:3]", "[CH4:1]", "[*:1]", "[C:1][C:1]"])
def test_unmapped(smiles):
    assert mapped_numbers(smiles) is None


def test_every_smiles_of_the_shared_data_agrees_with_rdkit(shared):
    seen = set()
    for path in sorted(shared.glob("*.hdf5")):
        with h5py.File(path) as file:
            seen |= {group["smiles"].asstr()[0] for group in file.values()}
    assert len(seen) > 500
    assert {s: sum(formal_charges(s)) for s in seen} == {s: _rdkit_total_charge(s) for s in seen}
    assert len({sum(formal_charges(s)) for s in seen}) >= 4
