"""The commands of ``spice-data``: download, info, check, select, convert, split."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import h5py
from tqdm import tqdm

from spice_data.benchmarks import open_test_set
from spice_data.download import RetryPolicy, check_file, download, releases
from spice_data.errors import DataError
from spice_data.example import example_path
from spice_data.files import check_target
from spice_data.read import Labels, SpiceFile, inspect, write_xyz
from spice_data.read.frames import is_xyz
from spice_data.selection import (
    Elements,
    Filter,
    MaxForce,
    Neutral,
    NeutralAtoms,
    NoIsolatedAtoms,
    Selection,
    Subsets,
    select,
)
from spice_data.store import Statistics, Store, convert, split
from spice_data.store.ase_source import AseSource
from spice_data.store.layout import FORMAT


class ProgressBar:
    """Show (done, total) on standard error; silent if that is not a terminal."""

    def __init__(self, label: str, unit: str, quiet: bool) -> None:
        silent = quiet or not sys.stderr.isatty()
        self._bar = tqdm(desc=label, unit=unit, unit_scale=True, disable=silent, leave=False)

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


Bars = Callable[[str, str], ProgressBar]


def resolve(text: str) -> Path:
    """Return the path that ``text`` names; ``example`` is the shipped file."""
    return example_path() if text == "example" else Path(text)


def _spice(path: Path) -> SpiceFile:
    """Open a SPICE file; the test set is recognized by its name, for its groups do not state their part."""
    return open_test_set(path) if path.name == releases()["test"].file else SpiceFile(path)


def is_store(path: Path) -> bool:
    """Return whether ``path`` is a store."""
    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


def download_release(a: argparse.Namespace, bar: Bars) -> None:
    """Download a release, or list them."""
    if a.list:
        for r in releases().values():
            size = f"{r.size:,} bytes" if r.size else "size and md5 from the record"
            print(f"{r.name:8} {r.title}: {r.file}, {size}, {r.md5 or ''} doi:{r.doi} {r.license or ''}")
        return
    keywords = {"mirrors": a.mirror, "proxy": a.proxy, "wait": a.wait, "progress": bar("download", "B")}
    print(download(a.release, a.output, retry=RetryPolicy(a.timeout, a.attempts), **keywords))


def _is_hdf5(path: Path) -> bool:
    return path.suffix in (".hdf5", ".h5") or (path.is_file() and h5py.is_hdf5(path))


def _warn(statistics: Statistics) -> None:
    for text in statistics.warnings():
        print(f"spice-data: warning: {text}", file=sys.stderr)


def _frames(path: Path, a: argparse.Namespace, bar: Bars) -> None:
    """Read and count the frames of a file that ASE reads."""
    source = AseSource([path], _labels(a) or Labels(), a.format, a.index, a.workers)
    statistics, show = Statistics(), bar("read", "B")
    last = None
    for block in source.blocks(0):
        molecule = (*block[:4], block.numbers.tolist())
        statistics.add(block, new_molecule=molecule != last)
        last = molecule
        show(source.done, source.total)
    source.check(statistics)
    _warn(statistics)
    print(f"{path}: {statistics.frames:,} frames, keys {', '.join(sorted(source.readers[0].keys))}")
    print(statistics.table())


def check(a: argparse.Namespace, bar: Bars) -> None:
    """Check a store's checksums, every group of a SPICE file, or every frame of other files."""
    path = resolve(a.file)
    if not _is_hdf5(path):
        _frames(path, a, bar)
        return
    if is_store(path):
        with Store(path) as store:
            store.verify(bar("check", "B"))
            print(f"{path}: store of {len(store):,} frames, checksums correct")
        return
    known = {r.file: r for r in releases().values() if r.size is not None and r.md5 is not None}
    if path.name in known and not a.no_md5:
        entry = known[path.name]
        check_file(path, entry.size or 0, entry.md5 or "", bar("md5", "B"))
        print(f"{path}: size and md5 of {entry.title}")
    with _spice(path) as file:
        report = inspect(file, values=True, progress=bar("groups", "groups"))
    print(report.table())
    if report.problems:
        raise DataError(path, "have no defective group", len(report.problems))


def info(a: argparse.Namespace, bar: Bars) -> None:
    """Print the contents of a SPICE file, a store, or a file that ASE reads."""
    path = resolve(a.file)
    if not _is_hdf5(path):
        _frames(path, a, bar)
        return
    if is_store(path):
        with Store(path) as store:
            print(f"{path}: store of {len(store):,} frames, {store.n_molecules:,} molecules")
            print(f"digest {store.digest}\nmade from {store.provenance}")
            print(store.statistics.table())
        return
    with _spice(path) as file:
        print(inspect(file, progress=bar("groups", "groups")).table())


def _filters(a: argparse.Namespace) -> list[Filter]:
    chosen: list[Filter] = []
    if a.subset:
        chosen.append(Subsets(tuple(a.subset)))
    if a.elements:
        chosen.append(Elements(tuple(a.elements)))
    if a.neutral:
        chosen.append(Neutral())
    if a.neutral_atoms:
        chosen.append(NeutralAtoms())
    if a.max_force is not None:
        chosen.append(MaxForce(a.max_force))
    if a.no_isolated_atoms is not None:
        chosen.append(NoIsolatedAtoms(a.no_isolated_atoms))
    return chosen


def select_frames(a: argparse.Namespace, bar: Bars) -> None:
    """Apply filters and print how many frames each removed."""
    with _spice(resolve(a.file)) as file:
        selection = select(file, *_filters(a), progress=bar("select", "groups"))
    print(selection.table())
    if a.output:
        selection.save(a.output)
        print(a.output)


def _convert_store(path: Path, a: argparse.Namespace, bar: Bars) -> None:
    if not is_xyz(a.output):
        raise ValueError(f"output must end in .xyz for a store's frames, got {str(a.output)!r}")
    with Store(path) as store:
        count = write_xyz(a.output, store, overwrite=a.overwrite, progress=bar("convert", "frames"))
    print(f"{a.output}: {count:,} frames")


def convert_files(a: argparse.Namespace, bar: Bars) -> None:
    """Convert files to a store, or a store to extended XYZ."""
    paths, filters = [resolve(text) for text in a.source], _filters(a)
    path = paths[0]
    for each in paths:
        check_target(a.output, True, each)
    if len(paths) > 1 and any(p.suffix == ".json" or _is_hdf5(p) for p in paths):
        raise ValueError(f"source must be one SPICE file, selection or store, got {len(paths)} files")
    if filters and (is_store(path) or not _is_hdf5(path)):
        names = ", ".join(f.name for f in filters)
        raise ValueError(f"source must be a SPICE file for the filters {names}, got {str(path)!r}")
    if is_store(path):
        _convert_store(path, a, bar)
        return
    if is_xyz(a.output):
        raise ValueError(f"output must not end in .xyz for a store, got {str(a.output)!r}")
    with ExitStack() as stack:
        selection = Selection.load(path) if path.suffix == ".json" else None
        file = None
        if selection or _is_hdf5(path):
            file = stack.enter_context(_spice(selection.path if selection else path))
        if file and filters:
            selection = select(file, *filters, progress=bar("select", "groups"))
        if selection:
            print(selection.table())
        store = convert(
            selection or file or paths,
            a.output,
            file=file,
            labels=_labels(a),
            format=a.format,
            index=a.index,
            workers=a.workers,
            overwrite=a.overwrite,
            wait=a.wait,
            progress=bar("convert", "groups" if file else "B"),
        )
        with store:
            print(f"{a.output}: {len(store):,} frames of {store.n_molecules:,} molecules")
            _warn(store.statistics)
            print("labels: " + ", ".join(f"{k} {n:,}" for k, n in store.statistics.labels.items()))
            for name, frames in store.provenance.get("files", {}).items():
                print(f"  {name}: {frames:,} frames")
            if file:
                print(f"empty groups left out: {store.provenance['empty_groups']}")


def _labels(a: argparse.Namespace) -> Labels | None:
    energy, forces, stress, virial = a.energy_key, a.forces_key, a.stress_key, a.virial_key
    units = a.energy_unit, a.length_unit, a.stress_unit
    labels = Labels(energy, forces, stress, virial, *units, partial=a.partial_labels)
    return None if labels == Labels() else labels


def split_store(a: argparse.Namespace, _: Bars) -> None:
    """Divide a store's frames into train, val and test."""
    try:
        ratios = [float(r) for r in a.ratios.split(":")]
    except ValueError:
        raise ValueError(f"ratios must be numbers such as 90:5:5, got {a.ratios!r}") from None
    with Store(a.store) as store:
        parts = split(store, ratios, by=a.by, seed=a.seed)
    parts.save(a.output)
    counts = f"train {len(parts.train):,}, val {len(parts.val):,}, test {len(parts.test):,}"
    print(f"{a.output}: {counts} by {a.by}\ndigest {parts.digest}")
