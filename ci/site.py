"""Hooks of mkdocs.yml: pages from outside docs/, links between both, and formulas as MathML.

READMEs, changelogs and results stay where a reader of the repository looks for them; the site shows the same files.
A relative link is written for the repository; where its target is a page of the site too, it leads there, and where the
site does not have it (a source file, a folder), only its text stays. A link to nothing is an error.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = (
    "README.md",
    "CONTRIBUTING.md",
    "CODE_OF_CONDUCT.md",
    "SECURITY.md",
    "lammps/README.md",
    "benchmarks/*.md",
    "benchmarks/*.svg",
    "benchmarks/results/*.png",
    "benchmarks/results/*.svg",
    "packages/*/README.md",
    "packages/*/CHANGELOG.md",
    "packages/*/*.svg",
    "packages/*/docs/*.svg",
    "packages/*/docs/*.png",
)
"""Files outside docs/ that the site shows or needs."""
CODE = r"^```.*?^```$|`[^`\n]+`"
LINK = re.compile(CODE + r"|(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s]+)\)", re.MULTILINE | re.DOTALL)
FORMULA = re.compile(CODE + r"|^\$\$\n(.+?)\n\$\$$|\$([^$\n]+)\$", re.MULTILINE | re.DOTALL)
"""Code comes first: at its place nothing else is found."""


def address(path: str) -> str:
    """Return the place in the site of a file of the repository: the root README is the front page."""
    if path == "README.md":
        return "index.md"
    return path.removeprefix("docs/") if path.startswith("docs/") else f"repository/{path}"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the files outside docs/."""
    for pattern in OUTSIDE:
        for path in sorted(ROOT.glob(pattern)):
            name = path.relative_to(ROOT).as_posix()
            files.append(File.generated(config, address(name), abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Point relative links to the site's own files, and write formulas as MathML."""
    source = Path(page.file.abs_src_path or "")
    markdown = LINK.sub(lambda found: _link(found, source, page, files), markdown)
    return FORMULA.sub(_formula, markdown) if page.meta.get("math") else markdown


def _link(found: re.Match[str], source: Path, page: Page, files: Files) -> str:
    picture, text, link = found.groups()
    if link is None or re.match(r"[a-z]+:|#|/", link):
        return found[0]
    path, _, anchor = link.partition("#")
    target = (source.parent / path).resolve()
    if not target.exists():
        raise PluginError(f"{source.relative_to(ROOT)}: link must lead to a file, got {link!r}")
    if target.is_dir() and (target / "README.md").exists():
        target = target / "README.md"
    place = address(target.relative_to(ROOT).as_posix())
    if files.get_file_from_path(place) is None:
        return text
    relative = os.path.relpath(place, Path(page.file.src_uri).parent)
    if anchor == "readme":
        anchor = ""
    return f"{picture}[{text}]({relative}{'#' + anchor if anchor else ''})"


def _formula(found: re.Match[str]) -> str:
    block, inline = found.groups()
    if block is None and inline is None:
        return found[0]
    # A line that begins with <math> would be a block for Markdown.
    return convert(block, display="block") if block else f"<span>{convert(inline)}</span>"
