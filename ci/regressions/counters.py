"""The record of exact counters, benchmarks/counters.json, and its comparison with what is counted now.

Any difference fails: more is a regression, fewer is an improvement that is to be recorded, so that it stays. Triton's
registers and spills are recorded in registers.json, with more shapes than are compared here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.common import ROOT, write_json

RECORD = ROOT / "benchmarks" / "counters.json"
UPDATE = "nox -f nox.py -s counters -- update"


class OtherVersion(Exception):
    """The record was made with another release of torch or Triton: counters of the two cannot be compared."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, int]]:
    """The numbers of nested mappings with their paths, joined by " · "."""
    for key, value in tree.items():
        if isinstance(value, Mapping):
            yield from flat(value, f"{prefix}{key} · ")
        else:
            yield prefix + key, value


def differences(recorded: Mapping[str, Any], found: Mapping[str, Any]) -> list[str]:
    """One line for every counter that is not what was recorded; a missing one counts as 0.

    Examples
    --------
    >>> differences({"step": {"nodes": 3}}, {"step": {"nodes": 4, "aten.clone": 1}})
    ['more: step · aten.clone 0 → 1', 'more: step · nodes 3 → 4']
    """
    old, new = dict(flat(recorded)), dict(flat(found))
    lines = []
    for name in sorted(old.keys() | new.keys()):
        before, now = old.get(name, 0), new.get(name, 0)
        if before != now:
            lines.append(f"{'more' if now > before else 'fewer'}: {name} {before:,} → {now:,}")
    return lines


def same_version(library: str, recorded: str, here: str) -> None:
    """Raise :class:`OtherVersion` unless the record is of this release (builds may differ)."""
    if recorded.split("+")[0] != here.split("+")[0]:
        raise OtherVersion(
            f"{library}: required {recorded}, with which the counters were recorded, got {here}"
        )


def measured(only: str = "") -> dict[str, Any]:
    """Every group of counters by name, or those whose name contains ``only``."""
    from ci.regressions import counted

    groups, found = counted.groups(), {}
    if not any(only in name for name in groups):
        raise ValueError(f"only must be part of the name of one of {list(groups)}, got {only!r}")
    for name in (name for name in groups if only in name):
        found[name] = group = groups[name]()
        print(f"{name}: " + ", ".join(f"{k} {v:,}" for k, v in group.items() if k != "operators"), flush=True)
    return found


def compare(only: str = "") -> list[str]:
    """Count everything, or the groups whose name contains ``only``, and return the differences from the records."""
    import torch
    import triton

    from ci.regressions import counted
    from ci.regressions.registers import RECORD as REGISTERS

    record, registers = (json.loads(path.read_text()) for path in (RECORD, REGISTERS))
    same_version("torch", record["torch"], torch.__version__)
    before = {name: group for name, group in record["counters"].items() if only in name}
    lines = differences(before, measured(only))
    if only:
        return lines
    same_version("triton", registers["triton"], triton.__version__)
    kernels = counted.kernels()
    recorded = {shape: registers["counters"].get(shape, {}) for shape in kernels}
    return lines + differences(recorded, kernels)


def update(only: str = "") -> None:
    """Count everything but the kernels' registers, or the groups whose name contains ``only``, and write it down."""
    import torch

    found = measured(only)
    if only:
        record = json.loads(RECORD.read_text())
        same_version("torch", record["torch"], torch.__version__)
        found = record["counters"] | found
    write_json(RECORD, {"torch": torch.__version__.split("+")[0], "command": UPDATE, "counters": found})
