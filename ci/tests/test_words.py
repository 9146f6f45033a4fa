"""Sources, docs and READMEs keep to the field's words: none of those that the style rules out."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORDS = """
    mend mends mended mending told said anew lone dear dearer dearest serve serves served papers house room
    rooms door doors oracle oracles
"""
PHRASES = ("in vain", "without a word")
BRITISH = "centre centres centred neighbour neighbours neighbouring"
"""The rest of American spelling is codespell's: ``nox -f nox.py -s spelling``."""
NAMES = ("matscipy.neighbours", "neighbour_list", "CSVLogger.serve")
"""Published names that hold such a word."""
SUFFIXES = {".py", ".md", ".cpp", ".h", ".toml", ".yml", ".yaml", ".in", ".cmake"}
RULED_OUT = re.compile(rf"\b({'|'.join([*WORDS.split(), *PHRASES, *BRITISH.split()])})\b", re.IGNORECASE)
PARTS = sorted(
    path.relative_to(ROOT).as_posix()
    for pattern in ("packages/*", "benchmarks", "ci", "docs", "lammps", ".github", "*.md", "nox.py")
    for path in ROOT.glob(pattern)
    if not path.name.startswith(".") or path.name == ".github"
)


def findings(text: str) -> list[tuple[int, str]]:
    """Return (line, word) of every word that is ruled out, but in published names."""
    for name in NAMES:
        text = text.replace(name, "")
    return [(text.count("\n", 0, match.start()) + 1, match[0]) for match in RULED_OUT.finditer(text)]


def files(part: str) -> list[Path]:
    """Return the text files of a part that git knows, by suffix."""
    root = ROOT / part
    found = [root] if root.is_file() else sorted(root.rglob("*"))
    skipped = {"__pycache__", "build", "dist", ".pytest_cache"}
    return [p for p in found if p.suffix in SUFFIXES and p.is_file() and not skipped & set(p.parts)]


@pytest.mark.parametrize("part", PARTS)
def test_words(part: str) -> None:
    here = Path(__file__).resolve()
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {word}"
        for path in files(part)
        if path.resolve() != here
        for line, word in findings(path.read_text())
    ]
    assert not bad, "\n".join(bad)


def test_a_planted_word_is_found() -> None:
    assert findings("one\ntwo, anew\n# the neighbours' list") == [
        (2, "anew"),
        (3, "neighbours"),
    ]
    assert findings("from matscipy.neighbours import neighbour_list  # alone, indoors, telling") == []
