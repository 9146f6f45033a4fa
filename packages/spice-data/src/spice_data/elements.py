"""Element symbols and atomic numbers, hydrogen to lawrencium."""

from __future__ import annotations

SYMBOLS: tuple[str, ...] = (
    *(
        "X H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr"
    ).split(),
    *(
        "Rb Sr Y Zr Nb Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb"
    ).split(),
    *(
        "Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr"
    ).split(),
)
"""``SYMBOLS[Z]`` is the symbol of atomic number Z; index 0 is a placeholder."""

NUMBERS: dict[str, int] = {symbol: z for z, symbol in enumerate(SYMBOLS) if z}
"""Atomic number of each symbol."""


def atomic_number(symbol: str) -> int:
    """Return the atomic number of ``symbol``; ``ValueError`` if there is no such element.

    Examples
    --------
    >>> atomic_number("Br")
    35
    """
    if symbol not in NUMBERS:
        raise ValueError(f"element must be a symbol from H to Lr, got {symbol!r}")
    return NUMBERS[symbol]
