"""Throughput and memory of reading training data: the store beside SPICE's HDF5, ASE extxyz and LMDB pickles.

    python -m benchmarks.bench_data --folder /scratch                    # reading, 10⁴ and 10⁶ conformations
    python -m benchmarks.bench_data --folder /scratch --convert real_spice.hdf5   # conversion

makes datasets of random numbers in SPICE's layout (50 conformations a group, 10–50 atoms), converts them, and
measures every reader in a process of its own: frames/s of random access and of a shuffled epoch, and resident
memory with its growth. Each figure is the best of many rounds of a few milliseconds. Every file is read through
once beforehand, so that it is the readers that are compared, not the disk. Memory counts mapped pages, and LMDB
maps its file. extxyz is left out above 10⁴ frames, because its random access scans the file; its epoch is in
file order.

``--convert`` converts the files given, one of 4,000 small groups and one of the shapes of SPICE 2 (5–50
conformations a group, the charges, multipoles and bond orders of the real file), beside reading the same datasets
with bare h5py and reading the file from its first to its last byte. Least times of three rounds in turn; "cold"
after the file's pages were dropped from the page cache.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from benchmarks.common import RESULTS, write_record

BOHR, HARTREE = 0.529177210903, 27.211386245988
PER_GROUP = 50
EXTRAS = {
    "mbis_charges": ("N", 1),
    "mbis_dipoles": ("N", 3),
    "mbis_quadrupoles": ("N", 3, 3),
    "mbis_octupoles": ("N", 3, 3, 3),
    "scf_dipole": (3,),
    "scf_quadrupole": (3, 3),
    "mayer_indices": ("N", "N"),
    "wiberg_lowdin_indices": ("N", "N"),
}


def synthesize(path: Path, sizes: list[tuple[int, int]], extras: bool = False) -> None:
    """Write groups of (conformations, atoms) of random numbers; ``extras`` adds SPICE 2's other large datasets."""
    rng, text = np.random.default_rng(0), h5py.string_dtype("utf-8")
    with h5py.File(path, "w") as file:
        for i, (m, n) in enumerate(sizes):
            group = file.create_group(f"{900000000 + i}")
            group.create_dataset("subset", data=[f"SPICE PubChem Set {i % 6 + 1}"], dtype=text)
            smiles = "".join(f"[{'C' if k % 2 else 'H'}:{k + 1}]" for k in range(n))
            group.create_dataset("smiles", data=[smiles], dtype=text)
            numbers = [6 if k % 2 else 1 for k in range(n)]
            group.create_dataset("atomic_numbers", data=np.array(numbers, np.int16))
            for key, values, unit in (
                ("conformations", rng.random((m, n, 3), np.float32), "bohr"),
                ("formation_energy", rng.random(m), "hartree"),
                ("dft_total_energy", rng.random(m), "hartree"),
                ("dft_total_gradient", rng.random((m, n, 3), np.float32), "hartree/bohr"),
            ):
                group.create_dataset(key, data=values).attrs["units"] = unit
            for key, shape in EXTRAS.items() if extras else ():
                values = rng.random((m, *(n if size == "N" else size for size in shape)), np.float32)
                group.create_dataset(key, data=values).attrs["units"] = "atomic units"


def to_lmdb(store_path: Path, path: Path) -> None:
    import lmdb

    from spice_data import Store

    with lmdb.open(str(path), map_size=1 << 36, subdir=False, sync=False) as env, Store(store_path) as store:
        for start in range(0, len(store), 1000):
            with env.begin(write=True) as transaction:
                for i in range(start, min(start + 1000, len(store))):
                    f = store[i]
                    row = (f.positions.astype("f4"), f.numbers, f.energy, f.forces.astype("f4"))
                    transaction.put(str(i).encode(), pickle.dumps(row, protocol=5))


def hdf5_reader(path: Path) -> Callable[[int], object]:
    file = h5py.File(path, "r")
    names = list(file)

    def read(i: int) -> object:
        group, k = file[names[i // PER_GROUP]], i % PER_GROUP
        return (
            group["conformations"][k] * BOHR,
            group["atomic_numbers"][()],
            group["dft_total_energy"][k] * HARTREE,
            group["dft_total_gradient"][k] * (-HARTREE / BOHR),
        )

    return read


def store_reader(path: Path) -> Callable[[int], object]:
    from spice_data import Store

    return Store(path).__getitem__


def lmdb_reader(path: Path) -> Callable[[int], object]:
    import lmdb

    transaction = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False).begin()
    return lambda i: pickle.loads(transaction.get(str(i).encode()))


def extxyz_reader(path: Path) -> Callable[[int], object]:
    from ase.io import read

    return lambda i: read(path, i)


READERS = {"store": store_reader, "hdf5": hdf5_reader, "lmdb": lmdb_reader, "extxyz": extxyz_reader}


def resident() -> float:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmRSS"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("no VmRSS in /proc/self/status")


COUNTS = {"store": 1000, "hdf5": 40, "lmdb": 1000, "extxyz": 1}
EPOCH = {"store": 1_000_000, "hdf5": 10_000, "lmdb": 200_000, "extxyz": 10_000}


def warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


def reader_of_blocks(
    kind: str, path: Path, read: Callable[[int], object]
) -> tuple[int, Callable[[np.ndarray], object]]:
    """Return the number of frames of a timed block of an epoch, and a function that reads one."""
    if kind == "extxyz":  # in file order
        from ase.io import iread

        whole = iread(path, ":")
        return 100, lambda block: [next(whole) for _ in block]
    if kind == "store":
        from spice_data import Store

        store = Store(path)
        return 1600, lambda block: [store.batch(block[j : j + 32]) for j in range(0, len(block), 32)]
    size = COUNTS[kind] * (10 if kind == "lmdb" else 1)
    return size, lambda block: [read(i) for i in block.tolist()]


def measure(kind: str, path: Path, frames: int, rounds: int) -> dict:
    """Return frames/s of random access and of a shuffled epoch, and resident memory (MB), of this process."""
    warm(path)
    rng, count = np.random.default_rng(1), COUNTS[kind]
    before = resident()
    read = READERS[kind](path)
    times, peak = [], 0.0
    for _ in range(rounds if kind != "extxyz" else 5):
        indices = rng.integers(0, frames, count).tolist()
        start = time.perf_counter()
        for i in indices:
            read(i)
        times.append(time.perf_counter() - start)
        peak = max(peak, resident())
    order = rng.permutation(frames)[: EPOCH[kind]]
    size, read_block = reader_of_blocks(kind, path, read)
    size = min(size, len(order))
    epoch = []
    for k in range(0, len(order) - size + 1, size):
        start = time.perf_counter()
        read_block(order[k : k + size])
        epoch.append(time.perf_counter() - start)
        peak = max(peak, resident())
    speeds = {"random": count / min(times), "epoch": size / min(epoch), "epoch_mean": size / np.mean(epoch)}
    return speeds | {"rss": peak, "rss_growth": peak - before}


def prepare(folder: Path, frames: int) -> dict[str, Path]:
    from spice_data import Store, convert, write_xyz

    paths = {"hdf5": folder / f"{frames}.hdf5", "store": folder / f"{frames}.store"}
    if not paths["hdf5"].exists():
        atoms = np.random.default_rng(0).integers(10, 51, frames // PER_GROUP)
        synthesize(paths["hdf5"], [(PER_GROUP, int(n)) for n in atoms])
    if not paths["store"].exists():
        convert(paths["hdf5"], paths["store"]).close()
    paths["lmdb"] = folder / f"{frames}.lmdb"
    if not paths["lmdb"].exists():
        to_lmdb(paths["store"], paths["lmdb"])
    if frames <= 10_000:
        paths["extxyz"] = folder / f"{frames}.xyz"
        if not paths["extxyz"].exists():
            with Store(paths["store"]) as store:
                write_xyz(paths["extxyz"], store)
    return paths


def bare_h5py(path: Path) -> None:
    """Read what a conversion reads, group after group, with nothing checked, converted or written."""
    keys = ("smiles", "subset", "atomic_numbers", "conformations", "dft_total_energy", "dft_total_gradient")
    with h5py.File(path, "r") as file:
        for group in file.values():
            for key in keys:
                group[key][()]
            if "formation_energy" in group:
                group["formation_energy"][()]


def drop_pages(path: Path) -> None:
    """Drop a file's clean pages from the page cache."""
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def converting(folder: Path, files: list[Path], rounds: int = 3) -> list[dict]:
    """Seconds and MB/s of conversion, of bare h5py and of reading the whole file, warm and cold."""
    from spice_data import convert

    rng = np.random.default_rng(0)
    frames = rng.choice([5, 10, 25, 50], 1000, p=[0.2, 0.5, 0.2, 0.1])
    made = {
        "4,000 groups of 2 conformations": [(2, int(n)) for n in rng.integers(5, 31, 4000)],
        "shapes of SPICE 2": list(zip(frames.tolist(), rng.integers(10, 60, 1000).tolist(), strict=True)),
    }
    named = {path.name: path for path in files}
    for name, sizes in made.items():
        named[name] = folder / f"{'shapes' if name.startswith('shapes') else 'small'}.hdf5"
        if not named[name].exists():
            synthesize(named[name], sizes, extras=name.startswith("shapes"))
    rows, target = [], folder / "converted.store"
    for name, path in named.items():
        calls = {
            "convert": lambda path=path: convert(path, target, overwrite=True).close(),
            "h5py": lambda path=path: bare_h5py(path),
            "whole file": lambda path=path: warm(path),
        }
        best = {f"{kind}{state}": np.inf for kind in calls for state in ("", ", cold")}
        warm(path)
        os.sync()
        for _ in range(rounds):
            for state in ("", ", cold"):
                for kind, call in calls.items():
                    if state:
                        drop_pages(path)
                    start = time.perf_counter()
                    call()
                    best[kind + state] = min(best[kind + state], time.perf_counter() - start)
        with h5py.File(path, "r") as file:
            groups = len(file)
        size = path.stat().st_size / 1e6
        row = {
            "file": name,
            "groups": groups,
            "megabytes": round(size, 1),
            "store_megabytes": round(target.stat().st_size / 1e6, 1),
            "seconds": {k: round(t, 4) for k, t in best.items()},
            "megabytes_per_second": {k: round(size / t, 1) for k, t in best.items()},
            "convert_microseconds_per_group": round(1e6 * best["convert"] / groups),
            "convert_over_h5py": round(best["convert"] / best["h5py"], 3),
        }
        rows.append(row)
        print(json.dumps(row), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="where the datasets are made and kept")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--convert", type=Path, nargs="*", metavar="HDF5", help="measure conversion instead")
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/data_<what>.json")
    hidden = ("KIND", "PATH", "FRAMES")
    parser.add_argument("--measure", nargs=3, metavar=hidden, help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.measure:
        kind, path, frames = a.measure
        print(json.dumps(measure(kind, Path(path), int(frames), a.rounds)))
        return
    a.folder.mkdir(parents=True, exist_ok=True)
    if a.convert is not None:
        write_record(a.json or RESULTS / "data_converting.json", rows=converting(a.folder, a.convert))
        return
    rows = []
    itself = [
        sys.executable,
        "-m",
        "benchmarks.bench_data",
        "--folder",
        str(a.folder),
        "--rounds",
        str(a.rounds),
        "--measure",
    ]
    for frames in a.frames:
        for kind, path in prepare(a.folder, frames).items():
            command = [*itself, kind, str(path), str(frames)]
            run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            rows.append(
                {"reader": kind, "frames": frames, "bytes": path.stat().st_size, **json.loads(run.stdout)}
            )
    reference = {r["frames"]: r["random"] for r in rows if r["reader"] == "hdf5"}
    print("| reader | frames | file MB | random frames/s | × HDF5 | epoch frames/s | RSS MB | growth MB |")
    print("|---|---:|---:|---:|---:|---:|---:|---:|")
    for r in rows:
        r["ratio"] = r["random"] / reference[r["frames"]]
        print(
            f"| {r['reader']} | {r['frames']:,} | {r['bytes'] / 1e6:.0f} | {r['random']:,.0f} "
            f"| {r['ratio']:.1f} | {r['epoch']:,.0f} | {r['rss']:.0f} | {r['rss_growth']:.0f} |"
        )
    write_record(a.json or RESULTS / "data_reading.json", rows=rows)


if __name__ == "__main__":
    main()
