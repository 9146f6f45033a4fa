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
import pickle
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from benchmarks.common import RESULTS, alone, write_record
from benchmarks.converting import converting, synthesize, warm

BOHR, HARTREE = 0.529177210903, 27.211386245988
PER_GROUP = 50


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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, nargs="+", default=[10_000, 1_000_000])
    parser.add_argument("--folder", type=Path, required=True, help="where the datasets are made and kept")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--convert", type=Path, nargs="*", metavar="HDF5", help="measure conversion instead")
    parser.add_argument("--json", type=Path, help="by default benchmarks/results/data_<what>.json")
    a = parser.parse_args()
    a.folder.mkdir(parents=True, exist_ok=True)
    if a.convert is not None:
        write_record(a.json or RESULTS / "data_converting.json", rows=converting(a.folder, a.convert))
        return
    rows = []
    for frames in a.frames:
        for kind, path in prepare(a.folder, frames).items():
            found = alone(measure, kind, path, frames, a.rounds)
            rows.append({"reader": kind, "frames": frames, "bytes": path.stat().st_size, **found})
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
