"""Records by name, and how a table is made of their rows."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.common import RESULTS

NAMES = {
    "trp-gly-tyr-lys-pro": "pentapeptide",
    "dhfr_23558": "DHFR in water",
    "cellulose_408609": "cellulose in water",
    "3bpa": "3BPA, 450 frames at 300 K",
    "acac": "AcAc, 450 frames at 300 K",
    "aspirin": "rMD17 aspirin 01, 950 frames",
    "dipeptides": "SPICE dipeptides, 600 conformations",
    "water": "water, SCAN, with virial",
    "hdf5": "SPICE HDF5, h5py",
    "store": "**store**",
    "lmdb": "LMDB of pickles",
    "extxyz": "extxyz, ASE",
    "whole": "**full**",
    "full": "**full**",
    "paper": "forces",
}
"""Names in records and what the page calls them."""


def path_of(name: str) -> Path:
    """Return the file of a record."""
    return RESULTS / f"{name}.json"


def record(name: str) -> Any:
    """Return a record by the name of its file."""
    return json.loads(path_of(name).read_text())


def table(head: str, rows: Iterable[Iterable[str]]) -> str:
    """Return a Markdown table; ``head`` names the columns, separated by bars."""
    columns = [column.strip() for column in head.split("|")]
    lines = [columns, ["---"] * len(columns), *map(list, rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def structure(name: str) -> str:
    """Return a structure's name in words."""
    stem = name.removesuffix(".gz").removesuffix(".xyz")
    return "water" if re.fullmatch(r"water_\d+", stem) else NAMES.get(stem, name)


def digits(x: float) -> str:
    """Return three significant digits without an exponent, thousands with commas."""
    return f"{x:,.0f}" if x >= 100 else f"{x:.1f}" if x >= 10 else f"{x:.2f}"


def filled_rows(head: str, template: str, rows: Iterable[Mapping[str, Any]]) -> str:
    """Return a table whose cells are a format of each row, separated by bars."""
    return table(head, ([cell.strip() for cell in template.format_map(row).split("|")] for row in rows))


def rows_of(name: str, **kept: Any) -> list[dict[str, Any]]:
    """Return the rows of a record that have these values, with names of structures and what several tables derive."""
    rows = [row for row in record(name)["rows"] if all(row.get(k) == v for k, v in kept.items())]
    for row in rows:
        row["name"] = structure(str(row.get("system", row.get("structure", ""))))
    return rows
