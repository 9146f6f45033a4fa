"""Releases: a bumped copy of the repository, and the checks of a tag, a changelog, sibling floors and what was built.

    python ci/release.py copy COPY [--revision TAG] [--set PACKAGE VERSION]
    python ci/release.py prepare PACKAGE COPY [VERSION|patch|minor|major]
    python ci/release.py check PACKAGE COPY DIST [--tag TAG]     # --tag: the release itself, notes become errors
    python ci/release.py floors PACKAGE COPY                     # SIBLING VERSION SOURCE, one a line
    python ci/release.py apply PACKAGE COPY                      # the prepared version and changelog into this tree

``nox -f nox.py -s "release(PACKAGE)"`` calls these in turn and stops before any upload.
"""

from __future__ import annotations

import argparse
import datetime
import io
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from email import message_from_string
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import InvalidVersion, Version

ROOT = Path(__file__).resolve().parent.parent
VERSION_LINE = re.compile(r'^__version__ = "([^"]+)"$', re.MULTILINE)
ENTRY = re.compile(r"^## (\S+) \(([^)]+)\)\n(.*?)(?=^## |\Z)", re.MULTILINE | re.DOTALL)
# What an sdist holds besides src/ and tests/, and a wheel besides its package; the plugin's sources ride along.
SDIST_FILES = {
    "README.md",
    "CHANGELOG.md",
    "LICENSE",
    "pyproject.toml",
    "PKG-INFO",
    "hatch_build.py",
    ".gitignore",
}
SDIST_FOLDERS = {"src", "tests", "lammps_src"}


class ReleaseError(Exception):
    """Something that a release must not have; says what was required and what was found."""


def git(*arguments: str) -> bytes:
    """Output of a git command, or ``ReleaseError`` with what it said."""
    done = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True)
    if done.returncode:
        raise ReleaseError(f"git {' '.join(arguments)}: {done.stderr.decode().strip()}")
    return done.stdout


def module(package: str) -> str:
    """The import name of a package's folder."""
    return package.replace("-", "_")


def version_file(root: Path, package: str) -> Path:
    """The file that holds the package's version."""
    return root / "packages" / package / "src" / module(package) / "__init__.py"


def version(root: Path, package: str) -> str:
    """The version in the tree ``root``."""
    match = VERSION_LINE.search(version_file(root, package).read_text())
    if match is None:
        raise ReleaseError(
            f'{version_file(root, package)}: required one line __version__ = "X.Y.Z", got none'
        )
    return match[1]


def set_version(root: Path, package: str, new: str) -> None:
    """Write a version into the tree ``root``."""
    path = version_file(root, package)
    path.write_text(VERSION_LINE.sub(f'__version__ = "{new}"', path.read_text(), count=1))


def tag_name(package: str, version: str) -> str:
    """The tag of a release, such as ``equitensor-v0.1.0``."""
    return f"{package}-v{version}"


def bumped(current: str, wanted: str | None, released: Iterable[str]) -> str:
    """The version to release: ``wanted`` (a version, patch, minor or major), or the current one.

    Raises
    ------
    ReleaseError
        For anything but X.Y.Z above every released version.

    Examples
    --------
    >>> bumped("0.1.0", None, []), bumped("0.1.0", "patch", ["0.1.0"]), bumped("0.1.4", "minor", ["0.1.4"])
    ('0.1.0', '0.1.1', '0.2.0')
    """
    major, minor, patch = Version(current).release
    steps = {
        "patch": f"{major}.{minor}.{patch + 1}",
        "minor": f"{major}.{minor + 1}.0",
        "major": f"{major + 1}.0.0",
    }
    new = current if wanted is None else steps.get(wanted, wanted)
    if not re.fullmatch(r"\d+\.\d+\.\d+", new):
        raise ReleaseError(f"version: required X.Y.Z, patch, minor or major, got {wanted!r}")
    highest = max(map(Version, released), default=None)
    if highest is not None and Version(new) <= highest:
        raise ReleaseError(f"version: required one above {highest}, which is released, got {new}")
    return new


def rolled(changelog: str, version: str, date: str) -> str:
    """The changelog with its topmost, unreleased entry dated and given the version.

    Raises
    ------
    ReleaseError
        Unless that entry is marked ``(unreleased)`` and says something.
    """
    top = ENTRY.search(changelog)
    if top is None or top[2] != "unreleased":
        found = "no entry" if top is None else f"{top[1]} ({top[2]})"
        raise ReleaseError(f"changelog: required an entry '## X.Y.Z (unreleased)' on top, got {found}")
    if not top[3].strip():
        raise ReleaseError(f"changelog: required lines under {top[1]} (unreleased), got none")
    return changelog[: top.start()] + f"## {version} ({date})\n{top[3]}" + changelog[top.end() :]


def check_changelog(changelog: str, version: str) -> None:
    """``ReleaseError`` unless the version has a dated entry that says something."""
    for number, date, text in ENTRY.findall(changelog):
        if number == version:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", date):
                raise ReleaseError(f"changelog: required a date at {version}, got ({date})")
            if not text.strip():
                raise ReleaseError(f"changelog: required lines under {version}, got none")
            return
    raise ReleaseError(f"changelog: required an entry '## {version} (YYYY-MM-DD)', got none")


def check_tag(tag: str, package: str, built: str) -> None:
    """``ReleaseError`` unless the tag names the version that was built."""
    if tag != tag_name(package, built):
        raise ReleaseError(f"tag: required {tag_name(package, built)}, the version that was built, got {tag}")


def distributions(root: Path) -> dict[str, str]:
    """Folder of each distribution in packages/ of the tree ``root``."""
    found = {}
    for path in sorted(root.glob("packages/*/pyproject.toml")):
        found[tomllib.loads(path.read_text())["project"]["name"]] = path.parent.name
    return found


def sibling_floors(requirements: Iterable[str], siblings: dict[str, str]) -> dict[str, str]:
    """The lowest version X.Y.Z that requirements admit of each sibling, by its folder.

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
                raise ReleaseError(f"{requirement}: required one lower bound >=, got {len(lows)}")
            release = [*Version(lows[0]).release, 0, 0][:3]
            floors[siblings[requirement.name]] = ".".join(map(str, release))
    return floors


def check_floors(floors: dict[str, str], tags: Iterable[str]) -> None:
    """``ReleaseError`` that names every sibling whose floor has no tag."""
    missing = [tag_name(p, v) for p, v in floors.items() if tag_name(p, v) not in tags]
    if missing:
        raise ReleaseError(f"sibling floors: required to be released, got no tag {', '.join(missing)}")


def check_wheel(names: Iterable[str], package: str) -> None:
    """``ReleaseError`` for files of a wheel outside its package and dist-info, for tests and for built things."""
    allowed = re.compile(rf"{module(package)}/|[\w.-]+\.dist-info/")
    unwanted = re.compile(r"(^|/)(tests?|__pycache__)/|\.(pyc|so|o|pt2|ckpt)$|/build/")
    names = list(names)
    bad = [name for name in names if not allowed.match(name) or unwanted.search(name)]
    if bad:
        raise ReleaseError(f"wheel: required {module(package)}/ and its dist-info alone, got {bad}")
    for needed in ("__init__.py", "py.typed"):
        if f"{module(package)}/{needed}" not in names:
            raise ReleaseError(f"wheel: required {module(package)}/{needed}, got none")


def check_sdist(names: Iterable[str]) -> None:
    """``ReleaseError`` for files of an sdist that are neither sources nor tests nor its own papers."""
    inner = [Path(*Path(name).parts[1:]) for name in names]
    bad = [
        str(p)
        for p in inner
        if (p.parts and p.parts[0] not in SDIST_FOLDERS and str(p) not in SDIST_FILES)
        or "__pycache__" in p.parts
    ]
    if bad:
        raise ReleaseError(f"sdist: required sources, tests, {sorted(SDIST_FILES)}, got {bad}")


def tags() -> list[str]:
    """Every tag of this repository."""
    return git("tag", "--list").decode().split()


def released(package: str) -> list[str]:
    """Versions of the package that have a tag; tags that are no versions are left out."""
    found = []
    for tag in tags():
        name, _, number = tag.rpartition("-v")
        if name == package:
            try:
                found.append(str(Version(number)))
            except InvalidVersion:
                continue
    return found


def copy(target: Path, revision: str = "HEAD") -> None:
    """The tree of a commit, in a new folder; work that is not committed stays out of a release."""
    target.mkdir(parents=True)
    with tarfile.open(fileobj=io.BytesIO(git("archive", revision))) as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python has it since 3.11.4
        archive.extractall(target)


def prepare(package: str, tree: Path, wanted: str | None) -> str:
    """Bump the version and roll the changelog in the copy ``tree``; returns the version."""
    new = bumped(version(tree, package), wanted, released(package))
    changelog = tree / "packages" / package / "CHANGELOG.md"
    changelog.write_text(rolled(changelog.read_text(), new, datetime.date.today().isoformat()))
    set_version(tree, package, new)
    return new


def metadata(wheel: Path) -> tuple[str, list[str]]:
    """Version and requirements that a wheel declares."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [n for n in archive.namelist() if n.endswith(".dist-info/METADATA")]
        message = message_from_string(archive.read(name).decode())
    return str(message["Version"]), [str(line) for line in message.get_all("Requires-Dist", [])]


def check(package: str, tree: Path, dist: Path, tag: str | None) -> list[str]:
    """Check what was built; returns notes, which with a tag are errors."""
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    built, requirements = metadata(wheel)
    check_tag(tag or tag_name(package, version(tree, package)), package, built)
    check_changelog((tree / "packages" / package / "CHANGELOG.md").read_text(), built)
    check_wheel(zipfile.ZipFile(wheel).namelist(), package)
    with tarfile.open(sdist) as archive:
        check_sdist(archive.getnames())
    try:
        check_floors(sibling_floors(requirements, distributions(tree)), tags())
    except ReleaseError as error:
        if tag is not None:
            raise
        return [str(error)]
    return []


def apply(package: str, tree: Path) -> None:
    """Bring the prepared changelog and version into this repository, one rename each, both or none."""
    files = [version_file(Path(), package), Path("packages") / package / "CHANGELOG.md"]
    for file in files:
        committed = git("show", f"HEAD:{file.as_posix()}")
        if (ROOT / file).read_bytes() != committed:
            raise ReleaseError(f"{file}: required as committed, got local changes")
    before = {file: (ROOT / file).read_bytes() for file in files}
    try:
        for file in files:
            part = ROOT / file.with_name(file.name + ".part")
            part.write_bytes((tree / file).read_bytes())
            os.replace(part, ROOT / file)
    except BaseException:
        for file, content in before.items():
            (ROOT / file).write_bytes(content)
            (ROOT / file.with_name(file.name + ".part")).unlink(missing_ok=True)
        raise


def floors(package: str, tree: Path) -> list[str]:
    """``SIBLING VERSION SOURCE`` of everything that the package needs of this repository, all the way down."""
    siblings, existing, found, queue = distributions(tree), tags(), {}, [package]
    while queue:
        project = tomllib.loads((tree / "packages" / queue.pop() / "pyproject.toml").read_text())["project"]
        for sibling, low in sibling_floors(project["dependencies"], siblings).items():
            if sibling not in found:
                queue.append(sibling)
            found[sibling] = max(low, found.get(sibling, low), key=Version)
    return [
        f"{sibling} {low} {tag_name(sibling, low) if tag_name(sibling, low) in existing else 'HEAD'}"
        for sibling, low in found.items()
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    """Dispatch; a ``ReleaseError`` ends the program with its text."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    p = commands.add_parser("copy")
    p.add_argument("tree", type=Path)
    p.add_argument("--revision", default="HEAD")
    p.add_argument("--set", nargs=2, metavar=("PACKAGE", "VERSION"))
    for name in ("prepare", "check", "floors", "apply"):
        p = commands.add_parser(name)
        p.add_argument("package", choices=sorted(distributions(ROOT).values()))
        p.add_argument("tree", type=Path)
        if name == "prepare":
            p.add_argument("version", nargs="?")
        if name == "check":
            p.add_argument("dist", type=Path)
            p.add_argument("--tag")
    o = parser.parse_args(arguments)
    try:
        if o.command == "copy":
            copy(o.tree, o.revision)
            if o.set:
                set_version(o.tree, *o.set)
        elif o.command == "prepare":
            print(prepare(o.package, o.tree, o.version))
        elif o.command == "check":
            for note in check(o.package, o.tree, o.dist, o.tag):
                print(f"note: {note}")
        elif o.command == "floors":
            print("\n".join(floors(o.package, o.tree)))
        else:
            apply(o.package, o.tree)
    except ReleaseError as error:
        sys.exit(f"{o.command}: {error}")


if __name__ == "__main__":
    main()
