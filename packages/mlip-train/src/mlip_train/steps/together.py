"""Many of Inductor's C++ kernels in one translation unit: a small one alone takes most of its time for its headers."""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

from torch._inductor.async_compile import AsyncCompile, get_compile_threads
from torch._inductor.codecache import CppPythonBindingsCodeCache
from torch._inductor.exc import CppCompileError

log = logging.getLogger("mlip_train")

GROUP = 12
"""Kernels of one translation unit."""
_ENTRY = re.compile(r"\bvoid\s+kernel\s*\(")
_VECTORS = "at::vec::"
"""What decides that Inductor builds a kernel with the flags of the processor's vector instructions."""


class Kernel(NamedTuple):
    """A kernel that is built with others when the module that holds it waits for its kernels."""

    argument_types: list[str]
    source: str


class _Library(CppPythonBindingsCodeCache):
    """Kernels of one library, with Python bindings ``kernel_0``, ``kernel_1``, ..."""

    cache: dict[str, Any] = {}  # noqa: RUF012


def _text(kernels: Sequence[Kernel]) -> str:
    """Return one source of the kernels and their bindings, made of Inductor's template of a single binding."""
    before, rest = _Library.suffix_template.split("static PyObject* {entry_func}_py", 1)
    binding, after = rest.split("static PyMethodDef", 1)
    entry = '{{"{entry_func}", {entry_func}_py, METH_VARARGS, ""}},'
    first, last = after.split(entry, 1)
    sources, bindings, entries = [], [], []
    for i, kernel in enumerate(kernels):
        name = f"kernel_{i}"
        arguments = ", ".join(
            f"parse_arg<{t.replace('const ', '')}>(args, {n})" for n, t in enumerate(kernel.argument_types)
        )
        fields = {
            "entry_func": name,
            "arg_len": len(kernel.argument_types),
            "call_entry_func": f"{name}({arguments}); Py_RETURN_NONE;",
        }
        sources.append(_ENTRY.sub(f"void {name}(", kernel.source))
        bindings.append(("static PyObject* {entry_func}_py" + binding).format(**fields))
        entries.append(entry.format(**fields))
    return "\n".join(
        [
            *sources,
            before.format(entry_func="kernel", extra_parse_arg=""),
            *bindings,
            ("static PyMethodDef" + first).format(),
            *entries,
            last.format(entry_func="kernel"),
        ]
    )


def _known() -> bool:
    """Return whether Inductor's template is the one that can be taken apart."""
    try:
        _text([Kernel(["float*"], "")])
    except (AttributeError, IndexError, KeyError, ValueError):
        return False
    return True


def _groups(kernels: Mapping[str, Kernel]) -> Iterator[list[str]]:
    """Yield the names of kernels to build together: those that Inductor builds with the same flags."""
    for vectors in (False, True):
        names = [name for name, kernel in kernels.items() if (_VECTORS in kernel.source) == vectors]
        yield from (names[i : i + GROUP] for i in range(0, len(names), GROUP))


@contextlib.contextmanager
def kernels_together() -> Iterator[None]:
    """Let Inductor build C++ kernels in groups, with the flags and the code that each would have alone.

    A group that the compiler refuses is built one by one, and so is everything where Inductor's template of a binding
    is not the one known here.
    """
    if not _known():
        yield
        return
    alone, finish = AsyncCompile.cpp_pybinding, AsyncCompile.wait

    def collect(self: AsyncCompile, argtypes: list[str], source_code: str) -> Any:
        if len(_ENTRY.findall(source_code)) != 1:
            return alone(self, argtypes, source_code)
        return Kernel(argtypes, source_code)

    def wait(self: AsyncCompile, scope: dict[str, Any]) -> None:
        kernels = {name: value for name, value in scope.items() if isinstance(value, Kernel)}
        submit = self.submit if get_compile_threads() > 1 else None
        begun = [(names, _begin([kernels[n] for n in names], submit)) for names in _groups(kernels)]
        for names, library in begun:
            built = library()
            for i, name in enumerate(names):
                scope[name] = alone(self, *kernels[name]) if built is None else getattr(built, f"kernel_{i}")
        finish(self, scope)

    with (
        mock.patch.object(AsyncCompile, "cpp_pybinding", collect),
        mock.patch.object(AsyncCompile, "wait", wait),
    ):
        yield


def _begin(kernels: Sequence[Kernel], submit: Any) -> Callable[[], Any]:
    """Start to build a library; return what waits for its module, which is None if the compiler refused it."""

    def attempt(step: Callable[[], Any]) -> Any:
        try:
            return step()
        except CppCompileError as e:
            log.debug("%d kernels do not go into one source; they are built one by one: %s", len(kernels), e)
            return None

    load = attempt(lambda: _Library.load_async(_text(kernels), "cpu", submit_fn=submit))
    return lambda: None if load is None else attempt(load)
