"""Checkpoints without pickle: plain data and tensors in one safetensors file, written atomically."""

from __future__ import annotations

import json
import os
from typing import Any

from safetensors.torch import save as serialize
from torch import Tensor

from localgraph import atomic_write, read_safetensors

MODEL = "model.safetensors"
CHECKPOINT = "checkpoint.safetensors"
"""The best model and the state of a run, in its output folder."""

FORMAT = "mlip-train-checkpoint"
VERSION = "5"


def save(path: str | os.PathLike[str], tree: Any) -> None:
    """Write a tree of dicts, lists, tuples, tensors, numbers, strings and None.

    The file appears under its name only when it is complete and on disk; a crash leaves the previous one.

    Raises
    ------
    TypeError
        For a value of any other type, naming it.
    """
    tensors: dict[str, Tensor] = {}
    text = json.dumps(_encode(tree, tensors))
    with atomic_write(path) as file:
        file.write(serialize(tensors, {"format": FORMAT, "version": VERSION, "tree": text}))


def load(path: str | os.PathLike[str]) -> Any:
    """Read a tree that :func:`save` wrote; tensors on the CPU.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, truncated, or another kind of file.
    """
    head, tensors = read_safetensors(path, {"format": FORMAT, "version": VERSION}, "checkpoint", "checkpoint")
    return _decode(json.loads(head["tree"]), tensors)


def _encode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        name = str(len(tensors))
        tensors[name] = value.detach().cpu().contiguous().clone()
        return {"tensor": name}
    if isinstance(value, dict):
        return {"dict": [[_encode(k, tensors), _encode(v, tensors)] for k, v in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_encode(v, tensors) for v in value]}
    if isinstance(value, list):
        return [_encode(v, tensors) for v in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"checkpoint must hold plain data and tensors, got {type(value).__name__}")


def _decode(value: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, list):
        return [_decode(v, tensors) for v in value]
    if not isinstance(value, dict):
        return value
    ((kind, content),) = value.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(_decode(v, tensors) for v in content)
    return {_decode(k, tensors): _decode(v, tensors) for k, v in content}
