"""Build with AOT Inductor: options and a private cache."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from localgraph import inductor_workaround

ISA_ORDER = ("default", "avx2", "avx512", "amx")
"""Instruction sets from the narrowest to the widest."""


def options(isa: str) -> dict[str, Any]:
    """Return Inductor's options for an instruction set.

    Parameters
    ----------
    isa : str
        ``native``, ``avx512``, ``avx2`` (cpu only); other than ``native`` only where :func:`can_target`.
    """
    chosen: dict[str, Any] = {
        "cpp.dynamic_threads": True
    }  # else the thread count of this process is baked in
    if _version() >= (2, 10):
        chosen["aot_inductor.check_lowerbound"] = False  # zero atoms or edges are ordinary
        chosen["aot_inductor.precompile_headers"] = False
    if isa == "avx2":
        chosen |= {"cpp.simdlen": 256, "cpp.march": "x86-64-v3"}
    elif isa == "avx512":
        chosen |= {"cpp.simdlen": 512, "cpp.march": "x86-64-v4"}
    return chosen


def can_target() -> bool:
    """Return whether this torch can compile for another processor than its own, as 2.13 can."""
    from torch._inductor import config

    return hasattr(config.cpp, "march")


def build(program: torch.export.ExportedProgram, path: Path, chosen: Mapping[str, Any]) -> None:
    """Compile ``program`` into ``path``, in a cache of its own that is removed afterwards."""
    with (
        private_cache(),
        warnings.catch_warnings(),
        inductor_workaround(),
    ):
        warnings.simplefilter("ignore", FutureWarning)  # raised inside torch's own export code
        warnings.simplefilter("ignore", DeprecationWarning)
        torch._inductor.aoti_compile_and_package(
            program, package_path=str(path), inductor_configs=dict(chosen)
        )


@contextlib.contextmanager
def private_cache() -> Iterator[None]:
    """Let Inductor write to a folder of its own, which is removed at the end.

    The programs that tell it which instruction sets compiler and processor have stay in the user's cache, where the
    next process finds them: they take seconds.
    """
    from torch._inductor.cpu_vec_isa import valid_vec_isa_list

    valid_vec_isa_list()
    with (
        tempfile.TemporaryDirectory(prefix="mlip-export-") as cache,
        mock.patch.dict(os.environ, {"TORCHINDUCTOR_CACHE_DIR": cache}),
    ):
        yield


def code_of(isa: str) -> str:
    """Return the instruction set that ``isa`` stands for on this machine."""
    return isa_of_this_machine() if isa == "native" else isa


def isa_of_this_machine() -> str:
    """Return the widest instruction set that this process may use: ``amx``, ``avx512``, ``avx2`` or ``default``."""
    if _has_amx():
        return "amx"
    if torch.cpu._is_avx512_supported():
        return "avx512"
    if torch.cpu._is_avx2_supported():
        return "avx2"
    return "default"


def _has_amx() -> bool:
    """Return whether the processor has tiles, and the system lets this process use them."""
    asked = [getattr(torch.cpu, name, None) for name in ("_is_amx_tile_supported", "_init_amx")]
    return all(ask is not None and ask() for ask in asked)


def _version() -> tuple[int, int]:
    major, minor = torch.__version__.split(".")[:2]
    return int(major), int(minor)
