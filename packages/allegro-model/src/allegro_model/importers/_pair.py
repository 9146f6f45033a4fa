"""Elements of the types and the pair potential of a model of nequip-allegro."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from allegro_model.elements import ATOMIC_NUMBERS
from allegro_model.importers._source import Source
from allegro_model.importers._view import kind_of

_SYMBOLS = {number: symbol for symbol, number in ATOMIC_NUMBERS.items()}


def pair_fields(source: Source, embed: str, elements: Mapping[str, str | None] | None) -> dict[str, Any]:
    """Return the fields of elements and pair potential; what has no counterpart is a problem."""
    names = source.type_names
    fields: dict[str, Any] = {}
    known: dict[str, str | None] = {name: None for name in names if name not in ATOMIC_NUMBERS}
    known.update(elements or {})
    pair = source.parts.get("pair_potential")
    if pair is not None:
        fields["pair_cutoff_p"] = _cutoff_exponent(source, pair, embed)
        if kind_of(pair) == "ZBL":
            known.update(_zbl_elements(source, pair, elements or {}))
            fields["zbl"] = True
        elif kind_of(pair) == "LennardJones":
            fields["lennard_jones"] = _lennard_jones(source, pair)
        else:
            source.problems.append(
                f"pair_potential: a {kind_of(pair)} has no counterpart, only ZBL and LennardJones have"
            )
    return {**fields, "elements": known or None}


def _cutoff_exponent(source: Source, pair: Any, embed: str) -> float:
    """Return the exponent of the pair potential's own cutoff, before nequip 0.17 of the edges' common one."""
    if "cutoff" in dict(pair.named_children()):
        return float(pair.cutoff.p)
    if "cutoff" in source.parts:  # of a model whose embedding has none
        return float(source.parts["cutoff"].cutoff.p)
    return float(source.parts[embed].bessel_encode.cutoff.p)


def _zbl_elements(source: Source, zbl: Any, elements: Mapping[str, str | None]) -> dict[str, str]:
    """Return the elements of types whose names are none, from the atomic numbers of ZBL."""
    if abs(float(source.get("pair_potential._qqr2exesquare")) - 0.5 * 14.399645) > 1e-9:
        source.problems.append("pair_potential: ZBL in units other than metal has no counterpart")
    numbers = [int(z) for z in source.get("pair_potential.atomic_numbers").flatten().tolist()]
    names = source.type_names
    symbols = {name: _SYMBOLS.get(z, "") for name, z in zip(names, numbers, strict=True)}
    wanted = {name: elements.get(name, name) for name in names}
    wrong = [name for name in names if wanted[name] in ATOMIC_NUMBERS and wanted[name] != symbols[name]]
    if wrong or not all(symbols.values()):
        source.problems.append(f"pair_potential: atomic numbers {numbers} are not those of the types {names}")
        return {}
    return {name: symbol for name, symbol in symbols.items() if name not in ATOMIC_NUMBERS}


def _lennard_jones(source: Source, pair: Any) -> dict[str, Any]:
    """Return the fields of a LennardJones."""
    if pair.lj_style == "lj_repulsive_only":
        source.problems.append(
            "pair_potential: LennardJones with lj_style=lj_repulsive_only jumps at its minimum and has no "
            "counterpart"
        )
    fields: dict[str, Any] = {"exponent": float(pair.exponent), "trainable": []}
    fields["style"] = "repulsive" if pair.lj_style == "repulsive" else "lj"
    for name in ("sigma", "epsilon", "delta"):
        table = source.get(f"pair_potential.{name}").double()
        if table.numel() == 0:
            source.problems.append(f"pair_potential: LennardJones without lj_{name} has no counterpart")
            return {"sigma": 0.0, "epsilon": 0.0}
        if table.ndim == 2:
            table = table.triu() + table.triu(1).T
        fields[name] = torch.relu(table).tolist()
        if getattr(getattr(pair, name), "requires_grad", False):
            fields["trainable"].append(name)
    return fields
