"""The molecules of the example dataset: families that repeat, so that held-out ones resemble others."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    """One molecule (or complex) of the example.

    Attributes
    ----------
    subset : str
        Name of the SPICE subset it imitates.
    smiles : str
        SMILES without hydrogens; fragments of a complex are separated by dots.
    name : str
        Group name in the file: as in SPICE, an arbitrary label that must not be read as a SMILES.
    """

    subset: str
    smiles: str
    name: str


MONOMERS = "SPICE DES Monomers Single Points Dataset v1.1"
DIMERS = "SPICE DES370K Single Points Dataset v1.0"
PUBCHEM = "SPICE PubChem Set 1 Single Points Dataset v1.3"
DIPEPTIDES = "SPICE Dipeptides Single Points Dataset v1.3"
WATER = "SPICE Water Clusters v1.0"
SOLVATED = "SPICE Solvated Amino Acids Single Points Dataset v1.1"
IONS = "SPICE Ion Pairs Single Points Dataset v1.2"

_SMALL = """
C CC CCC CCCC CC(C)C C=C C=CC C#C CC#C
CO CCO CCCO CC(C)O OCCO COC CCOC
N CN CCN CNC CN(C)C CCCN
C=O CC=O CC(C)=O CCC=O
OC=O CC(=O)O CCC(=O)O COC=O COC(C)=O
NC=O CC(N)=O CNC=O CNC(C)=O CCC(N)=O NC(N)=O
CC#N CCC#N C[N+](=O)[O-] CC[N+](=O)[O-]
c1ccccc1 Cc1ccccc1 Oc1ccccc1 Nc1ccccc1 c1ccncc1 c1cc[nH]c1 c1c[nH]cn1
CS CCS CSC CF CCF Fc1ccccc1 CCl CCCl Clc1ccccc1
C[NH3+] CC[NH3+] [NH4+] NC(=[NH2+])N CC(=O)[O-] [O-]C=O
""".split()

_LARGER = """
NCCO COCCO NCCN CC(O)C(=O)O NCC(=O)O CC(N)C(=O)O CN(C)C=O CC(=O)OCC Cc1ccncc1 Cc1c[nH]cn1 OCc1ccccc1
CCCCO CCCCN CC(=O)CC
""".split()

_PAIRS = """
O.CO O.CCO CO.CO O.N O.CN O.C O.CC(N)=O O.CNC(C)=O O.CC(=O)O O.c1ccccc1 CO.CC(N)=O O.NC=O
O.C[NH3+] O.CC(=O)[O-]
""".split()

_PEPTIDES = {
    "gly": "CC(=O)NCC(=O)NC",
    "ala": "CC(=O)N[C@@H](C)C(=O)NC",
    "ser": "CC(=O)N[C@@H](CO)C(=O)NC",
}

ENTRIES: tuple[Entry, ...] = (
    *(Entry(MONOMERS, s, s.lower()) for s in _SMALL),
    *(Entry(PUBCHEM, s, str(900000001 + i)) for i, s in enumerate(_LARGER)),
    *(Entry(DIMERS, s, s.lower()) for s in _PAIRS),
    *(Entry(DIPEPTIDES, s, name) for name, s in _PEPTIDES.items()),
    *(Entry(WATER, ".".join("O" * n), f"water{n}") for n in range(2, 7)),
    Entry(SOLVATED, "NCC(=O)O.O.O.O", "glycine-water3"),
    *(Entry(IONS, s, s) for s in ("[F-].[Cl-]", "[Cl-].[Cl-]")),
)
"""Every entry, in the order in which it is generated."""
