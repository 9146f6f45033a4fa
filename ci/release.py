"""What a release needs beyond hatchling, build and twine: the changelog, tags, sibling floors, and contents.

    python ci/release.py prepare PACKAGE TREE                    # date the changelog of the version in TREE
    python ci/release.py check PACKAGE TREE DIST [--tag TAG]     # --tag: the release itself, notes become errors
    python ci/release.py floors PACKAGE TREE                     # SIBLING VERSION REVISION, one a line

TREE is a clone of this repository; ``nox -f nox.py -s "release(PACKAGE)"`` calls these in turn.
"""

from __future__ import annotations

import argparse
import datetime
import re
import subprocess
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable
from email import message_from_string
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parent.parent
VERSION = re.compile(r'^__version__ = "(\d+\.\d+\.\d+)"$', re.MULTILINE)
ENTRY = re.compile(r"^## (\S+) \(([^)]+)\)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
SDIST = re.compile(
    r"(src|tests|lammps_src)(/|$)|([A-Z]+(\.md)?|pyproject\.toml|PKG-INFO|hatch_build\.py|\.gitignore)?$"
)
"""What an sdist holds; the plugin's sources are part of mlip-export's."""
UNWANTED = re.compile(r"(^|/)(tests?|__pycache__)/|\.(pyc|so|o|pt2|ckpt)$|/build/")


class ReleaseError(SystemExit):
    """A release check failed; ends the program with its text."""


def tags() -> list[str]:
    """Return every tag of this repository."""
    done = subprocess.run(
        ["git", "-C", str(ROOT), "tag", "--list"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()


def version(tree: Path, package: str) -> str:
    """Return the version X.Y.Z in ``tree``."""
    path = tree / "packages" / package / "src" / package.replace("-", "_") / "__init__.py"
    if (match := VERSION.search(path.read_text())) is None:
        raise ReleaseError(f'{path} must have one line __version__ = "X.Y.Z", got none')
    return match[1]


def check_unreleased(package: str, new: str) -> None:
    """Raise ReleaseError unless the version is above every one that has a tag."""
    number = re.compile(rf"{package}-v(\d+\.\d+\.\d+)")
    found = [Version(match[1]) for match in map(number.fullmatch, tags()) if match]
    if found and Version(new) <= max(found):
        raise ReleaseError(f"version must be above {max(found)}, which is released, got {new}")


def rolled(changelog: str, version: str, date: str) -> str:
    """Return the changelog with its topmost, unreleased entry dated and given the version."""
    top = ENTRY.search(changelog)
    if top is None or top[2] != "unreleased":
        found = "no entry" if top is None else f"{top[1]} ({top[2]})"
        raise ReleaseError(f"changelog must have an entry '## X.Y.Z (unreleased)' on top, got {found}")
    rolled = changelog[: top.start()] + f"## {version} ({date})\n{top[3]}" + changelog[top.end() :]
    check_changelog(rolled, version)
    return rolled


def check_changelog(changelog: str, version: str) -> None:
    """Raise ReleaseError unless the version has a dated entry that says something."""
    found = {number: (date, text.strip()) for number, date, text in ENTRY.findall(changelog)}
    date, text = found.get(version, ("", ""))
    if not (re.fullmatch(r"\d{4}-\d\d-\d\d", date) and text):
        raise ReleaseError(
            f"changelog must have lines under '## {version} (YYYY-MM-DD)', got {date!r}, {text!r}"
        )


def sibling_floors(requirements: Iterable[str], siblings: dict[str, str]) -> dict[str, str]:
    """Return the lowest version X.Y.Z that requirements admit of each sibling, by its folder.

    Examples
    --------
    >>> sibling_floors(["torch>=2.8", "equitensor>=0.1,<0.2"], {"equitensor": "equitensor"})
    {'equitensor': '0.1.0'}
    """
    floors = {}
    for requirement in map(Requirement, requirements):
        if requirement.name in siblings:
            lows = [s.version for s in requirement.specifier if s.operator == ">="]
            if len(lows) != 1:
                raise ReleaseError(f"{requirement} must have one lower bound >=, got {len(lows)}")
            floors[siblings[requirement.name]] = ".".join(map(str, [*Version(lows[0]).release, 0, 0][:3]))
    return floors


def distributions(tree: Path) -> dict[str, str]:
    """Return the folder of each distribution of a tree."""
    files = sorted(tree.glob("packages/*/pyproject.toml"))
    return {tomllib.loads(path.read_text())["project"]["name"]: path.parent.name for path in files}


def floors(package: str, tree: Path) -> list[str]:
    """Return ``SIBLING VERSION REVISION`` of everything of this repository that the package needs, all the way down."""
    siblings, queue, found = distributions(tree), [package], dict[str, str]()
    while queue:
        project = tomllib.loads((tree / "packages" / queue.pop() / "pyproject.toml").read_text())["project"]
        for sibling, low in sibling_floors(project["dependencies"], siblings).items():
            queue += [] if sibling in found else [sibling]
            found[sibling] = max(low, found.get(sibling, low), key=Version)
    names = {s: f"{s}-v{low}" for s, low in found.items()}
    return [f"{s} {low} {names[s] if names[s] in tags() else 'HEAD'}" for s, low in found.items()]


def check_contents(package: str, wheel: Iterable[str], sdist: Iterable[str]) -> None:
    """Raise ReleaseError for files that a wheel or an sdist must not hold, and for those that a wheel lacks."""
    module, names = package.replace("-", "_"), list(wheel)
    allowed = re.compile(rf"{module}/|[\w.-]+\.dist-info/")
    bad = [name for name in names if not allowed.match(name) or UNWANTED.search(name)]
    inner = [name.partition("/")[2] for name in sdist]
    bad += [name for name in inner if not SDIST.match(name) or "__pycache__" in name]
    missing = {f"{module}/__init__.py", f"{module}/py.typed"} - set(names)
    if bad or missing:
        raise ReleaseError(
            f"wheel and sdist must hold the package alone, got {bad}, without {sorted(missing)}"
        )


def check(package: str, tree: Path, dist: Path, tag: str | None) -> list[str]:
    """Check what was built; return notes, which with a tag are errors."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as archive, tarfile.open(sdist) as source:
        check_contents(package, archive.namelist(), source.getnames())
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        message = message_from_string(archive.read(name).decode())
    built = str(message["Version"])
    wanted = f"{package}-v{version(tree, package)}"
    if built != version(tree, package) or (tag or wanted) != wanted:
        raise ReleaseError(f"tag must be {wanted}, the version of the tree, got {tag} and {built} built")
    check_changelog((tree / "packages" / package / "CHANGELOG.md").read_text(), built)
    needed = sibling_floors(message.get_all("Requires-Dist", []), distributions(tree))
    missing = [f"{p}-v{v}" for p, v in needed.items() if f"{p}-v{v}" not in tags()]
    note = f"sibling floors must be released, got no tag {', '.join(missing)}"
    if missing and tag is not None:
        raise ReleaseError(note)
    return [note] if missing else []


def prepare(package: str, tree: Path) -> None:
    """Date the changelog of the version in ``tree``."""
    check_unreleased(package, version(tree, package))
    changelog = tree / "packages" / package / "CHANGELOG.md"
    date = datetime.date.today().isoformat()
    changelog.write_text(rolled(changelog.read_text(), version(tree, package), date))


def main() -> None:
    """Run a command; a ReleaseError ends the program with its text."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("command", choices=["prepare", "check", "floors"])
    parser.add_argument("package", choices=sorted(distributions(ROOT).values()))
    parser.add_argument("tree", type=Path)
    parser.add_argument("dist", type=Path, nargs="?")
    parser.add_argument("--tag")
    o = parser.parse_args()
    if o.command == "prepare":
        prepare(o.package, o.tree)
    lines = floors(o.package, o.tree) if o.command == "floors" else []
    lines += [f"note: {n}" for n in check(o.package, o.tree, o.dist, o.tag)] if o.command == "check" else []
    print("\n".join(lines))


if __name__ == "__main__":
    main()
