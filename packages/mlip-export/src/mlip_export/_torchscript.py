"""Compile the TorchScript class of exported models (``lammps/torchscript``) against the installed torch."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from mlip_export.lammps._build import (
    HEADERS,
    BuildError,
    _cache,
    _package,
    _place,
    _version,
    compiler,
    sources,
)

LIBRARY = "libmlip_export_torchscript.so"


def library() -> Path:
    """Return the library, compiled unless the cache has it for these versions and sources."""
    root = sources()
    files = [root / "torchscript" / "torchscript_class.cpp"]
    files += [root / "src" / name for name in ("edge_potential.cpp", *HEADERS)]
    digest = hashlib.sha256()
    for part in (f"torch {_version('torch')}", sys.platform, os.uname().machine, _place("torch")):
        digest.update(part.encode() + b"\n")
    for file in files:
        digest.update(file.read_bytes())
    target = _cache() / "torchscript" / digest.hexdigest()[:16] / LIBRARY
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent) as work:
            _compile([file for file in files if file.suffix == ".cpp"], root / "src", Path(work) / LIBRARY)
            os.replace(Path(work) / LIBRARY, target)
    return target


def _compile(files: list[Path], include: Path, output: Path) -> None:
    torch = _package("torch")
    places = [torch / "include", torch / "include/torch/csrc/api/include", include]
    command = [*compiler(), "-O2", "-std=c++20", "-fPIC", "-fvisibility=hidden", "-shared", "-o", str(output)]
    command += [*(f"-I{place}" for place in places), *map(str, files), f"-L{torch / 'lib'}"]
    command += ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{torch / 'lib'}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise BuildError(f"compiling {output.name} failed:\n{done.stderr}")
