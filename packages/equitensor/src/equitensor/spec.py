"""The specification of a tensor product, as a value and as the string the registered operators carry."""

from __future__ import annotations

from functools import cache
from typing import Any, NamedTuple

from equitensor.paths import Irrep, admissible_paths, as_irreps, irreps_string


class Spec(NamedTuple):
    """The three lists of irreps of a product in1 ⊗ in2 → out, with every admissible path between them."""

    in1: tuple[Irrep, ...]
    in2: tuple[Irrep, ...]
    out: tuple[Irrep, ...]

    @property
    def num_paths(self) -> int:
        """Number of admissible paths."""
        return len(admissible_paths(*self))

    def __str__(self) -> str:
        return ";".join(irreps_string(s) for s in self)


def make_spec(irreps_in1: Any, irreps_in2: Any, irreps_out: Any) -> Spec:
    """Return a specification; raise ``ValueError`` if no path connects the irreps or an output irrep has no path."""
    spec = Spec(
        as_irreps(irreps_in1, "irreps_in1"),
        as_irreps(irreps_in2, "irreps_in2"),
        as_irreps(irreps_out, "irreps_out"),
    )
    reached = {p.out for p in admissible_paths(*spec)}
    missing = [ir for k, ir in enumerate(spec.out) if k not in reached]
    if missing or not spec.out:
        raise ValueError(
            f"irreps_out must be irreps in {irreps_string(spec.in1)} ⊗ {irreps_string(spec.in2)}, "
            f"got {irreps_string(spec.out)!r}"
            + (f", of which no path reaches {irreps_string(missing)}" if missing else "")
        )
    return spec


@cache
def parse_spec(text: str) -> Spec:
    """Return the specification that ``str(spec)`` describes."""
    return Spec(*(as_irreps(part) for part in text.split(";")))
