"""Splits into train, val and test frames: deterministic, by frame or by molecule, tied to their store."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from spice_data.charges import without_map_numbers
from spice_data.errors import DataError
from spice_data.select import fields_of, read_json, write_json
from spice_data.store import Store

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
        What was asked for.
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
        """Hash of everything: the store, how it was split, and the lists."""
        h = hashlib.sha256(repr((self.store_digest, self.by, self.ratios, self.seed)).encode())
        for part in (self.train, self.val, self.test):
            h.update(len(part).to_bytes(8, "little") + part.astype("<i8").tobytes())
        return h.hexdigest()

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the split as JSON, whole or not at all.

        Raises
        ------
        FileExistsError
            When ``path`` is an existing file other than a split.
        """
        data = {
            "digest": self.digest,
            "store_digest": self.store_digest,
            "by": self.by,
            "ratios": self.ratios,
            "seed": self.seed,
            "train": self.train.tolist(),
            "val": self.val.tolist(),
            "test": self.test.tolist(),
        }
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
            When the file is no split, lacks a field, was altered, or belongs to another store.
        """
        data = read_json(path, FORMAT)
        with fields_of(path):
            train, val, test = (np.array(data[k], np.int64) for k in ("train", "val", "test"))
            a, b, c = data["ratios"]
            self = cls(train, val, test, data["by"], (a, b, c), data["seed"], data["store_digest"])
            digest = data["digest"]
        if self.digest != digest:
            raise DataError(path, f"contents of digest {digest}", self.digest)
        if store is not None and store.digest != self.store_digest:
            raise DataError(
                path, f"the store of digest {self.store_digest}", f"{store.path} of {store.digest}"
            )
        return self


def _shuffled(n: int, seed: int) -> NDArray[np.int64]:
    """A permutation of n, the same on every platform and version: order by SplitMix64 of index and seed."""
    golden = np.uint64(0x9E3779B97F4A7C15)
    key = np.frombuffer(hashlib.sha256(f"spice-data split {seed}".encode()).digest()[:8], "<u8")[0]
    with np.errstate(over="ignore"):
        z = (np.arange(n, dtype=np.uint64) + key) * golden + golden
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z = z ^ (z >> np.uint64(31))
    return np.argsort(z, kind="stable")


def _by_molecule(store: Store, ratios: tuple[float, float, float], seed: int) -> list[NDArray[np.int64]]:
    """Test, then val, take molecules in shuffled order up to their share; train, or the last asked for, the rest.

    A molecule that would take a part beyond twice its share is left for the next part, unless there is no other.
    """
    groups: dict[str, list[tuple[int, int]]] = {}
    for i in range(store.n_molecules):
        info = store.molecule(i)
        key = without_map_numbers(info.smiles) if info.smiles else f"name {info.name}"
        groups.setdefault(key, []).append((info.first_frame, info.frames))
    keys = sorted(groups)
    sizes = [sum(count for _, count in groups[key]) for key in keys]
    rest = _shuffled(len(keys), seed).tolist()
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
        What to split.
    ratios : three numbers
        Proportions of train, val and test; the paper's 90:5:5 by default.
    by : str
        ``"frame"``: frames are shuffled, as in the paper, so that test frames have siblings of the same
        molecule in training. ``"molecule"``: all frames of a molecule go to one side. Two groups are the same
        molecule when their SMILES agree up to map numbers, whatever their names and subsets.
    seed : int
        Another seed, another split; the same seed, the same split on every platform.

    Raises
    ------
    ValueError
        When ``ratios`` or ``by`` are not as above, or a part with a ratio above 0 would be empty.
    TypeError
        When ``seed`` is no integer.

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
        raise ValueError(f"ratios: required three numbers ≥ 0 with a positive sum, got {tuple(ratios)!r}")
    three, seed = (values[0], values[1], values[2]), operator.index(seed)
    if by == "molecule":
        train, val, test = _by_molecule(store, three, seed)
    elif by == "frame":
        n, order = len(store), _shuffled(len(store), seed)
        n_val, n_test = round(n * three[1] / sum(three)), round(n * three[2] / sum(three))
        test, val, train = (np.sort(p) for p in np.split(order, [n_test, n_test + n_val]))
    else:
        raise ValueError(f"by: required 'frame' or 'molecule', got {by!r}")
    counts = (len(train), len(val), len(test))
    if any(ratio > 0 and count == 0 for ratio, count in zip(three, counts, strict=True)):
        received = f"{counts} of {len(store)} frames of {store.n_molecules} molecules"
        raise ValueError(f"ratios: required {three} that leave no part empty by {by}, got {received}")
    return Split(train, val, test, by, three, seed, store.digest)
