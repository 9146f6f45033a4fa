"""What a first configuration of six lines learns in 100 s of one core on the shared data sets.

    python -m benchmarks.bench_first --data ../shared/data --folder /scratch --json benchmarks/results/first.json

Everything but model size, data, time and device is left to the defaults of ``mlip-train fit``; a tenth of the frames is
held out by them. Errors are those of the saved model on the frames held out, in meV/atom, meV/Å and meV/Å³.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks.common import fit, history, write_record

SETS = {
    "3bpa": "molecules/3bpa/train_300K.xyz",
    "acac": "molecules/acac/train_300K.xyz",
    "aspirin": "molecules/rmd17_aspirin_train_01.xyz",
    "silicon": "periodic/mlearn_Si.xyz",
    "water": "periodic/water_scan.xyz",
}
WIDTH = "num_scalar_features: 16, num_tensor_features: 8, latent_width: 32"
YAML = """\
output: {output}
model: {{config: {{cutoff: 5.0, l_max: 1, num_layers: 1, {width}}}}}
data: {{train: [{{path: {path}}}]}}
stop: {{seconds: {seconds}}}
compile: {{mode: eager}}
hardware: {{threads: 1, accelerator: cpu}}
"""


def measure(name: str, data: Path, folder: Path, seconds: float, options: list[str]) -> dict[str, float]:
    """Train on a data set and return errors, steps and processor time."""
    output = folder / name
    path = folder / f"{name}.yaml"
    path.write_text(
        YAML.format(output=output.resolve(), width=WIDTH, path=(data / SETS[name]).resolve(), seconds=seconds)
    )
    before = os.times()
    fit(path, *options)
    after = os.times()
    errors = json.loads((output / "errors.json").read_text())["validation"]
    rows = history(output)
    last = rows[-1]
    row = {"epochs": len(rows), "steps": int(last["step"]), "seconds": round(last["seconds"], 1)}
    row["processor seconds"] = round(
        after.children_user + after.children_system - before.children_user - before.children_system, 1
    )
    for key, label in (("overall", ""), ("baseline", "baseline ")):
        values = errors[key] if key == "overall" else errors[key]["overall"]
        for quantity in ("energy_per_atom", "forces", "stress"):
            if f"{quantity}_rmse" in values:
                row[f"{label}{quantity}"] = round(1e3 * values[f"{quantity}_rmse"], 2)
    return row


def main() -> None:
    """Measure every set and write the record."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/data"))
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=100.0)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=SETS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("options", nargs="*", help="overrides of keys, KEY=VALUE")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    rows = {}
    for name in arguments.sets:
        found = measure(name, arguments.data, arguments.folder, arguments.seconds, arguments.options)
        rows[name] = found
        print(name, json.dumps(found), flush=True)
    write_record(arguments.json, seconds=arguments.seconds, rows=rows)


if __name__ == "__main__":
    main()
