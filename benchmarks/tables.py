"""Every table and figure of the repository's results, re-run one after another on one machine.

    python -m benchmarks.tables --list
    python -m benchmarks.tables --work tables-out --data ../shared/data --nequip-python PYTHON
    python -m benchmarks.tables --only kernels_1 inference

Runs the commands below in order and alone (they time things: leave the machine to them), with one thread unless a
command sets its own, and shows which is running and for how long it ran before. The records go to
``benchmarks/results``; ``tables.json`` there holds for each table its commands, when it ran, its minutes and the load
before it, and what machine and versions it ran on. A table whose command fails keeps its former record, and the exit
status is 1. PYTHON has nequip, nequip-allegro and our packages; by default this interpreter. Not among them:
``lammps.json``, which needs a LAMMPS built with Kokkos and ML-IAP (``benchmarks.lammps_beside_nequip``).
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.common import DATA, MALLOC, RESULTS, ROOT, commit, machine, write_json, write_text

KEPT = f"GLIBC_TUNABLES={MALLOC}"
REDUCED = (
    "schedule.name=constant optimizer.lr=0.003 hardware.threads=1 hardware.accelerator=cpu logging.progress=false "
    "compile.evaluate=true ema=0.995 stop.seconds=100 model.config.l_max=2 model.config.num_scalar_features=32 "
    "model.config.num_tensor_features=16 model.config.latent_width=128"
)
"""The accuracy runs of a CPU: a smaller model for 100 s; the files as they are train the published one."""
ACCURACY = dict.fromkeys(("3bpa", "acac", "aspirin", "dipeptides"), REDUCED)
ACCURACY["water"] = REDUCED + " model.config.cutoff=4.5"

EXAMPLE = (
    "{python} -m mlip_export.cli compile example -o {work}/example.pt2",
    "{python} -m mlip_export.cli compile example -o {work}/example64.pt2 --dtype float64",
)
"""Commands that export the shipped potential, in float64 too."""

TABLES: dict[str, list[str]] = {
    **{
        f"kernels_{n}": [
            f"OMP_NUM_THREADS={n} {KEPT} {{python}} -m benchmarks.bench_kernels --threads {n} --seconds 3 "
            f"--json {{results}}/kernels_{n}.json"
        ]
        for n in (1, 2)
    },
    "lmax_1": [
        f"{KEPT} {{python}} -m benchmarks.bench_lmax --work {{work}}/lmax --data {{data}} --rounds 8 "
        "--output {results}/lmax_1.json",
    ],
    **{
        f"neighbors_search_{n}": [
            f"OMP_NUM_THREADS={n} {KEPT} {{python}} -m benchmarks.bench_neighbors search --seconds 6 "
            f"--out {{results}}/neighbors_search_{n}.json"
        ]
        for n in (1, 2)
    },
    "neighbors_skin_1": [
        "{python} -m benchmarks.bench_neighbors skin --edge 5 --out {results}/neighbors_skin_1.json"
    ],
    "neighbors_systems_1": [
        "{python} -m benchmarks.bench_neighbors systems --data {data}/systems --out {results}/neighbors_systems_1.json"
    ],
    **{
        f"model_{system}": [
            f"{{python}} -m benchmarks.bench_model {{data}}/systems/{system}.xyz --repeats 3 --memory-limit 18 "
            f"--output {{results}}/model_{system}.json"
        ]
        for system in ("water_81", "water_192")
    },
    "train_small": [
        "{python} -m benchmarks.bench_train --presets small --threads 1 2 --seconds 25 "
        "--providers full forces eager 'nequip-allegro compiled' --reference-python {nequip} "
        "--json {results}/train_small.json"
    ],
    **{
        f"train_{preset}": [
            f"{{python}} -m benchmarks.bench_train --presets {preset} --threads 1 2 --seconds 25 --frames 1 "
            "--max-edges 2000 --providers full eager 'nequip-allegro compiled' --reference-python {nequip} "
            f"--json {{results}}/train_{preset}.json"
        ]
        for preset in ("medium", "large")
    },
    "inference": [
        "{python} -m benchmarks.bench_inference prepare --work {work}/inference --data {data} --nequip-python {nequip}",
        "{python} -m benchmarks.bench_inference time --work {work}/inference --data {data} --nequip-python {nequip} "
        "--systems water_24 trp-gly-tyr-lys-pro water_192 water_648 water_1536 --rounds 2 --repeats 1 --longest 30 "
        "--output {results}/inference.json",
        "{python} -m benchmarks.bench_inference time --work {work}/inference --data {data} --nequip-python {nequip} "
        "--systems water_24 water_192 --kinds model --threads 1 --rounds 3 --repeats 2 "
        "--output {results}/inference_1.json",
    ],
    "foundation": [
        "INTEROP_FULL=1 INTEROP_FILES={work}/full {nequip} -m pytest -q -p no:cacheprovider "
        "packages/allegro-model/interop/test_versions.py",
        "{nequip} -m benchmarks.bench_foundation prepare {work}/full/OAM-L/packaged.nequip.zip --work {work}/full",
        *(
            f"{{nequip}} -m benchmarks.bench_foundation compare {{work}}/full/{name}/packaged.nequip.zip "
            "--json {results}/foundation.json"
            for name in ("OAM-L", "OAM-L-float64", "MP-L", "MP-L-float64")
        ),
        "{nequip} -m benchmarks.bench_foundation time {work}/full/OAM-L/packaged.nequip.zip --work {work}/full "
        "--json {results}/foundation.json",
    ],
    "matbench": [
        "{python} -m mlip_export.cli compile docs/materials.safetensors -o {work}/materials.pt2",
        "{python} -m benchmarks.protocols.matbench {work}/materials.pt2 --json {results}/matbench.json",
    ],
    "protocols": [  # untrained weights: steps that move next to nothing take as long
        "{python} -m mlip_export.cli lammps build",
        "{python} -m benchmarks.protocols.run {work}/inference/small/model.pt2 {data}/systems/trp-gly-tyr-lys-pro.xyz "
        "{data}/systems/water_24.xyz {data}/systems/water_192.xyz {data}/systems/water_648.xyz --ranks 1 2 "
        "--minimize 0 --timestep 0.02 --nvt 5 --nve 20 --json {results}/protocols.json",
    ],
    "first": [
        "{python} -m benchmarks.bench_first --data {data} --folder {work}/first --json {results}/first.json",
    ],
    "bf16": [
        "{python} -m benchmarks.bench_bf16 --data {data} --folder {work}/bf16 --json {results}/bf16.json"
    ],
    "interruptions": [
        "{python} -m benchmarks.bench_interruptions --data {data} --folder {work}/interruptions "
        "--json {results}/interruptions.json"
    ],
    "scaling": [
        "{python} -m mlip_export.cli compile example -o {work}/example.pt2",
        "{python} -m mlip_export.cli lammps build",
        "OMP_NUM_THREADS=1 {python} -m benchmarks.scaling {work}/example.pt2 --ranks 1 2 "
        "--json {results}/scaling.json",
    ],
    "reduce": ["{python} -m benchmarks.bench_reduce --json {results}/reduce.json"],
    "openmm": ["{python} -m benchmarks.bench_openmm --work {work}/hosts --json {results}/openmm.json"],
    "relaxations": [
        "{python} -m benchmarks.bench_relax --work {work}/hosts --json {results}/relaxations.json"
    ],
    "ddp": [
        "{python} -m benchmarks.ddp_protocol --run benchmarks/accuracy/acac.yaml --epochs 3 --output {work}/ddp "
        "--json {results}/ddp.json schedule.name=constant hardware.accelerator=cpu model.config.l_max=2 "
        "model.config.num_scalar_features=32 model.config.num_tensor_features=16 model.config.latent_width=128"
    ],
    "systems_small": [
        "OMP_NUM_THREADS=2 {python} -m benchmarks.check_systems {work}/inference/small/model.safetensors "
        "{work}/inference/small/model.pt2 {data}/systems/water_24.xyz {data}/systems/water_192.xyz "
        "{data}/systems/trp-gly-tyr-lys-pro.xyz {data}/systems/dhfr_23558.xyz {data}/systems/cellulose_408609.xyz.gz "
        "--output {results}/systems_small.json"
    ],
    "data_reading": [
        "{python} -m benchmarks.bench_data --folder {work}/data --json {results}/data_reading.json"
    ],
    "data_converting": [
        "{python} -m benchmarks.bench_data --folder {work}/data --convert {data}/spice/real_spice.hdf5 "
        "{data}/spice/spice_like_10k.hdf5 --json {results}/data_converting.json"
    ],
    "data_growth": [
        "{python} -m benchmarks.bench_store --folder {work}/data --json {results}/data_growth.json"
    ],
    "data_batches": [
        "{python} -m benchmarks.bench_store --folder {work}/data --frames 10000 --stages write batches "
        "--json {results}/data_batches.json"
    ],
    "accuracy": [
        *(
            f"{{nequip}} -m benchmarks.accuracy.nequip_allegro benchmarks/accuracy/{name}.yaml "
            f"output={{work}}/accuracy/{name}_nequip {changes}"
            for name, changes in ACCURACY.items()
        ),
        "{python} -m benchmarks.accuracy.collect "
        + " ".join(f"{{work}}/accuracy/{name}_nequip" for name in ACCURACY)
        + " --json {results}/accuracy.json",
    ],
    "demo": [
        "{python} -m benchmarks.demo.run --output {work}/demo",
        "cp {work}/demo/demo.json {work}/demo/demo.png {results}",
    ],
    "accuracy_lmax": [
        "OMP_NUM_THREADS=1 {python} -m benchmarks.accuracy.l_max --output {work}/l_max "
        "--json {results}/accuracy_lmax.json --figure {results}/accuracy_lmax.png",
    ],
    "physics": [
        *EXAMPLE,
        "OMP_NUM_THREADS=1 {python} -m benchmarks.physics {work}/example.pt2 {work}/example64.pt2 "
        "--json {results}/physics.json --picture {results}/physics.png",
    ],
    "water": [
        *EXAMPLE,
        "OMP_NUM_THREADS=1 {python} -m benchmarks.physics {work}/example.pt2 {work}/example64.pt2 --only water "
        "--json {results}/physics_water.json --picture {results}/physics_water.png",
    ],
    "silicon": [
        "OMP_NUM_THREADS=1 {python} -m mlip_train.cli fit benchmarks/accuracy/silicon.yaml output={work}/runs/silicon",
        "{python} -m benchmarks.accuracy.literature {work}/runs/silicon --json {results}/literature_silicon.json",
        "{python} -m mlip_export.cli compile {work}/runs/silicon/model.safetensors -o {work}/silicon.pt2",
        "{python} -m mlip_export.cli compile {work}/runs/silicon/model.safetensors -o {work}/silicon64.pt2 "
        "--dtype float64",
        "OMP_NUM_THREADS=1 {python} -m benchmarks.physics {work}/silicon.pt2 {work}/silicon64.pt2 --only silicon "
        "--json {results}/physics_silicon.json --picture {results}/physics_silicon.png",
    ],
}


def run(name: str, places: dict[str, str]) -> dict[str, Any]:
    """Run the commands of a table; what its entry in ``tables.json`` says."""
    entry: dict[str, Any] = {
        "commands": TABLES[name],
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load before": os.getloadavg()[0],
        "machine": machine(),
        "commit": commit(),
    }
    begin = time.monotonic()
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    environment = {"OMP_NUM_THREADS": "1", "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"}
    for template in TABLES[name]:
        words = shlex.split(template.format(**places))
        while "=" in words[0]:
            key, _, value = words.pop(0).partition("=")
            environment[key] = value
        code = subprocess.run(words, cwd=ROOT, env=os.environ | environment).returncode
        if code != 0:
            return entry | {"failed": template, "status": code}
    return entry | {"minutes": round((time.monotonic() - begin) / 60, 1)}


def clean(before: float, places: dict[str, str]) -> None:
    """Take this machine's paths out of the records that are newer than ``before``."""
    names = {places["nequip"]: "PYTHON", places["python"]: "python", places["work"]: "tables-out"}
    names |= {places["results"]: "benchmarks/results", places["data"]: "../shared/data"}
    for path in RESULTS.glob("*.json"):
        if path.stat().st_mtime >= before:
            text = path.read_text()
            for old in sorted(names, key=len, reverse=True):
                text = text.replace(old, names[old])
            write_text(path, text)


def main() -> int:
    """Run the tables asked for."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--list", action="store_true", help="print the tables and the minutes they took, and end"
    )
    parser.add_argument("--only", nargs="+", choices=TABLES, default=list(TABLES), metavar="TABLE")
    parser.add_argument("--skip", nargs="+", choices=TABLES, default=[], metavar="TABLE")
    parser.add_argument("--work", type=Path, default=ROOT / "tables-out", help="packages, runs and datasets")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--nequip-python", default=sys.executable)
    options = parser.parse_args()
    record = RESULTS / "tables.json"
    done: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    if options.list:
        for name in TABLES:
            print(f"{name:22}{done.get(name, {}).get('minutes', '?'):>6} min")
        return 0
    options.work.mkdir(parents=True, exist_ok=True)
    places = {"python": sys.executable, "nequip": str(options.nequip_python), "results": str(RESULTS)}
    places |= {"work": str(options.work.resolve()), "data": str(options.data.resolve())}
    chosen = [name for name in TABLES if name in options.only and name not in options.skip]
    failed = []
    for number, name in enumerate(chosen, 1):
        before = done.get(name, {}).get("minutes", "?")
        print(f"[{number}/{len(chosen)}] {name} ({before} minutes the last time)", flush=True)
        begin = time.time()
        entry = run(name, places)
        if "failed" in entry:
            failed.append(name)
            print(f"{name}: status {entry['status']} of {entry['failed']}", flush=True)
        else:
            done[name] = entry
            write_json(record, done)
        clean(begin, places)
    print(f"{len(chosen) - len(failed)} of {len(chosen)} tables" + (f"; failed: {failed}" if failed else ""))
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
