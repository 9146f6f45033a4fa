"""Runs of a small Allegro that are interrupted at random moments and continued, compared with an uninterrupted one.

    python -m benchmarks.bench_interruptions --data ../shared/data --folder tables-out/interruptions \\
        --json benchmarks/results/interruptions.json

Equal means to the last bit: weights, moving average, moments of the optimizer, learning rates, history of errors.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.common import ROOT, write_record

TESTS = ROOT / "packages/mlip-train/tests"
SIGNALS = ("SIGTERM", "SIGKILL", "SIGINT")


def configuration(data: Path, output: Path) -> dict[str, Any]:
    """Return a run with two stages, accumulation, clipping and a plateau schedule."""
    source = {"path": str((data / "molecules/acac/train_300K.xyz").resolve()), "take": ":80"}
    model = {"cutoff": 4.0, "l_max": 1, "num_layers": 1, "num_scalar_features": 8, "num_tensor_features": 4}
    return {
        "output": str(output.resolve()),
        "ema": 0.95,
        "model": {"config": model | {"latent_width": 16}},
        "data": {"train": [source], "loaders": 0},
        "batch": {"frames": 4, "accumulate": 2},
        "optimizer": {"clip": 1.0},
        "schedule": {"name": "plateau", "patience": 0, "warmup": 7},
        "stages": [{"epoch": 2, "energy": 5.0, "lr": 0.001}],
        "stop": {"epochs": 5},
        "compile": {"mode": "eager"},
        "hardware": {"accelerator": "cpu", "threads": 1},
        "logging": {"progress": False, "report": False, "checkpoint_steps": 1},
    }


def main() -> None:
    """Interrupt, continue, and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    rows = []
    for name in SIGNALS:
        plain = json.dumps(configuration(arguments.data, arguments.folder / name))
        command = [sys.executable, str(TESTS / "scripts/interruptions.py"), str(TESTS / "conftest.py"), plain]
        done = subprocess.run(
            [*command, name, str(arguments.moments), "0"], check=True, stdout=subprocess.PIPE, text=True
        )
        found = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        status = 128 + int(getattr(signal, name))
        rows.append(
            {
                "signal": name,
                "moments": len(found),
                "interrupted": sum(row["status"] == status for row in found),
                "ended before": sum(row["status"] == 0 for row in found),
                "before the first step": sum(row["steps"] == 0 for row in found),
                "continued": sum(row["then"] == 0 for row in found),
                "equal": sum(row["same"] for row in found),
                "each": found,
            }
        )
        print({key: value for key, value in rows[-1].items() if key != "each"}, flush=True)
    write_record(arguments.json, rows=rows)


if __name__ == "__main__":
    main()
