"""Modules and functions stay small: what is longer is named here, with the reason."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULE, FUNCTION = 300, 60
"""Most lines of a module, and of a function less its docstring."""
LONGER = {
    "nox.py": "nox reads its sessions from one file",
}


def sources() -> list[Path]:
    """Every Python file but tests."""
    found = [ROOT / "nox.py", *ROOT.glob("packages/*/src/**/*.py")]
    found += [path for folder in ("benchmarks", "ci") for path in ROOT.glob(f"{folder}/**/*.py")]
    return sorted(path for path in found if "tests" not in path.relative_to(ROOT).parts)


def lines_of(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Return the lines of a function from ``def`` to its end, less its docstring."""
    first = function.body[0]
    documented = ast.get_docstring(function) is not None
    docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
    return (function.end_lineno or 0) - function.lineno + 1 - docstring


def test_modules() -> None:
    long = {str(p.relative_to(ROOT)) for p in sources() if len(p.read_text().splitlines()) > MODULE}
    assert long == set(LONGER), "split by concern, or name the reason; what is short again is no exception"


def test_functions() -> None:
    long = [
        f"{path.relative_to(ROOT)}: {node.name}, {lines_of(node)} lines"
        for path in sources()
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and lines_of(node) > FUNCTION
    ]
    assert not long


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("def f():\n    return 1\n", 2),
        ('def f():\n    """One.\n\n    Two.\n    """\n    return 1\n', 2),
        ('def f(\n    a,\n):\n    "One."\n    if a:\n        return 1\n', 5),
    ],
)
def test_docstrings_do_not_count(text: str, lines: int) -> None:
    (function,) = ast.parse(text).body
    assert isinstance(function, ast.FunctionDef) and lines_of(function) == lines
