"""Frames of the LMDB files that nequip writes: pickled dictionaries of tensors, read without running what they hold."""

from __future__ import annotations

import collections
import io
import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ase import Atoms

from spice_data import DataError

GEOMETRY = ("pos", "atomic_numbers", "cell", "pbc")
LEFT_OUT = ("atom_types", "batch", "num_atoms", "edge_index", "edge_cell_shift", "edge_vectors")


def _storage(data: bytes) -> Any:
    return torch.load(io.BytesIO(data), weights_only=True)


class _Tensors(pickle.Unpickler):
    """Unpickles dictionaries of tensors, numbers and text; any other class or function is an error."""

    ALLOWED: dict[tuple[str, str], Any] = {  # noqa: RUF012
        ("collections", "OrderedDict"): collections.OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): torch._utils._rebuild_tensor_v2,
        ("torch.storage", "_load_from_bytes"): _storage,
    }

    def find_class(self, module: str, name: str) -> Any:
        """Return what rebuilds a tensor."""
        if (module, name) not in self.ALLOWED:
            raise pickle.UnpicklingError(f"entries must be tensors, got {module}.{name}")
        return self.ALLOWED[module, name]


def lmdb_frames(path: Path) -> Iterator[Atoms]:
    """Yield the frames of a file of nequip's; tensors of one row per atom go to arrays, others to info, by key.

    Raises
    ------
    ImportError
        Without the package lmdb.
    DataError
        If it is no such file, or an entry has no positions and atomic numbers.
    """
    try:
        import lmdb  # type: ignore[import-untyped,unused-ignore]
    except ImportError:
        raise ImportError(f"lmdb must be installed to read {str(path)!r} (pip install lmdb)") from None
    try:
        environment = lmdb.open(str(path), readonly=True, lock=False, readahead=False, subdir=False)
    except lmdb.Error as e:
        raise DataError(path, "be an LMDB file", e) from None
    with environment, environment.begin() as transaction:
        index = 0
        while (entry := transaction.get(str(index).encode())) is not None:
            try:
                yield _structure(_Tensors(io.BytesIO(entry)).load())
            except (pickle.UnpicklingError, KeyError, ValueError, RuntimeError) as e:
                received = f"{type(e).__name__}: {e}"
                raise DataError(path, "have entries of tensors", received, at=f"frame {index}") from None
            index += 1
        if not index:
            raise DataError(path, "have entries by number, as nequip writes them", "none")


def _structure(entry: dict[str, Any]) -> Atoms:
    values = {key: np.asarray(value) for key, value in entry.items()}
    numbers = values["atomic_numbers"].reshape(-1)
    box = {key: values[key].reshape(shape) for key, shape in (("cell", (3, 3)), ("pbc", 3)) if key in values}
    atoms = Atoms(numbers, values["pos"], **box)
    for key, value in values.items():
        if key not in (*GEOMETRY, *LEFT_OUT):
            per_atom = value.ndim > 1 and len(value) == len(numbers) and value.shape != (1, 3, 3)
            (atoms.arrays if per_atom else atoms.info)[key] = value
    return atoms
