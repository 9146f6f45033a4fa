"""Sources as stores: what is no store is converted to one in the cache, by streaming and once."""

from __future__ import annotations

import glob
import hashlib
import json
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from ase.data import chemical_symbols
from numpy.typing import NDArray
from tqdm import tqdm

from mlip_train.config.checks import LABELS, check_source, is_spice
from mlip_train.config.data import PARTS, DataConfig, SourceConfig
from mlip_train.data.lmdb import lmdb_frames
from spice_data import DataError, Labels, Split, Store, convert

Progress = Callable[[int, int], None]


class Source(NamedTuple):
    """Frames of one source.

    Attributes
    ----------
    config : SourceConfig
        Where they are from.
    store : Store
        Opened.
    rows : (F,) int64
        Frames of the store, in the order of training tables.
    """

    config: SourceConfig
    store: Store
    rows: NDArray[np.int64]

    def where(self, row: int) -> tuple[str, str]:
        """File, and place in it, of a frame of the store, for messages."""
        files = self.store.provenance.get("files", {})
        ends = list(accumulate(files.values()))
        for (file, count), end in zip(files.items(), ends, strict=True):
            if row < end:
                return file, f"frame {row - end + count}"
        return self.config.path, f"frame {row}"

    def error(self, row: int, message: str) -> DataError:
        """Return the error of a frame of the store."""
        file, at = self.where(row)
        return DataError.inside(file, at, ValueError(message))

    @property
    def keys(self) -> list[str]:
        """Keys of labels and other data in the file; none of a store from elsewhere."""
        return list(self.store.provenance.get("keys", []))

    def elements(self) -> set[int]:
        """Atomic numbers of the frames."""
        found: set[int] = set()
        for start in range(0, len(self.rows), 4096):
            found |= set(np.unique(self.store.batch(self.rows[start : start + 4096]).numbers).tolist())
        return found


def open_sources(
    sources: Sequence[SourceConfig], cache: str | Path, workers: int = 0, progress: bool = False
) -> list[Source]:
    """Open stores, and convert every other file to one in ``cache`` unless that is there already.

    Parameters
    ----------
    sources : sequence of SourceConfig
        Files.
    cache : path
        Folder of the stores; an interrupted conversion is continued.
    workers : int
        Processes that parse extended XYZ.
    progress : bool
        Show a progress bar for each conversion.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    DataError
        If a label is not numeric, not finite, of a wrong shape, or there twice with different values, or a file is
        defective.
    ValueError
        For an option that does not apply to the kind of file, or takes no frame.
    """
    return [_open(source, Path(cache), workers, progress) for source in sources]


def open_parts(config: DataConfig, cache: str, progress: bool = False) -> dict[str, list[Source]]:
    """Open the sources of training, validation and test data, as :func:`open_sources`, of parts that have any."""
    return {
        part: open_sources(sources, cache, config.workers, progress)
        for part in PARTS
        if (sources := getattr(config, part))
    }


def elements_in(sources: Sequence[Source]) -> tuple[str, ...]:
    """Return the element symbols that occur in the sources, by atomic number.

    Raises
    ------
    ValueError
        If there is no frame.
    """
    seen = set().union(*(source.elements() for source in sources))
    if not seen:
        raise ValueError(f"data must contain at least one frame, got none from {paths_of(sources)}")
    return tuple(chemical_symbols[z] for z in sorted(seen))


def paths_of(sources: Sequence[Source]) -> list[str]:
    """Return the path of each source, for messages."""
    return [source.config.path for source in sources]


def _open(source: SourceConfig, cache: Path, workers: int, progress: bool) -> Source:
    check_source(source, "source")
    is_store = Path(source.path).suffix.lower() == ".store"
    files = files_of(source.path)
    store = Store(files[0]) if is_store else _converted(source, files, cache, workers, progress)
    if unknown := [name for name in source.weights if name not in store.subsets]:
        raise ValueError(
            f"source.weights must name subsets of {source.path}, which are {list(store.subsets)}, got {unknown}"
        )
    return Source(source, store, _rows(store, source))


def files_of(path: str) -> list[Path]:
    """Return the files that a path names: itself, those of a folder, or those that a pattern matches, in order.

    Raises
    ------
    FileNotFoundError
        If there is none.
    ValueError
        If they are several SPICE files or stores.
    """
    if Path(path).is_dir():
        found = sorted(p for p in Path(path).iterdir() if p.is_file() and not p.name.startswith("."))
    else:
        found = [Path(path)] if Path(path).exists() else sorted(map(Path, glob.glob(path, recursive=True)))
    if not found:
        raise FileNotFoundError(f"data must be an existing file, got {path!r}")
    if len(found) > 1 and any(is_spice(str(file)) for file in found):
        raise ValueError(f"path must name one SPICE file or store (list each as a source), got {path!r}")
    return found


def labels_of(source: SourceConfig) -> Labels:
    """Keys and units of a source, without a demand that frames have them: that depends on the loss."""
    options = {name: getattr(source, name) for name in LABELS if name != "format"}
    return Labels(**options, partial=True, required=False)


def _converted(source: SourceConfig, files: list[Path], cache: Path, workers: int, progress: bool) -> Store:
    """Return the store of a file in the cache; one that is damaged or of another state of the file is made again."""
    labels = None if is_spice(str(files[0])) else labels_of(source)
    key = json.dumps([[str(file.resolve()) for file in files], repr(labels), source.format])
    target = cache / f"{files[0].name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}.store"
    cache.mkdir(parents=True, exist_ok=True)
    if target.exists():
        try:
            with Store(target) as store:
                store.verify()
        except DataError as e:
            warnings.warn(f"{target}: {e}; the cached frames are built again", stacklevel=4)
            target.unlink()
    bar = tqdm(desc=files[0].name, disable=not progress, unit_scale=True, leave=False)

    def show(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    def made(overwrite: bool) -> Store:
        options: dict[str, Any] = {"overwrite": overwrite, "wait": True, "progress": show}
        if labels is None:
            return convert(files[0], target, **options)
        reader = lmdb_frames if files[0].suffix == ".lmdb" else None
        options |= {"labels": labels, "format": source.format, "workers": workers, "reader": reader}
        return convert(files, target, **options)

    with bar:
        try:
            return made(overwrite=False)
        except FileExistsError:  # the file has changed
            return made(overwrite=True)


def _rows(store: Store, source: SourceConfig) -> NDArray[np.int64]:
    """Return the frames that a source selects from its store."""
    listed = np.arange(len(store))
    if source.split is not None:
        parts = Split.load(source.split, store)
        listed = np.asarray({"train": parts.train, "val": parts.val, "test": parts.test}[str(source.part)])
    if source.charge is not None or source.exclude:
        columns = np.concatenate([rows[["molecule", "subset"]] for rows in store.frames()])[listed]
        excluded = [store.subsets.index(n) for n in source.exclude if n in store.subsets]
        kept = ~np.isin(columns["subset"], excluded)
        if source.charge is not None:
            found, place = np.unique(columns["molecule"], return_inverse=True)
            kept &= np.array([store.molecule(int(m)).charge == source.charge for m in found], bool)[place]
        listed = listed[kept]
    if source.shuffle is not None:
        order = np.arange(len(listed))
        np.random.default_rng(source.shuffle).shuffle(order)
        listed = listed[order]
    return listed if source.take is None else listed[_slice(source.take)]


def _slice(take: str) -> slice:
    try:
        parts = [int(p) if p.strip() else None for p in take.split(":")]
    except ValueError:
        parts = []
    if not 1 < len(parts) < 4:
        raise ValueError(f"take must be a slice such as ':100' or '100:', got {take!r}")
    return slice(*parts)
