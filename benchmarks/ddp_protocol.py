"""Do strategy and compilation change what is learned, and what do they cost? The SI's Tables 3 and 4 at small scale.

    python -m benchmarks.ddp_protocol --run benchmarks/accuracy/acac.yaml --epochs 4 --output ddp --json ddp.json

Trains the same run as: one process, eager and with the whole step compiled; standard DDP, eager and compiled;
reduction after the backward, eager and compiled; the same again; and with another seed. Prints final validation
errors (Table 3: strategies must differ no more than a run and its repetition, and far less than two seeds) and the
least seconds per epoch (Table 4). Every run is a subprocess of its own with ``--threads`` threads per process.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks.common import epoch_seconds, fit, history, write_record

ONE, TWO, FULL = (
    ["hardware.devices=1", "batch.accumulate={devices}"],
    ["hardware.devices={devices}"],
    ["compile.mode=full"],
)
VARIANTS = {
    "one process": ONE,
    "one process, whole step compiled": ONE + FULL,
    "standard DDP": [*TWO, "hardware.strategy=ddp"],
    "standard DDP, whole step compiled": [*TWO, "hardware.strategy=ddp", *FULL],
    "sync after backward": TWO,
    "sync, whole step compiled": TWO + FULL,
    "sync, again": TWO,
    "sync, new seed": [*TWO, "seed=1"],
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--run", required=True)
    parser.add_argument("--devices", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--output", type=Path, default=Path("ddp"))
    parser.add_argument("--json", type=Path)
    parser.add_argument("--skip", nargs="*", default=[], choices=VARIANTS)
    parser.add_argument("overrides", nargs="*")
    arguments = parser.parse_args()
    rows = []
    for name, changes in VARIANTS.items():
        if name in arguments.skip:
            continue
        folder = arguments.output / name.replace(" ", "_").replace(",", "")
        changed = [f"output={folder}", f"stop.epochs={arguments.epochs}", "compile.mode=eager"]
        changed += [f"hardware.threads={arguments.threads}", f"data.cache={arguments.output / 'cache'}"]
        changed += [*arguments.overrides, *(c.format(devices=arguments.devices) for c in changes)]
        fit(arguments.run, *changed, threads=arguments.threads)
        rows_of_run = history(folder)
        later = epoch_seconds(rows_of_run)
        energy, force = (1e3 * rows_of_run[-1][f"validation/{k}_rmse"] for k in ("energy_per_atom", "forces"))
        row = {"run": name, "energy_rmse_meV_per_atom": energy, "force_rmse_meV_per_A": force}
        rows.append(row | {"least_s_per_epoch": min(later, default=float("nan"))})
        print(json.dumps(rows[-1]), flush=True)
    print("\n| run | energy RMSE, meV/atom | force RMSE, meV/Å | least s per epoch |\n|---|---|---|---|")
    for row in rows:
        name, energy, force, seconds = row.values()
        print(f"| {name} | {energy:.6f} | {force:.6f} | {seconds:.2f} |")
    write_record(arguments.json, threads=arguments.threads, rows=rows)


if __name__ == "__main__":
    main()
