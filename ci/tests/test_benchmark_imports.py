"""Every name that benchmarks import from the packages exists, also inside functions that no test runs."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OURS = {
    "equitensor",
    "localgraph",
    "allegro_model",
    "mlip_train",
    "mlip_export",
    "spice_data",
    "benchmarks",
    "ci",
}
FILES = sorted((ROOT / "benchmarks").rglob("*.py"))


def imported(path: Path) -> list[tuple[str, str | None]]:
    """Return (module, name) of every import of ours; None imports the module itself."""
    found: list[tuple[str, str | None]] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found += [(alias.name, None) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            found += [(node.module, alias.name) for alias in node.names]
    return [(module, name) for module, name in found if module.split(".")[0] in OURS]


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_imports_exist(path: Path) -> None:
    for module, name in imported(path):
        try:
            loaded = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name and error.name.split(".")[0] not in OURS:
                continue  # a library that this environment lacks
            raise
        if name is not None and not hasattr(loaded, name):
            importlib.import_module(f"{module}.{name}")


def test_training_steps_run() -> None:
    """The bare products too, which ratios are taken to."""
    command = [sys.executable, "-m", "pytest", "benchmarks/test_train_step.py", "-k", "small and not nequip"]
    command += ["-q", "-m", "not slow", "--benchmark-disable", "-p", "no:cacheprovider", "-n", "0"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout[-2000:] + done.stderr[-1000:]
