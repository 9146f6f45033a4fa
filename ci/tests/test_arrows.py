"""Declared requirements and imports follow the arrows between the packages."""

import ast
import graphlib
import re
import tomllib
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {
    "equitensor": "equitensor",
    "mlip-localgraph": "localgraph",
    "allegro-model": "allegro_model",
    "mlip-train": "mlip_train",
    "mlip-export": "mlip_export",
    "spice-data": "spice_data",
}
ARROWS = {
    "equitensor": set(),
    "localgraph": set(),
    "allegro_model": {"equitensor", "localgraph"},
    "mlip_train": {"localgraph", "spice_data"},
    "mlip_export": {"localgraph"},
    "spice_data": set(),
}
EXTRAS = {"mlip_export": {"fetch": {"localgraph"}}}


def project(package):
    path = ROOT / "packages" / package.replace("_", "-") / "pyproject.toml"
    return tomllib.loads(path.read_text())["project"]


def siblings(requirements):
    names = [re.match(r"[A-Za-z0-9._-]+", requirement)[0] for requirement in requirements]
    assert "localgraph" not in names, "the distribution of that name is somebody else's"
    return {DISTRIBUTIONS[name] for name in names if name in DISTRIBUTIONS}


def imports(package):
    """Top-level names that the package's sources import, wherever in the file."""
    found = set()
    for path in (ROOT / "packages" / package.replace("_", "-") / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ARROWS)
def test_declared_requirements(package):
    assert siblings(project(package)["dependencies"]) == ARROWS[package]
    for extra, requirements in project(package).get("optional-dependencies", {}).items():
        allowed = EXTRAS.get(package, {}).get(extra, set())
        assert siblings(requirements) == allowed, f"extra {extra!r}"


@pytest.mark.parametrize("package", ARROWS)
def test_imports(package):
    optional = set().union(*EXTRAS.get(package, {}).values())
    others = set(ARROWS) - {package}
    found = imports(package) & others
    assert ARROWS[package] <= found, "an arrow that nothing uses"
    assert found <= ARROWS[package] | optional


def modules(package):
    """Sources of the package by name of their module, but for faces, which only hand names on."""
    folder = ROOT / "packages" / package.replace("_", "-") / "src"
    paths = (path for path in folder.rglob("*.py") if path.name != "__init__.py")
    return {".".join(path.relative_to(folder).with_suffix("").parts): path for path in paths}


@pytest.mark.parametrize("package", ARROWS)
def test_no_cycle(package):
    """No module imports itself by way of others, in functions and for annotations neither."""
    sources = modules(package)
    graph = {name: set() for name in sources}
    for name, path in sources.items():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                graph[name] |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                graph[name] |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
        graph[name] &= sources.keys()
    graphlib.TopologicalSorter(graph).prepare()  # CycleError names the modules


def test_spice_data_knows_no_torch():
    names = {re.match(r"[A-Za-z0-9._-]+", r)[0] for r in project("spice_data")["dependencies"]}
    assert "torch" not in names and "torch" not in imports("spice_data")


@pytest.mark.parametrize("package", ARROWS)
def test_versions_and_pins(package):
    text = (ROOT / "packages" / package.replace("_", "-") / "src" / package / "__init__.py").read_text()
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', text, re.MULTILINE)
    listed = project(package)
    requirements = [*listed["dependencies"], *chain(*listed.get("optional-dependencies", {}).values())]
    for requirement in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", requirement)[0]
        if name in DISTRIBUTIONS:
            assert requirement.endswith(">=0.1,<0.2"), requirement
    changelog = (ROOT / "packages" / package.replace("_", "-") / "CHANGELOG.md").read_text()
    assert "## 0.1.0" in changelog
