"""Compiled functions of exported models, loaded once per content and device in each process."""

from __future__ import annotations

import hashlib
import os
import shutil
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from weakref import WeakValueDictionary

import torch
from torch import Tensor

from mlip_export import _precision
from mlip_export.model_file import ExportedModelError

Function = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]

# torch unmaps the code of an exported model only when the process ends, so giving a CPU model back and loading it
# again would map it twice: it is kept. A CUDA model holds device memory, which its last user gives back.
Key = tuple[str, torch.device, bool]
_kept: dict[Key, Function] = {}
_used: WeakValueDictionary[Key, Function] = WeakValueDictionary()
_lock = threading.RLock()
_forks_are_watched = False


def shared_function(
    path: str | os.PathLike[str], device: torch.device, single_threaded: bool = False
) -> Function:
    """Return the compiled function of a file, the same object for equal contents, devices and ways to run.

    Raises
    ------
    ExportedModelError
        If torch cannot load it.
    """
    key = (hashlib.sha256(Path(path).read_bytes()).hexdigest(), device, single_threaded)
    with _lock:
        function = _kept.get(key) or _used.get(key)
        if function is None:
            function = open_function(path, device, single_threaded)
            (_kept if device.type == "cpu" else _used)[key] = function
    return function


def open_function(
    path: str | os.PathLike[str], device: torch.device, single_threaded: bool = False
) -> Function:
    """Load the compiled function of a file for the kind of device that it was compiled for, without any check.

    With ``single_threaded`` it has none of the events by which torch lets threads share a function, and which a CUDA
    graph cannot capture; its callers must take turns.

    Raises
    ------
    ExportedModelError
        If torch cannot load it.
    """
    _watch_forks()
    index = -1 if device.index is None else device.index
    with _lock:
        try:
            function: Function = torch._inductor.aoti_load_package(
                str(Path(path)), run_single_threaded=single_threaded, device_index=index
            )
        except RuntimeError as e:
            raise ExportedModelError(
                f"{path} must be an exported model whose code loads here, got an error from torch: {e}"
            ) from e
        if device.type == "cpu":  # on a GPU, kernels are read from their files when they first run
            _remove_unpacked(path)
    return function


def _remove_unpacked(path: str | os.PathLike[str]) -> None:
    """Remove the folder into which torch unpacked a CPU model.

    The loader removes it when it ends, which it does not in a worker that is stopped. The code is mapped by now and
    reads no other file. Only Linux lists the mapped files; elsewhere the folder stays until the loader ends.
    """
    maps = Path("/proc/self/maps")
    if not maps.exists():
        return
    with zipfile.ZipFile(path) as archive:
        ends = [f"/{name}" for name in archive.namelist() if name.endswith(".so")]
    for line in maps.read_text().splitlines():
        place = line.split(maxsplit=5)[-1]
        for end in ends:
            if place.endswith(end) and os.path.exists(place):
                shutil.rmtree(place.removesuffix(end), ignore_errors=True)


def _watch_forks() -> None:
    """From the first load on, let forked children evaluate on one thread: OpenMP's threads do not survive a fork."""
    global _forks_are_watched
    with _lock:
        if not _forks_are_watched and hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=_after_fork)
        _forks_are_watched = True


def _after_fork() -> None:
    global _lock
    _lock = threading.RLock()  # the parent's may have been held by another of its threads
    _precision.after_fork()
    torch.set_num_threads(1)
