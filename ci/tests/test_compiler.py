"""ci/compiler/g++ compiles a source once per set of options and headers, wherever it lies, and fails as g++ does."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[1] / "compiler"


@pytest.fixture
def compile_in(tmp_path: Path) -> Callable[..., tuple[int, bytes]]:
    """Compile a source with a header in a folder; returns the status and the object, which a kept one replaces."""

    def compile_in(
        name: str, source: str = "int f() { return VALUE; }", value: int = 1, options: tuple[str, ...] = ()
    ):
        folder = tmp_path / name
        (folder / "site-packages").mkdir(parents=True, exist_ok=True)
        (folder / "site-packages" / "value.h").write_text(
            f"#define VALUE {value}\ninline auto where() {{ return __FILE__; }}"
        )
        (folder / "a.cpp").write_text(f"#include <value.h>\n{source}\nauto here() {{ return where(); }}\n")
        environment = os.environ | {
            "PATH": f"{FOLDER}{os.pathsep}{os.environ['PATH']}",
            "COMPILED": str(tmp_path / "kept"),
        }
        command = ["g++", *options, f"-I{folder / 'site-packages'}", "-c", str(folder / "a.cpp")]
        out = folder / "a.o"
        out.unlink(missing_ok=True)
        done = subprocess.run([*command, "-o", str(out)], env=environment, capture_output=True)
        for kept in (tmp_path / "kept").glob("*"):
            kept.write_bytes(b"kept")
        return done.returncode, out.read_bytes() if out.exists() else b""

    return compile_in


@pytest.mark.parametrize(
    "change, taken",
    [
        ({}, True),
        ({"value": 2}, False),
        ({"source": "int g() { return VALUE; }"}, False),
        ({"options": ("-O1",)}, False),
    ],
    ids=["same", "header", "source", "options"],
)
def test_what_is_taken_from_an_earlier_compilation(
    compile_in: Callable[..., tuple[int, bytes]], change: dict[str, object], taken: bool
) -> None:
    status, first = compile_in("first")
    assert status == 0 and first not in (b"", b"kept")
    status, second = compile_in("second", **change)
    assert status == 0 and (second == b"kept") == taken and second


def test_a_failure_is_not_kept(compile_in: Callable[..., tuple[int, bytes]]) -> None:
    for _ in range(2):
        status, made = compile_in("bad", source="int f( {")
        assert status != 0 and not made


def test_a_shared_library_and_other_calls(compile_in: Callable[..., tuple[int, bytes]]) -> None:
    for name, options in (("one", ("-shared", "-fPIC")), ("two", ("-fPIC", "-E"))):
        status, made = compile_in(name, options=options)
        assert status == 0 and made
    version = subprocess.run([FOLDER / "g++", "--version"], capture_output=True, text=True)
    assert version.returncode == 0 and "Free Software Foundation" in version.stdout
