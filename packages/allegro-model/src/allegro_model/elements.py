"""Atomic numbers of the element symbols."""

from localgraph import ELEMENTS

ATOMIC_NUMBERS: dict[str, int] = {symbol: number for number, symbol in enumerate(ELEMENTS, start=1)}
