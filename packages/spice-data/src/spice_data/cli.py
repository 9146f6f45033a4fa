"""The command ``spice-data``: download, verify, info, select, convert, split, stats."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from spice_data import __version__
from spice_data.atomic import check_target
from spice_data.convert import convert
from spice_data.errors import DataError
from spice_data.example import example_path
from spice_data.filters import (
    Elements,
    Filter,
    MaxForce,
    Neutral,
    NeutralAtoms,
    NoIsolatedAtoms,
    Subsets,
)
from spice_data.hdf5 import SpiceFile
from spice_data.inspect import inspect
from spice_data.layout import FORMAT
from spice_data.releases import releases
from spice_data.select import Selection, select
from spice_data.source import check_file, download
from spice_data.split import split
from spice_data.store import Store
from spice_data.testset import open_test_set
from spice_data.transfer import Patience
from spice_data.xyz import SUFFIXES, write_xyz


class Bar:
    """A progress bar, called as the library's callbacks are; silent when standard error is no terminal."""

    def __init__(self, label: str, unit: str, quiet: bool) -> None:
        self._bar = tqdm(
            desc=label, unit=unit, unit_scale=True, disable=quiet or not sys.stderr.isatty(), leave=False
        )

    def __call__(self, done: int, total: int) -> None:
        """Show ``done`` of ``total``."""
        self._bar.total = total
        self._bar.update(done - self._bar.n)

    def close(self) -> None:
        """Remove the bar."""
        self._bar.close()


def _path(text: str) -> Path:
    return example_path() if text == "example" else Path(text)


def _spice(path: Path) -> SpiceFile:
    """The file opened as what its name says: the test set's groups do not say their part themselves."""
    return open_test_set(path) if path.name == releases()["test"].file else SpiceFile(path)


def _is_store(path: Path) -> bool:
    import h5py

    if not path.is_file() or not h5py.is_hdf5(path):
        return False
    try:
        with h5py.File(path, "r") as file:
            return bool(file.attrs.get("format") == FORMAT)
    except OSError:
        return False


def _download(a: argparse.Namespace, bar: Callable[[str, str], Bar]) -> None:
    if a.list:
        for r in releases().values():
            size = f"{r.size:,} bytes" if r.size else "size and md5 asked of the record"
            print(f"{r.name:8} {r.title}: {r.file}, {size}, {r.md5 or ''} doi:{r.doi} {r.license or ''}")
        return
    patience = Patience(timeout=a.timeout, attempts=a.attempts)
    path = download(
        a.release,
        a.folder,
        mirrors=a.mirror,
        proxy=a.proxy,
        patience=patience,
        wait=a.wait,
        progress=bar("download", "B"),
    )
    print(path)


def _verify(a: argparse.Namespace, bar: Callable[[str, str], Bar]) -> None:
    path = _path(a.file)
    if _is_store(path):
        with Store(path) as store:
            store.verify()
            print(f"{path}: store of {len(store):,} frames, checksums right")
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
        raise DataError(path, "no defective group", f"{len(report.problems)}")


def _info(a: argparse.Namespace, bar: Callable[[str, str], Bar]) -> None:
    path = _path(a.file)
    if _is_store(path):
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


def _select(a: argparse.Namespace, bar: Callable[[str, str], Bar]) -> None:
    with _spice(_path(a.file)) as file:
        selection = select(file, *_filters(a), progress=bar("select", "groups"))
    print(selection.table())
    if a.output:
        selection.save(a.output)
        print(a.output)


def _convert(a: argparse.Namespace, bar: Callable[[str, str], Bar]) -> None:
    path, filters = _path(a.source), _filters(a)
    check_target(a.output, True, path)
    from_store = _is_store(path)
    if filters and (from_store or path.suffix in (*SUFFIXES, ".json")):
        names = ", ".join(f.name for f in filters)
        raise ValueError(f"{names}: required a file in SPICE's layout to filter, got {str(path)!r}")
    if from_store != (a.output.suffix in SUFFIXES):
        required = f"a name ending in {' or '.join(SUFFIXES)} for a store's frames, and for them only"
        raise ValueError(f"output: required {required}, got {str(a.output)!r}")
    if from_store:
        with Store(path) as store:
            count = write_xyz(a.output, store, overwrite=a.overwrite)
        print(f"{a.output}: {count:,} frames")
        return
    with ExitStack() as stack:
        file, selection = None, Selection.load(path) if path.suffix == ".json" else None
        if path.suffix not in SUFFIXES:
            file = stack.enter_context(_spice(selection.path if selection else path))
        if file and filters:
            selection = select(file, *filters, progress=bar("select", "groups"))
        if selection:
            print(selection.table())
        keywords = {"overwrite": a.overwrite, "wait": a.wait, "progress": bar("convert", "frames")}
        store = stack.enter_context(convert(selection or file or path, a.output, file=file, **keywords))
        print(f"{a.output}: {len(store):,} frames of {store.n_molecules:,} molecules")
        print(f"empty groups left out: {store.provenance['empty_groups']}")


def _split(a: argparse.Namespace, _: Callable[[str, str], Bar]) -> None:
    try:
        ratios = [float(r) for r in a.ratios.split(":")]
    except ValueError:
        raise ValueError(f"ratios: required numbers such as 90:5:5, got {a.ratios!r}") from None
    with Store(a.store) as store:
        parts = split(store, ratios, by=a.by, seed=a.seed)
    parts.save(a.output)
    print(
        f"{a.output}: train {len(parts.train):,}, val {len(parts.val):,}, test {len(parts.test):,} by {a.by}"
    )
    print(f"digest {parts.digest}")


def _stats(a: argparse.Namespace, _: Callable[[str, str], Bar]) -> None:
    with Store(a.store) as store:
        print(store.statistics.table())


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters of a file in SPICE's layout, applied in this order")
    group.add_argument(
        "--subset", action="append", metavar="PATTERN", help="keep subsets, e.g. 'SPICE Dipeptides*'"
    )
    group.add_argument("--elements", nargs="+", metavar="SYMBOL", help="keep molecules made only of these")
    group.add_argument("--neutral", action="store_true", help="keep molecules of total charge zero")
    group.add_argument("--neutral-atoms", action="store_true", help="keep molecules without any charged atom")
    group.add_argument("--max-force", type=float, metavar="EV_PER_A", help="largest gradient component kept")
    group.add_argument(
        "--no-isolated-atoms", type=float, metavar="A", help="drop frames with an atom this alone"
    )


def build_parser() -> argparse.ArgumentParser:
    """The command's parser."""
    parser = argparse.ArgumentParser(
        prog="spice-data", description="The SPICE 2 dataset, download to stream."
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    p = commands.add_parser("download", help="get a released file; continues where an earlier call stopped")
    p.add_argument("release", nargs="?", default="2.0.1", help="see --list")
    p.add_argument("--list", action="store_true", help="list the releases")
    p.add_argument("--folder", type=Path, default=Path("."), help="where the file goes")
    p.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this URL first")
    p.add_argument("--proxy", help="proxy URL; by default the environment's")
    p.add_argument("--timeout", type=float, default=Patience().timeout, help="seconds without a byte")
    p.add_argument("--attempts", type=int, default=Patience().attempts, help="vain attempts per mirror")
    p.add_argument(
        "--wait", action="store_true", help="wait for another process that downloads the same file"
    )
    p.set_defaults(run=_download)

    p = commands.add_parser("verify", help="check size, md5 and every group, or a store's checksums")
    p.add_argument("file", help="SPICE file, store, or 'example'")
    p.add_argument("--no-md5", action="store_true", help="skip size and md5 of a released file")
    p.set_defaults(run=_verify)

    p = commands.add_parser("info", help="what a SPICE file or a store holds")
    p.add_argument("file", help="SPICE file, store, or 'example'")
    p.set_defaults(run=_info)

    p = commands.add_parser("select", help="apply filters and say what each removed")
    p.add_argument("file", help="SPICE file or 'example'")
    p.add_argument("-o", "--output", type=Path, help="selection file (JSON)")
    _add_filters(p)
    p.set_defaults(run=_select)

    p = commands.add_parser("convert", help="make a training store; from a store, extended XYZ")
    p.add_argument("source", help="SPICE file, selection (.json), .xyz, 'example', or a store")
    p.add_argument("output", type=Path)
    p.add_argument("--overwrite", action="store_true", help="replace an existing file")
    p.add_argument("--wait", action="store_true", help="wait for another process that writes the same store")
    _add_filters(p)
    p.set_defaults(run=_convert)

    p = commands.add_parser("split", help="divide a store's frames into train, val and test")
    p.add_argument("store", type=Path)
    p.add_argument("output", type=Path, help="split file (JSON)")
    p.add_argument("--ratios", default="90:5:5")
    p.add_argument("--by", choices=("frame", "molecule"), default="frame")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=_split)

    p = commands.add_parser("stats", help="statistics gathered while a store was made")
    p.add_argument("store", type=Path)
    p.set_defaults(run=_stats)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit status. Errors that a user can mend are one line on standard error."""
    a = build_parser().parse_args(arguments)
    bars: list[Bar] = []

    def bar(label: str, unit: str) -> Bar:
        bars.append(Bar(label, unit, a.quiet))
        return bars[-1]

    try:
        a.run(a, bar)
    except (ValueError, OSError) as e:
        for shown in bars:
            shown.close()
        print(f"spice-data: {e}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("spice-data: interrupted; the same command continues", file=sys.stderr)
        return 130
    for shown in bars:
        shown.close()
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
