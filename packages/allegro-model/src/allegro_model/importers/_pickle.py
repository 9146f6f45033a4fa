"""Restricted unpickling of torch files: tensors and plain data, every other object as an inert record."""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

_DTYPES = {
    "FloatStorage": torch.float32,
    "DoubleStorage": torch.float64,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "UntypedStorage": torch.uint8,
}


class Record:
    """An object of the file: the name of its class, the arguments it was made with and its state; no behavior."""

    kind = "object"  # qualified name of the class or function in the file
    args: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> Record:
        """Keep the arguments."""
        record = object.__new__(cls)
        record.args, record.state = args, None
        return record

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """Ignore items of a mapping."""

    def append(self, value: Any) -> None:
        """Ignore items of a sequence."""

    def __iter__(self) -> Iterator[Any]:
        """Iterate over the items of a tuple of the file."""
        return iter(self.args[0])


class _Unpickler(pickle.Unpickler):
    """An unpickler whose ``find_class`` gives plain data, tensors of ``archive`` and records."""

    def __init__(self, data: bytes, archive: TorchArchive):
        super().__init__(io.BytesIO(data))
        self.archive = archive

    def find_class(self, module: str, name: str) -> Any:
        """Resolve a global of the file without importing anything."""
        plain = _PLAIN.get(f"{module}.{name}")
        if plain is not None:
            return plain
        dtype = getattr(torch, name, None) if module == "torch" else None
        return (
            dtype if isinstance(dtype, torch.dtype) else type(name, (Record,), {"kind": f"{module}.{name}"})
        )

    def persistent_load(self, pid: Any) -> Any:
        """Load a storage; objects that torch.package would rebuild by calling a function are left out."""
        if pid[0] != "storage":
            return None
        _, kind, key, _, size = pid
        return self.archive.storage(str(key), kind.__name__, int(size))


def _tensor(storage: Tensor, offset: int, size: Any, stride: Any, *_: Any) -> Tensor:
    return storage.as_strided(tuple(size), tuple(stride), offset)  # torch checks the bounds


def _parameter(data: Tensor, requires_grad: bool = True, *_: Any) -> Tensor:
    return data.requires_grad_(bool(requires_grad))


def _encode(text: str, encoding: str = "latin1") -> bytes:
    return text.encode("latin1")


class _Call:
    """A function that a pickle may call and not modify."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable[..., Any]):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)

    def __setstate__(self, state: Any) -> None:
        """Ignore state from a file."""


_PLAIN: dict[str, Any] = {
    "torch._utils._rebuild_tensor_v2": _Call(_tensor),
    "torch._utils._rebuild_parameter": _Call(_parameter),
    "collections.OrderedDict": OrderedDict,
    "collections.defaultdict": _Call(lambda *_: {}),
    "_codecs.encode": _Call(_encode),
    "torch.Size": tuple,
    "torch.device": _Call(lambda *args: ":".join(map(str, args))),
    "builtins.set": set,
    "builtins.frozenset": frozenset,
    "builtins.complex": complex,
}


class TorchArchive:
    """A zip file of ``torch.save`` or ``torch.package``.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, or it is no complete archive.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = str(path)
        if not os.path.exists(path):
            raise FileNotFoundError(
                f"path must be an existing checkpoint or packaged model, got {self.path!r}"
            )
        try:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
                self.root = names[0].split("/")[0] if names else ""
                self._files = {
                    name.removeprefix(self.root + "/"): file.read(name) for name in names if _is_data(name)
                }
        except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as e:
            raise self.damaged(e, "copy or download it again") from None
        self._storages: dict[str, Tensor] = {}

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def damaged(self, reason: object, advice: str = "") -> ValueError:
        """Return the error for a file that is not what its name says."""
        return ValueError(
            f"path must be a complete checkpoint or packaged model of nequip, got {self.path!r} ({reason})"
            + (f": {advice}" if advice else "")
        )

    def load(self, name: str) -> Any:
        """Unpickle a file of the archive into plain data, tensors and records."""
        if name not in self._files:
            raise self.damaged(f"it has no {name}")
        try:
            return _Unpickler(self._files[name], self).load()
        except MemoryError:
            raise
        except Exception as e:  # a damaged pickle raises nearly anything
            reason = f"{name}: {type(e).__name__}: {e}"
            raise self.damaged(reason, "copy or download it again") from None

    def storage(self, key: str, kind: str, size: int) -> Tensor:
        """Return a storage as a tensor of one dimension."""
        dtype = _DTYPES[kind]
        if key not in self._storages:
            data = self._files.get(f".data/{key}.storage", self._files.get(f"data/{key}"))
            if data is None:
                raise ValueError(f"storage {key} is missing")
            flat = (
                torch.frombuffer(bytearray(data), dtype=torch.uint8)
                if data
                else torch.empty(0, dtype=torch.uint8)
            )
            self._storages[key] = flat.view(dtype)
        return self._storages[key].view(dtype)


def _is_data(name: str) -> bool:
    return name.endswith((".storage", ".pkl")) or "/data/" in name
