"""Fill a folder with the wheels that a GPU machine without a network needs: ours, and small ones it lacks.

    python -m benchmarks.gpu.wheels --out .whl [--python 3.12] [--without-nequip]

The machine has torch, triton, numpy, pytest, lightning, safetensors and h5py. Installed there by
``python3 -m pip install --no-index --no-deps --target $HOME/site .whl/*.whl``.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

from benchmarks.common import ROOT

OTHERS = ("ase", "vesin", "matscipy", "lmdb", "jsonargparse", "docstring-parser", "typeshed-client")
NEQUIP = (
    "nequip==0.19.1",
    "nequip-allegro==0.8.3",
    "e3nn==0.6.0",
    "hydra-core",
    "omegaconf<2.4",
    "opt-einsum-fx",
)
SDISTS = ("antlr4-python3-runtime==4.9.3",)
"""Published without a wheel: built here."""
TAGS = ("manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014", "manylinux1")


def main() -> None:
    """Build and download."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=ROOT / ".whl")
    parser.add_argument("--python", default="3.12")
    parser.add_argument("--without-nequip", action="store_true")
    options = parser.parse_args()
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    for old in out.glob("*.whl"):
        old.unlink()
    for package in sorted((ROOT / "packages").iterdir()):
        build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
        subprocess.run(build, check=True, cwd=package, stdout=subprocess.DEVNULL)
    names = [*OTHERS, *(() if options.without_nequip else NEQUIP)]
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "-q",
        "--no-deps",
        "--only-binary=:all:",
        "-d",
        str(out),
    ]
    command += ["--python-version", options.python, "--implementation", "cp"]
    for tag in TAGS:
        command += ["--platform", f"{tag}_x86_64"]
    for name in names:
        subprocess.run([*command, name], check=True)
    if not options.without_nequip:
        wheel = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", str(out)]
        subprocess.run([*wheel, *SDISTS], check=True)
    size = sum(path.stat().st_size for path in out.glob("*.whl")) / 2**20
    print(f"{len(list(out.glob('*.whl')))} wheels, {size:.1f} MiB in {out}")


if __name__ == "__main__":
    main()
