"""Files in SPICE's layout of random numbers, and the cost of their conversion beside bare h5py and bare reading."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import h5py
import numpy as np

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


def warm(path: Path) -> None:
    with path.open("rb") as file:
        while file.read(1 << 24):
            pass


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
