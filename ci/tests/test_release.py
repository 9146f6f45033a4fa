"""Release checks: changelog, tags, sibling floors, contents."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from ci import release  # noqa: E402
from ci.release import ReleaseError  # noqa: E402

CHANGELOG = "# Changelog\n\n## 0.2.0 (unreleased)\n\n- New.\n\n## 0.1.0 (2026-01-31)\n\n- First.\n"
PROJECT = '[project]\nname = "{}"\ndependencies = {}\n'
FILES = {
    "thing/src/thing/__init__.py": '"""A package."""\n\n__version__ = "0.2.0"\n',
    "thing/CHANGELOG.md": CHANGELOG,
    "thing/pyproject.toml": PROJECT.format("mlip-thing", '["base-thing>=0.1,<0.2", "torch>=2.8"]'),
    "base/pyproject.toml": PROJECT.format("base-thing", "[]"),
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two packages, the second without sources."""
    for name, text in FILES.items():
        path = tmp_path / "packages" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    user = ("-c", "user.name=a", "-c", "user.email=a@b")
    for command in (("init", "-q"), ("add", "."), (*user, "commit", "-qm", "All")):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    monkeypatch.setattr(release, "ROOT", tmp_path)
    return tmp_path


def tag(repository, name):
    subprocess.run(["git", "-C", str(repository), "tag", name], check=True)


def test_changelog_is_rolled_and_checked():
    rolled = release.rolled(CHANGELOG, "0.2.0", "2026-11-21")
    assert "## 0.2.0 (2026-11-21)\n\n- New." in rolled and "## 0.1.0 (2026-01-31)\n\n- First." in rolled
    release.check_changelog(rolled, "0.2.0")
    with pytest.raises(ReleaseError, match=r"'## X.Y.Z \(unreleased\)' on top, got 0.2.0 \(2026-11-21\)"):
        release.rolled(rolled, "0.3.0", "2026-11-22")
    with pytest.raises(ReleaseError, match=r"under '## 0.2.0 \(YYYY-MM-DD\)', got 'unreleased'"):
        release.check_changelog(CHANGELOG, "0.2.0")
    with pytest.raises(ReleaseError, match=r"0\.3\.0"):
        release.check_changelog(rolled, "0.3.0")
    with pytest.raises(ReleaseError, match=r"lines under '## 0\.2\.0"):
        release.rolled(CHANGELOG.replace("- New.\n", ""), "0.2.0", "2026-11-21")


def test_a_released_version_is_refused(repository):
    release.check_unreleased("thing", "0.2.0")
    for name in ("thing-v0.2.0", "thing-v0.10.0", "thing-vnext", "other-v9.0.0"):
        tag(repository, name)
    with pytest.raises(ReleaseError, match=r"above 0\.10\.0, which is released, got 0\.3\.0"):
        release.check_unreleased("thing", "0.3.0")
    release.check_unreleased("thing", "0.11.0")
    with pytest.raises(ReleaseError, match="above"):
        release.prepare("thing", repository)
    assert (repository / "packages/thing/CHANGELOG.md").read_text() == CHANGELOG


def test_sibling_floors(repository):
    siblings = release.distributions(repository)
    assert siblings == {"base-thing": "base", "mlip-thing": "thing"}
    requirements = ["base-thing<0.2,>=0.1", "numpy>=1", "base-thing>=0.1; extra == 'x'"]
    assert release.sibling_floors(requirements, siblings) == {"base": "0.1.0"}
    assert release.floors("thing", repository) == ["base 0.1.0 HEAD"]
    tag(repository, "base-v0.1.0")
    assert release.floors("thing", repository) == ["base 0.1.0 base-v0.1.0"]


def test_wheels_and_sdists_hold_only_what_they_should():
    wheel = ["thing/__init__.py", "thing/py.typed", "thing/a/b.py", "thing-0.1.0.dist-info/METADATA"]
    names = ("", "src/thing/__init__.py", "tests/test_a.py", "PKG-INFO", "LICENSE")
    sdist = [f"thing-0.1.0/{name}" for name in names]
    release.check_contents("thing", wheel, sdist)
    for stray in (
        "tests/test_a.py",
        "thing/tests/a.py",
        "other/a.py",
        "thing/a.pyc",
        "thing/k.so",
        "README.md",
    ):
        with pytest.raises(ReleaseError, match=re.escape(stray)):
            release.check_contents("thing", [*wheel, stray], sdist)
    for stray in ("benchmarks/a.py", "src/thing/__pycache__/a.pyc", ".github/x.yml"):
        with pytest.raises(ReleaseError, match=re.escape(stray)):
            release.check_contents("thing", wheel, [*sdist, f"thing-0.1.0/{stray}"])
    with pytest.raises(ReleaseError, match=r"py\.typed"):
        release.check_contents("thing", wheel[:1], sdist)


@pytest.mark.slow
def test_a_built_package_and_its_tag(tmp_path, monkeypatch):
    """One real package, built by hatchling: bumped, dated, checked; a wrong tag is refused."""
    tree, package = tmp_path / "tree", "localgraph"
    subprocess.run(["git", "clone", "-q", "--no-hardlinks", str(ROOT), str(tree)], check=True)
    folder, hatchling = tree / "packages" / package, [sys.executable, "-m", "hatchling"]
    subprocess.run([*hatchling, "version", "minor"], cwd=folder, check=True)
    assert release.version(tree, package) == "0.2.0"
    monkeypatch.setattr(release, "ROOT", tree)
    release.prepare(package, tree)
    subprocess.run([*hatchling, "build", "-d", str(tmp_path / "dist")], cwd=folder, check=True)
    for name, accepted in (
        (None, True),
        ("localgraph-v0.2.0", True),
        ("localgraph-v0.1.0", False),
        ("v0.2.0", False),
    ):
        if accepted:
            assert release.check(package, tree, tmp_path / "dist", name) == []
        else:
            with pytest.raises(ReleaseError, match=r"tag must be localgraph-v0\.2\.0"):
                release.check(package, tree, tmp_path / "dist", name)


def test_workflows_call_nothing_but_nox():
    yaml = pytest.importorskip("yaml")
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert files
    for file in files:
        for name, job in yaml.safe_load(file.read_text())["jobs"].items():
            runs = [step["run"].strip() for step in job["steps"] if "run" in step]
            uploads = any("gh-action-pypi-publish" in step.get("uses", "") for step in job["steps"])
            assert runs or uploads, name
            for line in (line for run in runs for line in run.splitlines()):
                assert line.startswith(("nox -f nox.py", "pip install nox", "./.ci/run")), json.dumps(
                    [file.name, line]
                )
