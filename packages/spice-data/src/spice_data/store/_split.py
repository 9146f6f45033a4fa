"""Splits into train, val and test frames: deterministic, by frame or by molecule, tied to their store."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from spice_data.errors import DataError
from spice_data.files import read_json, write_json
from spice_data.read.charges import without_map_numbers
from spice_data.store.reader import Store
from spice_data.store.shuffle import shuffled

FORMAT = "spice-data-split"


@dataclass(frozen=True, eq=False)
class Split:
    """Three disjoint lists of frames of one store.

    Attributes
    ----------
    train, val, test : int64 arrays
        Frame indices, ascending.
    by : str
        ``"frame"`` or ``"molecule"``.
    ratios : tuple of float
        The ratios given.
    seed : int
        Seed of the shuffle.
    store_digest : str
        ``Store.digest`` of the store.
    """

    train: NDArray[np.int64]
    val: NDArray[np.int64]
    test: NDArray[np.int64]
    by: str
    ratios: tuple[float, float, float]
    seed: int
    store_digest: str

    @property
    def digest(self) -> str:
        """Hash of the store, the arguments of the split, and the lists."""
        h = hashlib.sha256(repr((self.store_digest, self.by, self.ratios, self.seed)).encode())
        for part in (self.train, self.val, self.test):
            h.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
        return h.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON, atomically.

        Raises
        ------
        FileExistsError
            If ``path`` is an existing file other than a split.
        """
        parts = {name: getattr(self, name).tolist() for name in ("train", "val", "test")}
        data = vars(self) | parts | {"digest": self.digest}
        write_json(path, FORMAT, data)

    @classmethod
    def load(cls, path: str | os.PathLike[str], store: Store | None = None) -> Split:
        """Read a split file.

        Parameters
        ----------
        path : path
            The JSON file.
        store : Store, optional
            The store that it will be used with.

        Raises
        ------
        DataError
            If the file is not a split, lacks a field, was altered, or belongs to another store.
        """

        def build(data: dict[str, Any]) -> tuple[Split, str]:
            train, val, test = (np.array(data[k], np.int64) for k in ("train", "val", "test"))
            a, b, c = data["ratios"]
            split = cls(train, val, test, data["by"], (a, b, c), data["seed"], data["store_digest"])
            return split, data["digest"]

        self, digest = read_json(path, FORMAT, build)
        if self.digest != digest:
            raise DataError(path, f"have contents of digest {digest}", self.digest)
        if store is not None and store.digest != self.store_digest:
            raise DataError(
                path,
                f"be used with the store of digest {self.store_digest}",
                f"{store.path} of {store.digest}",
            )
        return self


def _by_molecule(store: Store, ratios: tuple[float, float, float], seed: int) -> list[NDArray[np.int64]]:
    """Assign molecules in shuffled order to test, then val, up to their share; the rest to train.

    A molecule that would take a part beyond twice its share is left for the next part, unless there is no other.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for i in range(store.n_molecules):
        info = store.molecule(i)
        key = without_map_numbers(info.smiles) if info.smiles else f"name {info.name}"
        groups.setdefault(key, []).append((info.first_frame, info.frames))
    keys = sorted(groups)
    sizes = [sum(count for _, count in groups[key]) for key in keys]
    rest = shuffled(len(keys), seed).tolist()
    chosen: list[list[int]] = [[], [], []]
    asked = [part for part in (2, 1, 0) if ratios[part] > 0]
    for part in asked[:-1]:
        want, held, passed = round(len(store) * ratios[part] / sum(ratios)), 0, []
        for k in rest:
            if held < want and held + sizes[k] <= 2 * want:
                chosen[part].append(k)
                held += sizes[k]
            else:
                passed.append(k)
        if want and not held and passed:
            smallest = min(passed, key=lambda k: sizes[k])
            passed.remove(smallest)
            chosen[part].append(smallest)
        rest = passed
    chosen[asked[-1]] = rest
    frames = [[np.arange(a, a + n) for k in part for a, n in groups[keys[k]]] for part in chosen]
    return [np.sort(np.concatenate(f)) if f else np.empty(0, np.int64) for f in frames]


def split(store: Store, ratios: Sequence[float] = (90, 5, 5), *, by: str = "frame", seed: int = 0) -> Split:
    """Divide the frames of ``store`` into train, val and test.

    Parameters
    ----------
    store : Store
        The store to split.
    ratios : three numbers
        Proportions of train, val and test; by default 90:5:5, as in arXiv 2504.16068.
    by : str
        ``"frame"``: frames are shuffled, as there, so that test frames have siblings of the same
        molecule in training. ``"molecule"``: all frames of a molecule go to one side. Two groups are the same
        molecule when their SMILES agree up to map numbers, whatever their names and subsets.
    seed : int
        Seed of the shuffle; the split is the same on every platform.

    Raises
    ------
    ValueError
        If ``ratios`` or ``by`` are not as above, or a part with a ratio above 0 would be empty.
    TypeError
        If ``seed`` is not an integer.

    Examples
    --------
    >>> import tempfile
    >>> from spice_data import convert, example_path, split
    >>> with tempfile.TemporaryDirectory() as folder, convert(example_path(), folder + "/e.store") as store:
    ...     parts = split(store, by="frame")
    >>> len(parts.train), len(parts.val), len(parts.test)
    (920, 51, 51)
    """
    values = tuple(float(r) for r in ratios)
    if len(values) != 3 or not all(r >= 0 for r in values) or not sum(values) > 0:
        raise ValueError(f"ratios must be three numbers ≥ 0 with a positive sum, got {tuple(ratios)!r}")
    three, seed = (values[0], values[1], values[2]), operator.index(seed)
    if by == "molecule":
        train, val, test = _by_molecule(store, three, seed)
    elif by == "frame":
        n, order = len(store), shuffled(len(store), seed)
        n_val, n_test = round(n * three[1] / sum(three)), round(n * three[2] / sum(three))
        test, val, train = (np.sort(p) for p in np.split(order, [n_test, n_test + n_val]))
    else:
        raise ValueError(f"by must be 'frame' or 'molecule', got {by!r}")
    counts = (len(train), len(val), len(test))
    if any(ratio > 0 and count == 0 for ratio, count in zip(three, counts, strict=True)):
        received = f"{counts} of {len(store)} frames of {store.n_molecules} molecules"
        raise ValueError(f"ratios must leave no part empty by {by}, got {three} for {received}")
    return Split(train, val, test, by, three, seed, store.digest)
