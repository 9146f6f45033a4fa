"""Tables of RESULTS.md, READMEs and docs, generated from the records in ``benchmarks/results``.

    python -m benchmarks.results_page            # fill the tables
    python -m benchmarks.results_page --check    # exit status 1 and a list where a file differs from its records

A page asks for a table by the comments ``<!-- results: NAME -->`` and ``<!-- end -->``, between which it stands. Every
number in it comes from a record that a command of ``tables.py`` wrote; RESULTS.md also lists these commands.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT, write_text
from benchmarks.result_tables import data, foundation, runs, speed
from benchmarks.result_tables.records import path_of, record

PAGE = ROOT / "benchmarks" / "RESULTS.md"


ASKED = re.compile(r"(<!-- results: (\w+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


PLACES = {"python": "python", "nequip": "PYTHON", "work": "tables-out"}


PLACES |= {"results": "benchmarks/results", "data": "../shared/data"}
"""What stands for this machine's paths in recorded commands."""


NEQUIP = "nequip 0.19.1 and nequip-allegro 0.8.3, noted at the time and not in the record"


class Table(NamedTuple):
    """How a table is made, of which records, and the other side's versions where the records lack them."""

    make: Callable[[], str]
    records: tuple[str, ...]
    other: str = ""


def plain(make: Callable[[], str], *records: str, other: str = "") -> Table:
    """Return the entry of a table whose records are called as it is, or these."""
    return Table(make, records or (make.__name__,), other)


TABLES = {
    table.make.__name__: table
    for table in (
        plain(speed.gpu),
        plain(runs.accuracy, other=NEQUIP),
        plain(runs.literature, *runs.LITERATURE),
        plain(runs.accuracy_lmax),
        plain(runs.first),
        plain(runs.demo),
        plain(runs.physics),
        plain(runs.conservation, "physics"),
        plain(runs.silicon_errors, "literature_silicon"),
        plain(speed.systems, "systems_small"),
        plain(speed.inference, other=NEQUIP),
        plain(speed.floor, "inference_1", other=NEQUIP),
        plain(foundation.foundation),
        plain(foundation.foundation_compile, "foundation"),
        plain(foundation.foundation_files, "foundation"),
        plain(foundation.matbench),
        plain(speed.lmax, "lmax_1"),
        plain(speed.protocols),
        plain(speed.scaling),
        plain(speed.scaling_cost, "scaling"),
        plain(speed.lammps, other=NEQUIP),
        plain(speed.openmm_steps, "openmm"),
        plain(speed.openmm_runs, "openmm"),
        plain(speed.relaxations),
        plain(runs.train, "train_small", "train_medium", "train_large", other=NEQUIP),
        plain(runs.ddp),
        plain(runs.reduce),
        plain(runs.interruptions),
        plain(runs.bf16),
        plain(
            speed.neighbors_search,
            *("neighbors_search_1", "neighbors_search_2"),
            other="versions of vesin, matscipy and ASE not in the record",
        ),
        plain(speed.neighbors_skin, "neighbors_skin_1"),
        plain(speed.neighbors_systems, "neighbors_systems_1"),
        plain(speed.kernels, "kernels_1", "kernels_2"),
        plain(speed.inference_memory, "inference", other=NEQUIP),
        plain(data.data_reading, other="versions of lmdb and ASE not in the record"),
        plain(data.data_converting),
        plain(data.data_growth),
        plain(data.data_batches),
    )
} | {
    f"model_{system}": Table(partial(speed.eager, system), (f"model_{system}",), NEQUIP)
    for system in ("water_192", "water_81")
}
TABLES |= {
    name: Table(partial(runs.material, f"physics_{name}"), (f"physics_{name}",))
    for name in ("water", "silicon")
}


def command_of(name: str, run: dict[str, Any]) -> str:
    """Return the command that a record, or else its entry in tables.json, holds, in the form that runs today."""
    data = record(name)
    if "argv" in data:
        command = " ".join(["python benchmarks/lammps_beside_nequip.py", *data["argv"]])
    else:
        command = str(data.get("command") or run["commands"][-1].format(**PLACES))
    return re.sub(
        r"python benchmarks/(\S+)\.py", lambda m: f"python -m benchmarks.{m[1].replace('/', '.')}", command
    )


def provenance(name: str, other: str, run: dict[str, Any]) -> str:
    """Return a record's command, machine, threads, versions and date, as far as they are recorded."""
    if not path_of(name).exists():
        return f"- `results/{name}.json`: not there yet\n"
    data = record(name)
    machine = run.get("machine") or data.get("machine", {})
    machine = machine if isinstance(machine, dict) else {"processor": machine}
    facts = [machine.get("processor", ""), *map(str.upper, machine.get("vector instructions", []))]
    threads = data.get("threads", data.get("options", {}).get("threads"))
    threads = threads or data.get("environment", {}).get("OMP_NUM_THREADS")
    facts += [f"{machine['cores']} cores"] if "cores" in machine else []
    facts += [f"threads {threads}"] if threads else []
    others = {name: v for side in data.get("provider_versions", {}).values() for name, v in side.items()}
    facts += [f"{k} {v}" for k, v in {**others, **data.get("versions", {})}.items()]
    if "versions" not in data:
        facts += [f"torch {machine['torch']}" if "torch" in machine else "", other]
    made = run.get("commit") or data.get("commit")
    facts += [
        f"commit {made}" if made else f"recorded in {data['recorded in']}" if "recorded in" in data else ""
    ]
    listed = ", ".join(filter(None, [*facts, run.get("started", "")[:10] or data.get("date")]))
    return f"- `results/{name}.json`: `{command_of(name, run)}`" + (f" ({listed})" if listed else "") + "\n"


def filled(text: str, sources: bool = False) -> str:
    """Return a text with the tables that it asks for, and where they come from; KeyError names an unknown one."""
    runs = record("tables")

    def block(found: re.Match[str]) -> str:
        make, records, other = TABLES[found[2]]
        lines = [provenance(name, other, runs.get(name, {})) for name in records] if sources else []
        return "".join([found[1], make(), "\n" * bool(lines), *lines, found[4]])

    return ASKED.sub(block, text)


def pages() -> dict[Path, str]:
    """Return every file that asks for tables, as it should be."""
    found = [ROOT / "README.md", *ROOT.glob("*/README.md"), *ROOT.glob("packages/*/README.md"), PAGE]
    found += ROOT.glob("docs/*/*.md")
    texts = {path: path.read_text() for path in sorted(found)}
    return {path: filled(text, path == PAGE) for path, text in texts.items() if ASKED.search(text)}


def main() -> int:
    """Write the page and the tables, or compare them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; name the files that would change"
    )
    check = parser.parse_args().check
    wanted = pages()
    stale = [path for path, text in wanted.items() if path.read_text() != text]
    for path in stale if not check else ():
        write_text(path, wanted[path])
    print("\n".join(str(path.relative_to(ROOT)) for path in stale) or "every table equals its record")
    return 1 if check and stale else 0


if __name__ == "__main__":
    raise SystemExit(main())
