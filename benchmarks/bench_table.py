"""An exported model with tables of the two-body features against the same without: least times of alternating calls.

    python -m benchmarks.bench_table MODEL --structure water_81 --work out [--json JSON]

MODEL is a preset (``small``, ``medium``, ``large``, with random weights) or a model file. Both exports are kept in
``--work``. One thread; a call evaluates energies and edge forces on a graph found before.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from benchmarks.common import Least, least_times, write_record
from benchmarks.systems import ELEMENTS, PRESETS, model, read

import localgraph
import mlip_export

OPTIONS: dict[str, dict[str, float]] = {"model": {}, "tables": {"two_body_table": 1e-7}}


def exported(options: argparse.Namespace) -> dict[str, Any]:
    """Return both exports, loaded; what is in the folder already is not compiled again."""
    options.work.mkdir(parents=True, exist_ok=True)
    given, found = options.model, {}
    for name, extra in OPTIONS.items():
        path = options.work / f"{Path(given).stem}.{name}.pt2"
        if not path.exists():
            mlip_export.compile(model(given) if given in PRESETS else given, path, **extra)
        found[name] = mlip_export.load(path)
    return found


def main() -> None:
    """Print times, the ratio, and what the tables take."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--structure", default="water_81", help="name in data/systems, or an .xyz file")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=20.0, help="time spent on calls (default: 20)")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    exports = exported(options)
    tables = exports["tables"].metadata.two_body_table
    system = read(options.structure, elements=ELEMENTS)
    types = localgraph.types_of(system.symbols, exports["model"].type_names)
    index, cutoffs = system.graph.edge_index, exports["model"].cutoffs
    near = system.vectors.norm(dim=1) < cutoffs[types[index[0]], types[index[1]]]
    inputs = system.vectors[near].contiguous(), index[:, near].contiguous(), types
    forces = [export(*inputs)[1] for export in exports.values()]
    least: dict[str, Least] = least_times(
        {name: (lambda export=export: export(*inputs)) for name, export in exports.items()},
        options.seconds,
    )
    row = {f"{name} us/edge": 1e6 * least[name].cpu / int(near.sum()) for name in exports}
    row |= {
        "ratio": least["tables"].cpu / least["model"].cpu,
        "edges": int(near.sum()),
        "difference of forces, eV/Å": float((forces[0] - forces[1]).abs().max()),
        "tables": tables,
    }
    print(options.model, row)
    write_record(options.json, model=Path(options.model).name, structure=options.structure, **row)


if __name__ == "__main__":
    main()
