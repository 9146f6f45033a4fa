"""Molecules of the example potential: small ones, substituted frameworks, complexes, and drugs that are held out."""

from __future__ import annotations

import itertools
import random

import numpy as np
from ase import Atoms
from ase.build import molecule
from rdkit import Chem, RDLogger

from spice_data.example.molecules import ENTRIES, IONS

RDLogger.DisableLog("rdApp.*")

SMALL = """
[H][H] O N C F Cl S P N#N [C-]#[O+] O=C=O C#N FF ClCl FCl OO NN NO OF OCl S=C=S O=C=S O=S=O O=S(=O)=O OP(=O)(O)O
OS(=O)(=O)O COP(=O)(OC)OC CP(C)C CP(C)(C)=O OP(O)O FP(F)F ClP(Cl)Cl FN(F)F FC(F)F ClC(Cl)Cl ClC(Cl)(Cl)Cl FC(F)(F)F
CSSC CS(C)=O CS(C)(=O)=O CS CSC C=S CC(N)=S FS(F)(F)(F)(F)F C1CO1 C1CN1 C1CS1 C=C=C C=C=O N=C=O CN=C=S CN=[N+]=[N-]
CON CN=O ON=O O[N+](=O)[O-] CC(=O)Cl FC(=O)C CC=NO CNN CN=NC PCP CSP COCl CNCl C=CC=C C#CC#C C1CCC1 C1=CC=CC1 SO SS PP
NP NS
""".split()

FRAMEWORKS = """
c1ccc({a})c({b})c1 c1cc({a})cc({b})c1 c1cc({a})ccc1{b} n1cc({a})ccc1{b} n1c({a})cc({b})cn1 n1c({a})nccc1{b}
c1c({a})[nH]cc1{b} Cn1cc({a})nc1{b} c1c({a})scc1{b} c1c({a})occ1{b} n1n(C)c({a})cc1{b} o1cnc({a})c1{b} s1cnc({a})c1{b}
c1ccc2c(c1)c({a})c[nH]2 c1ccc2nc({a})ccc2c1 c1ccc2cc({a})ccc2c1 Cn1c(=O)c2c(ncn2{a})n(C)c1=O O=c1cc({a})[nH]c(=O)n1{b}
C1CC({a})CCC1{b} C1CC({a})CC1{b} C1C({a})C1{b} C1CN(C)CCC1{a} C1CN(C{a})CCO1 C1CNCCN1C{a} C1COC({a})C1{b}
C1CC(=O)N(C)C1{a} C1C({a})C(=O)N1C C({a}){b} C({a})C{b} C({a})CC{b} C({a})C(C)C{b} C({a})=C{b} C({a})C#CC{b}
C({a})(C){b} C({a})C=CC{b} C(C)(C)({a})C{b} C({a})C(=O)NC{b} C({a})OC{b} C({a})SC{b} C({a})SSC{b} C({a})S(=O)(=O)C{b}
C({a})S(=O)C{b} C({a})C(=O)OC{b} C({a})NC(=O)NC{b} C({a})NC(=N)N C({a})N(C)C{b} C({a})C=NC{b} C({a})P(C)C{b}
C({a})P(=O)(OC)C{b} C({a})OP(=O)(O)OC{b} C({a})C(=O)C{b} C({a})S(=O)(=O)NC{b} C({a})NC(=O)OC{b} C({a})C(=S)NC{b}
C({a})N1C(=O)CCC1=O C({a})OS(=O)(=O)C CC(=O)NC({a})C(=O)NC NC({a})C(=O)O OC({a})C({b})O
""".split()

GROUPS = """
[H] [H] C C CC O OC N NC N(C)C F F Cl Cl S SC C#N C=O C(C)=O C(=O)O C(=O)OC C(=O)N NC(C)=O S(C)(=O)=O S(N)(=O)=O
[N+](=O)[O-] C=C C#C C(F)(F)F CO CN CCl OCC P(=O)(OC)OC C(C)C c9ccccc9 C9CC9 COC CC(=O)O OC(C)=O OC(F)F P(C)C n9cccc9
CS CF
""".split()

PARTNERS = """
O O O N C CO CN C=O CC(=O)O NC=O CNC(C)=O CC(C)=O COC C#N C[N+](=O)[O-] c1ccccc1 c1ccncc1 c1cc[nH]c1 Oc1ccccc1 CS CSC
S F Cl CF CCl CS(C)=O CS(C)(=O)=O COP(=O)(OC)OC OP(=O)(O)O CP(C)C NC(N)=O C=C c1ccsc1 CCO O=C=O Clc1ccccc1 Fc1ccccc1
""".split()

DRUGS = {
    "paracetamol": "CC(=O)Nc1ccc(O)cc1",
    "ibuprofen": "CC(C)Cc1ccc(cc1)C(C)C(=O)O",
    "caffeine": "Cn1c(=O)c2c(ncn2C)n(C)c1=O",
    "aspirin": "CC(=O)Oc1ccccc1C(=O)O",
    "sulfanilamide": "Nc1ccc(cc1)S(N)(=O)=O",
    "nicotine": "CN1CCCC1c1cccnc1",
    "isoniazid": "NNC(=O)c1ccncc1",
    "benzocaine": "CCOC(=O)c1ccc(N)cc1",
    "fluorouracil": "Fc1c[nH]c(=O)[nH]c1=O",
    "metronidazole": "Cc1ncc(n1CCO)[N+](=O)[O-]",
    "lidocaine": "CCN(CC)CC(=O)Nc1c(C)cccc1C",
    "bupropion": "CC(NC(C)(C)C)C(=O)c1cccc(Cl)c1",
    "fosfomycin": "CC1OC1P(=O)(O)O",
    "metrifonate": "COP(=O)(OC)C(O)C(Cl)(Cl)Cl",
}
"""None of these, and no molecule of the same canonical SMILES, is trained on."""


def canonical(smiles: str) -> str:
    """Return RDKit's canonical SMILES without stereochemistry."""
    return Chem.MolToSmiles(Chem.MolFromSmiles(smiles), isomericSmiles=False)


def entries(count: int, pairs: int) -> list[tuple[str, str, str]]:
    """Return (part, kind, SMILES): ``count`` substituted frameworks and ``pairs`` dimers beside the fixed lists."""
    rng = random.Random(0)
    drugs = {canonical(s) for s in DRUGS.values()}
    neutral = [e.smiles for e in ENTRIES if e.subset != IONS and "." not in e.smiles]
    neutral = [s for s in neutral if Chem.GetFormalCharge(Chem.MolFromSmiles(s)) == 0]
    made = list(dict.fromkeys(canonical(s) for s in SMALL + PARTNERS + neutral))
    every = [f.format(a=a, b=b) for f, a, b in itertools.product(FRAMEWORKS, dict.fromkeys(GROUPS), GROUPS)]
    seen = {*made, *drugs}
    for smiles in rng.sample(every, len(every)):
        if count == 0:
            break
        name = canonical(smiles)
        if name not in seen and Chem.MolFromSmiles(smiles).GetNumHeavyAtoms() <= 15:
            seen.add(name)
            made.append(name)
            count -= 1
    out = [("train", "molecule", s) for s in made]
    large = [i for i, (_, _, s) in enumerate(out) if Chem.MolFromSmiles(s).GetNumHeavyAtoms() > 6]
    for n, i in enumerate(rng.sample(large, min(60, len(large)))):
        out[i] = ("val" if n < 25 else "test", *out[i][1:])
    for n, pair in enumerate(rng.sample([f"{a}.{b}" for a in PARTNERS for b in PARTNERS], pairs)):
        out.append(("val" if n < 8 else "test" if n < 24 else "train", "dimer", pair))
    for n in (2, 3, 4, 5, 6, 7, 8, 12, 16):
        out += [
            ("train" if k else "val" if n % 2 else "test", f"water{k}", ".".join("O" * n)) for k in range(8)
        ]
    return out + [("test", "drug", s) for s in DRUGS.values()]


def waters(per_side: int, length: float, rng: np.random.Generator, closest: float | None = None) -> Atoms:
    """Return waters on a cubic grid in random orientations, in a periodic box if ``closest`` is given.

    Parameters
    ----------
    per_side : int
        Molecules along an axis.
    length : float
        Length of the axis, Å.
    rng : numpy Generator
        Draws the orientations.
    closest : float, optional
        Å; each molecule takes the first of 300 orientations that leaves no atoms of others nearer.
    """
    out = Atoms(cell=[length] * 3, pbc=True) if closest is not None else Atoms()
    for place in itertools.product(range(per_side), repeat=3):
        for _ in range(1 if closest is None else 300):
            water = molecule("H2O")
            water.euler_rotate(*rng.uniform(0, 360, 3))
            water.translate(length / per_side * np.array(place) - water.positions[0])
            both = out + water
            if closest is None or not len(out) or both.get_all_distances(mic=True)[-3:, :-3].min() > closest:
                break
        out = both
    return out
