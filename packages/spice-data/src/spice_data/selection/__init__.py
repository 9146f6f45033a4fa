"""Selections by named filters."""

from spice_data.selection._select import Removed, Selection, select
from spice_data.selection.filters import (
    Elements,
    Filter,
    MaxForce,
    Neutral,
    NeutralAtoms,
    NoIsolatedAtoms,
    Subsets,
)

__all__ = [
    "Elements",
    "Filter",
    "MaxForce",
    "Neutral",
    "NeutralAtoms",
    "NoIsolatedAtoms",
    "Removed",
    "Selection",
    "Subsets",
    "select",
]
