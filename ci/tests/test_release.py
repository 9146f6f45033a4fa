"""Releases: what is checked before a tag, and that nothing here is ever half bumped."""

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
INIT = '"""A package."""\n\n__version__ = "0.2.0"\n'
PROJECT = '[project]\nname = "mlip-thing"\ndependencies = ["base-thing>=0.1,<0.2", "torch>=2.8"]\n'


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A repository of two packages, the second without sources."""
    root = tmp_path / "repository"
    source = root / "packages" / "thing" / "src" / "thing"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text(INIT)
    (root / "packages" / "thing" / "CHANGELOG.md").write_text(CHANGELOG)
    (root / "packages" / "thing" / "pyproject.toml").write_text(PROJECT)
    (root / "packages" / "base").mkdir()
    (root / "packages" / "base" / "pyproject.toml").write_text(
        '[project]\nname = "base-thing"\ndependencies = []\n'
    )
    for command in (
        ("init", "-q"),
        ("add", "."),
        ("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "All"),
    ):
        subprocess.run(["git", "-C", str(root), *command], check=True)
    monkeypatch.setattr(release, "ROOT", root)
    return root


@pytest.mark.parametrize(
    "wanted, released, message",
    [
        ("1.0", [], "X.Y.Z"),
        ("soon", [], "X.Y.Z"),
        ("0.1.0", ["0.1.0"], "above 0.1.0, which is released"),
        (None, ["0.2.0"], "above 0.2.0"),
        ("0.3.0", ["0.2.0", "0.10.0"], "above 0.10.0"),
    ],
)
def test_versions_that_cannot_be_released(wanted, released, message):
    with pytest.raises(ReleaseError, match=message):
        release.bumped("0.2.0", wanted, released)


def test_changelog_is_rolled_and_checked():
    rolled = release.rolled(CHANGELOG, "0.2.0", "2026-11-21")
    assert "## 0.2.0 (2026-11-21)\n\n- New." in rolled and "## 0.1.0 (2026-01-31)\n\n- First." in rolled
    release.check_changelog(rolled, "0.2.0")
    with pytest.raises(ReleaseError, match=r"'## X.Y.Z \(unreleased\)' on top, got 0.2.0 \(2026-11-21\)"):
        release.rolled(rolled, "0.3.0", "2026-11-22")
    with pytest.raises(ReleaseError, match=r"a date at 0.2.0, got \(unreleased\)"):
        release.check_changelog(CHANGELOG, "0.2.0")
    with pytest.raises(ReleaseError, match=r"0\.3\.0"):
        release.check_changelog(rolled, "0.3.0")
    with pytest.raises(ReleaseError, match=r"lines under 0\.2\.0"):
        release.rolled(CHANGELOG.replace("- New.\n", ""), "0.2.0", "2026-11-21")


def test_tag_is_the_built_version():
    release.check_tag("mlip-export-v0.1.0", "mlip-export", "0.1.0")
    for tag in ("mlip-export-v0.1.1", "mlip-train-v0.1.0", "v0.1.0"):
        with pytest.raises(ReleaseError, match=r"required mlip-export-v0\.1\.0"):
            release.check_tag(tag, "mlip-export", "0.1.0")


def test_sibling_floors_are_released(repository):
    siblings = release.distributions(repository)
    assert siblings == {"base-thing": "base", "mlip-thing": "thing"}
    floors = release.sibling_floors(
        ["base-thing<0.2,>=0.1", "numpy>=1", "base-thing>=0.1; extra == 'x'"], siblings
    )
    assert floors == {"base": "0.1.0"}
    assert release.floors("thing", repository) == ["base 0.1.0 HEAD"]
    with pytest.raises(ReleaseError, match=r"no tag base-v0\.1\.0"):
        release.check_floors(floors, release.tags())
    subprocess.run(["git", "-C", str(repository), "tag", "base-v0.1.0"], check=True)
    release.check_floors(floors, release.tags())
    assert release.released("base") == ["0.1.0"] and release.released("thing") == []
    assert release.floors("thing", repository) == ["base 0.1.0 base-v0.1.0"]


def test_wheels_and_sdists_hold_only_what_they_should():
    good = ["thing/__init__.py", "thing/py.typed", "thing/a/b.py", "thing-0.1.0.dist-info/METADATA"]
    release.check_wheel(good, "thing")
    for stray in (
        "tests/test_a.py",
        "thing/tests/test_a.py",
        "other/a.py",
        "thing/a.pyc",
        "thing/k.so",
        "README.md",
    ):
        with pytest.raises(ReleaseError, match=re.escape(stray)):
            release.check_wheel([*good, stray], "thing")
    with pytest.raises(ReleaseError, match=r"py\.typed"):
        release.check_wheel([good[0]], "thing")
    top = [
        "thing-0.1.0/" + name for name in ("src/thing/__init__.py", "tests/test_a.py", "PKG-INFO", "LICENSE")
    ]
    release.check_sdist(top)
    for stray in ("benchmarks/a.py", "src/thing/__pycache__/a.pyc", ".github/x.yml"):
        with pytest.raises(ReleaseError, match="sdist"):
            release.check_sdist([*top, "thing-0.1.0/" + stray])


def test_the_tree_is_bumped_whole_or_not_at_all(repository, tmp_path, monkeypatch):
    init, log = release.version_file(repository, "thing"), repository / "packages" / "thing" / "CHANGELOG.md"
    tree = tmp_path / "tree"
    release.copy(tree)
    assert release.prepare("thing", tree, "0.3.0") == "0.3.0"
    assert (init.read_text(), log.read_text()) == (INIT, CHANGELOG)  # only the copy changed

    renamed = []

    def second_fails(source, target):
        renamed.append(target)
        if len(renamed) == 2:
            raise OSError("disk full")
        Path(source).rename(target)

    with monkeypatch.context() as patch:
        patch.setattr(release.os, "replace", second_fails)
        with pytest.raises(OSError, match="disk full"):
            release.apply("thing", tree)
    assert (init.read_text(), log.read_text()) == (INIT, CHANGELOG)
    assert (
        subprocess.run(
            ["git", "-C", str(repository), "status", "--short"], capture_output=True, text=True
        ).stdout
        == ""
    )

    release.apply("thing", tree)
    assert release.version(repository, "thing") == "0.3.0" and "## 0.3.0 (20" in log.read_text()
    with pytest.raises(ReleaseError, match="required as committed, got local changes"):
        release.apply("thing", tree)


def test_workflows_call_nothing_but_nox():
    yaml = pytest.importorskip("yaml")
    files = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
    assert files
    for file in files:
        for name, job in yaml.safe_load(file.read_text())["jobs"].items():
            runs = [step["run"].strip() for step in job["steps"] if "run" in step]
            assert runs, name
            for line in (line for run in runs for line in run.splitlines()):
                assert line.startswith(("nox -f nox.py", "pip install nox", "./.ci/run")), json.dumps(
                    [file.name, line]
                )
