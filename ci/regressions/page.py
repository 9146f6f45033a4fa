"""One static page with the history of every tracked figure: counters, ratios, kept runs and recorded results.

A figure's history is that of its file in git, the working tree last; kept runs are one file a run. The page holds
everything it shows (no scripts, nothing to fetch), so it opens offline.
"""

from __future__ import annotations

import html
import json
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.common import ROOT

from ci.regressions.runs import FOLDER

HIDDEN = ("operators", "options", "extra", "energy", "forces")
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;width:100%}td,th{padding:.15em .6em;border-bottom:1px solid #ddd;text-align:left}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{vertical-align:middle}
summary{font-weight:600;margin-top:1em;cursor:pointer}code{background:#f3f3f3}"""


class Point(NamedTuple):
    """A value of a figure and what it belongs to (date and commit)."""

    label: str
    value: float


def label_of(row: dict[str, Any], number: int) -> str:
    """A row of a list by its words and sizes, or by its number."""
    keys = ("provider", "reader", "preset", "system", "kind", "frames", "atoms", "threads", "skin")
    words = [f"{row[k]:,} {k}" if isinstance(row[k], int) else str(row[k]) for k in keys if k in row]
    return " ".join(words) or f"row {number}"


def leaves(tree: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, float]]:
    """The numbers of nested JSON with their paths."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key not in HIDDEN:
                yield from leaves(value, (*prefix, str(key)))
    elif isinstance(tree, list) and tree and all(isinstance(row, dict) for row in tree):
        for number, row in enumerate(tree):
            yield from leaves(row, (*prefix, label_of(row, number)))
    elif isinstance(tree, (int, float)) and not isinstance(tree, bool):
        yield " · ".join(prefix), float(tree)


def git(*command: str) -> str:
    """Output of git in the repository, empty where there is none."""
    done = subprocess.run(["git", "-C", str(ROOT), *command], capture_output=True, text=True)
    return done.stdout if done.returncode == 0 else ""


def versions(path: Path) -> Iterator[tuple[str, Any]]:
    """Every version of a JSON file, oldest first: committed ones, then the working tree's where it differs."""
    name, last = path.relative_to(ROOT).as_posix(), ""
    for line in reversed(git("log", "--format=%h %cs", "--", name).splitlines()):
        commit, date = line.split()
        text = git("show", f"{commit}:{name}")
        if text:
            last = text
            yield f"{date} {commit}", json.loads(text)
    if path.read_text() != last:
        yield "working tree", json.loads(path.read_text())


def histories(labeled: Iterable[tuple[str, Any]]) -> dict[str, list[Point]]:
    """The history of each figure of successive versions of one file, or of successive runs."""
    found: dict[str, list[Point]] = {}
    for label, tree in labeled:
        for name, value in leaves(tree):
            found.setdefault(name, []).append(Point(label, value))
    return found


def line(points: list[Point], width: int = 180, height: int = 28) -> str:
    """An inline SVG of a history; each point tells its label and value."""
    low, high = min(p.value for p in points), max(p.value for p in points)
    step, span = (width - 8) / max(len(points) - 1, 1), (high - low) or 1.0
    at = [(4 + i * step, height - 4 - (p.value - low) / span * (height - 8)) for i, p in enumerate(points)]
    path = " ".join(f"{x:.1f},{y:.1f}" for x, y in at)
    dots = "".join(
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.5" fill="#1668b4">'
        f"<title>{html.escape(p.label)}: {p.value:,.6g}</title></circle>"
        for (x, y), p in zip(at, points, strict=True)
    )
    return (
        f'<svg width="{width}" height="{height}"><polyline points="{path}" fill="none" stroke="#1668b4"/>'
        f"{dots}</svg>"
    )


def section(title: str, found: dict[str, list[Point]], command: str = "", opened: bool = False) -> str:
    """A table of histories under a title that folds."""
    rows = "".join(
        f'<tr><td>{html.escape(name)}</td><td class="n">{p[0].value:,.6g}</td>'
        f'<td class="n">{p[-1].value:,.6g}</td>'
        f'<td class="n">{p[-1].value / p[0].value if p[0].value else float(not p[-1].value):.3f}</td>'
        f"<td>{line(p)}</td><td>{html.escape(p[-1].label)}</td></tr>"
        for name, p in found.items()
    )
    made = f"<p>Made by <code>{html.escape(command)}</code>.</p>" if command else ""
    head = "<tr><th>figure</th><th class=n>first</th><th class=n>latest</th><th class=n>latest / first</th>"
    return (
        f"<details{' open' if opened else ''}><summary>{html.escape(title)} ({len(found)} figures)</summary>{made}"
        f"<table>{head}<th>history</th><th>as of</th></tr>{rows}</table></details>"
    )


def milliseconds(run: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """When and of what a kept run is, and the least time of each benchmark."""
    return f"{run['date']} {run['commit']}", {name: f["milliseconds"] for name, f in run["figures"].items()}


def sections() -> Iterator[str]:
    """Counters and ratios, which gate; then kept runs and every recorded result, which do not."""
    benchmarks = ROOT / "benchmarks"
    for name, title in (
        ("counters.json", "Exact counters (gate every change)"),
        ("ratios.json", "Same-run ratios (warn at 1.10, fail at 1.25 times the record)"),
    ):
        path = benchmarks / name
        if path.exists():
            yield section(title, histories(versions(path)), opened=True)
    kept = [json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))]
    for machine in sorted({run["machine"] for run in kept}):
        here = (run for run in kept if run["machine"] == machine)
        yield section(f"Wall clock on {machine} (never gates)", histories(map(milliseconds, here)))
    for path in sorted((benchmarks / "results").rglob("*.json")):
        if path.parent == FOLDER:
            continue
        data = json.loads(path.read_text())
        command = data.get("command", "") if isinstance(data, dict) else ""
        yield section(path.relative_to(benchmarks).as_posix(), histories(versions(path)), str(command))


def write(output: Path) -> Path:
    """Write the page and return its path."""
    output.parent.mkdir(parents=True, exist_ok=True)
    body = "\n".join(sections())
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Tracked figures</title><style>{STYLE}</style>'
    text = (
        f"{head}<h1>Tracked figures</h1><p>At {html.escape(git('log', '-1', '--format=%h, %cs').strip())}. "
        f"A point tells its date, commit and value.</p>\n{body}\n</html>\n"
    )
    output.write_text(text)
    return output
