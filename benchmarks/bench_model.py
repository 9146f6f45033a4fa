"""Energy and forces of the three presets beside nequip-allegro's on one structure: time and peak memory, eager PyTorch.

    python -m benchmarks.bench_model [system.xyz] [--threads 1] [--repeats 5] [--output results.json]

Needs nequip and nequip-allegro in the same environment. Both sides hold the same weights (ours are imported), and
their energies and forces are compared. Every measurement is a process of its own that keeps freed memory; the time is
the least of the repeats, the memory the peak resident size over that before the first call. Without a file: 192 atoms
of water at 1 g/cm³.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.common import Worker, write_record
from benchmarks.systems import PRESETS, box

PROVIDERS = {"nequip-allegro": "nequip-allegro", "direct": "direct", "allegro-model": "eager"}
WORKER = str(Path(__file__).with_name("worker.py"))


def row_of(
    preset: str, provider: str, source: Path, system: Path, options: argparse.Namespace
) -> dict[str, Any]:
    """Measure one provider on one preset in a process."""
    arguments = ["inference", "--preset", preset, "--source", source, "--threads", options.threads]
    worker = Worker(WORKER, [*arguments, "--memory-limit", options.memory_limit], options.threads)
    got = worker.ask(system=str(system.resolve()), kind=PROVIDERS[provider], repeats=options.repeats)
    row: dict[str, Any] = {"provider": provider, "preset": f"spice_{preset}"}
    if got is None:
        return row | {"failed": f"over {options.memory_limit} GiB"}
    kept = {key: got[key] for key in ("atoms", "seconds", "energy", "forces")}
    worker.close()
    return row | kept | {"peak_mib": got["step_MiB"]}


def main() -> None:
    """Run every provider and preset, check that they agree, print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("system", nargs="?", type=Path)
    parser.add_argument("--presets", nargs="+", default=PRESETS, choices=PRESETS)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument(
        "--memory-limit", type=float, default=16.0, help="GiB of address space of each process"
    )
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()
    rows = []
    print(f"{'preset':14}{'provider':18}{'ms':>9}{'ratio':>7}{'peak MiB':>10}{'ratio':>7}")
    with tempfile.TemporaryDirectory() as folder:
        system = options.system or Path(folder) / "water.xyz"
        if options.system is None:
            box(4).to_ase().write(system)
        for preset in options.presets:
            source, first = Path(folder) / f"{preset}.safetensors", None
            weights = [sys.executable, "-m", "benchmarks.worker", "weights"]
            subprocess.run([*weights, "--preset", preset, "--source", str(source)], check=True)
            for provider in PROVIDERS:
                row = row_of(preset, provider, source, system, options)
                rows.append(row)
                if "failed" in row:
                    print(f"{preset:14}{provider:18}{row['failed']:>33}", flush=True)
                    continue
                forces = row.pop("forces")
                first = first or row | {"forces": forces}
                worst = max(abs(a - b) for a, b in zip(first["forces"], forces, strict=True))
                per_atom = abs(first["energy"] - row["energy"]) / row["atoms"]
                if worst > 1e-3 or per_atom > 1e-5:
                    sys.exit(f"{preset}: {provider} differs by {per_atom} eV/atom and {worst} eV/Å")
                row |= dict(
                    speed=first["seconds"] / row["seconds"], memory=first["peak_mib"] / row["peak_mib"]
                )
                print(
                    f"{preset:14}{provider:18}{row['seconds'] * 1e3:9.0f}{row['speed']:7.1f}"
                    f"{row['peak_mib']:10.0f}{row['memory']:7.1f}",
                    flush=True,
                )
    write_record(options.output, threads=options.threads, rows=rows)


if __name__ == "__main__":
    main()
