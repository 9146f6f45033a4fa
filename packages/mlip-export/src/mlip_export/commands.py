"""The commands of ``mlip-export``: compile, fetch, info, check, bench, select, lammps."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def compile(options: argparse.Namespace) -> None:
    """Compile a model file, and print the metadata of the exported model."""
    from mlip_export._compile import compile
    from mlip_export._describe import describe

    output = options.output or _default_output(options.model)
    metadata = compile(
        options.model,
        output,
        device=options.device,
        dtype=options.dtype,
        isa=options.isa,
        precision=options.precision,
        fused=options.fused,
        two_body_table=options.two_body_table,
        chained=options.chained,
    )
    print(f"wrote {output}")
    print(describe(metadata))


def _default_output(model: str) -> Path:
    """Return the name of the exported model: that of the model file, or of a published model in this folder."""
    from localgraph import is_published_name

    if is_published_name(model):
        return Path(f"{model.rpartition('/')[2].replace(':', '-')}.pt2")
    return Path(model).with_suffix(".pt2")


def fetch(options: argparse.Namespace) -> None:
    """Download a published model, or list their names."""
    from localgraph import fetch, published

    known = published()
    if options.name is None:
        for entry in known.values():
            print(f"{entry.name}\n    {entry.file}, license {entry.license}, {entry.source}")
        return
    path = fetch(options.name, cache=options.cache, mirrors=options.mirror)
    print(f"license {known[options.name].license}, {known[options.name].source}\n{path}")


def info(options: argparse.Namespace) -> None:
    """Print the metadata of an exported model."""
    import json
    from dataclasses import asdict

    from mlip_export._describe import describe
    from mlip_export.model_file import read_metadata

    metadata = read_metadata(options.model)
    print(json.dumps(asdict(metadata), indent=1) if options.json else describe(metadata))


def check(options: argparse.Namespace) -> None:
    """Check an exported model here."""
    from mlip_export._check import check

    print(check(options.exported, options.model))


def bench(options: argparse.Namespace) -> None:
    """Time an exported model."""
    from mlip_export._bench import bench

    print(bench(options.model, options.structure, options.repeats, options.threads))


def select(options: argparse.Namespace) -> None:
    """Write the frames to label, each with its force spread."""
    import ase.io

    from mlip_export._select import read_frames, select

    found = select(
        options.trajectory, options.models, options.count, at_least=options.at_least, every=options.every
    )
    spread_of = dict(zip(found.frames, found.spreads, strict=True))
    chosen = []
    for index, atoms in read_frames(options.trajectory):
        if index in spread_of:
            atoms.calc = None  # labels of the run are not those of the reference method
            atoms.info.update(frame=index, force_spread=spread_of[index])
            chosen.append(atoms)
    ase.io.write(options.output, chosen)
    print(
        f"wrote {len(chosen)} frames to {options.output} ({options.count} asked for, {found.evaluated} evaluated, "
        f"{found.skipped} skipped for overlapping atoms), force spread {min(found.spreads):.3g} to "
        f"{max(found.spreads):.3g} eV/Å"
    )


def lammps(options: argparse.Namespace) -> None:
    """Build the LAMMPS plugin, or print about it."""
    from mlip_export import lammps

    actions: dict[str, Callable[[], Any]] = {
        "build": lambda: lammps.build(force=options.force),
        "input": lambda: lammps.input_lines(options.model, options.data, options.elements),
        "status": lammps.status,
        "path": lammps.plugin_directory,
        "sources": lammps.sources,
    }
    print(actions[options.action]())
