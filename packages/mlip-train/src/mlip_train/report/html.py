"""Figures and a self-contained HTML report."""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mlip_train.report.evaluate import Evaluation
from mlip_train.report.metrics import UNITS

STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:66rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left;min-width:9rem}th{white-space:nowrap;vertical-align:bottom}img{max-width:100%}pre{background:#f6f6f6;padding:1rem;overflow:auto}"""

WIDTH = 10.0
"""Of figures, inch; they are shown at the width of the text, whose size theirs should match."""


def learning_curves(history: Sequence[Mapping[str, float]], path: Path) -> None:
    """Draw loss, errors (of stresses too, where they are trained) and learning rate over epochs into a PNG."""
    epochs = [row["epoch"] for row in history]
    with_stress = any(key.endswith("stress_rmse") for row in history for key in row)
    figure = Figure(figsize=(WIDTH, 6.0), layout="constrained")
    axes = figure.subplots(2, 3 if with_stress else 2)
    shown = (
        ("loss", "weighted loss", 1.0),
        ("energy_per_atom_rmse", "energy RMSE, meV/atom", 1e3),
        ("forces_rmse", "force RMSE, meV/Å", 1e3),
        ("stress_rmse", "stress RMSE, meV/Å³", 1e3),
    )[: 4 if with_stress else 3]
    marker = "." if len(epochs) < 40 else None
    for axis, (key, label, factor) in zip(axes.flat, shown, strict=False):
        for part in ("train", "validation"):
            values = [factor * row.get(f"{part}/{key}", np.nan) for row in history]
            if np.isfinite(values).any():
                axis.plot(epochs, values, label=part, marker=marker)
        axis.set(xlabel="epoch", ylabel=label)
        if axis.lines:
            axis.legend(frameon=False)
            shown_values = np.concatenate([line.get_ydata() for line in axis.lines])
            if np.nanmax(shown_values) > 10 * np.nanmin(shown_values) > 0:
                axis.set_yscale("log")  # within one decade its ticks would be unreadable
    rate, rest = axes.flat[len(shown)], axes.flat[len(shown) + 1 :]
    rate.plot(epochs, [row["lr"] for row in history], color="k", marker=marker)
    rate.set(xlabel="epoch", ylabel="learning rate", yscale="log" if len(epochs) > 1 else "linear")
    for axis in axes.flat:
        axis.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axis.set_xlim(-0.5, max(epochs, default=0) + 0.5)
    for axis in rest:
        axis.set_axis_off()
    figure.savefig(path, dpi=110)


def parity(evaluation: Evaluation, path: Path, title: str = "") -> None:
    """Draw predicted over reference energies (less the per-element means), forces and stresses into a PNG."""
    shown = [
        (evaluation.energy * 1e3, "energy less element means, meV/atom", "energy_per_atom"),
        (evaluation.forces, "force component, eV/Å", "forces"),
    ]
    if len(evaluation.stress):
        shown.append((evaluation.stress * 1e3, "stress component, meV/Å³", "stress"))
    figure = Figure(figsize=(WIDTH, 4.8 if len(shown) == 2 else 4.0), layout="constrained")
    for axis, (pairs, label, key) in zip(figure.subplots(1, len(shown)), shown, strict=True):
        axis.set(xlabel=f"reference {label}", ylabel="model")
        if len(pairs):
            size, alpha = (3, 0.5) if len(pairs) > 300 else (7, 0.8)
            axis.plot(pairs[:, 0], pairs[:, 1], ".", markersize=size, alpha=alpha, rasterized=True)
            ends = [float(pairs.min()), float(pairs.max())]
            axis.plot(ends, ends, color="k", linewidth=0.8)
            overall = evaluation.tables["overall"]
            axis.set_title(
                f"MAE {1e3 * overall[key + '_mae']:.2f}, RMSE {1e3 * overall[key + '_rmse']:.2f} {UNITS[key]}",
                fontsize=10,
            )
    figure.suptitle(title)
    figure.savefig(path, dpi=110)


def errors_by_element(evaluation: Evaluation, path: Path, title: str = "") -> None:
    """Draw the force errors of each element into a PNG."""
    figure = Figure(figsize=(WIDTH, 3.2), layout="constrained")
    axis = figure.subplots()
    rows = evaluation.tables["forces_by_element"]
    at = np.arange(len(rows))
    axis.bar(at - 0.2, [1e3 * r["mae"] for r in rows.values()], 0.4, label="MAE")
    axis.bar(at + 0.2, [1e3 * r["rmse"] for r in rows.values()], 0.4, label="RMSE")
    axis.set_xticks(at, list(rows))
    axis.set_ylabel("force error, meV/Å")
    axis.set_title(f"{title}: force errors by element" if title else "", fontsize=10)
    axis.margins(y=0.25)  # the legend stands above the bars
    axis.legend(frameon=False, ncols=2, loc="upper right")
    figure.savefig(path, dpi=110)


def error_rows(tables: Mapping[str, Any]) -> list[list[str]]:
    """Return header and rows of a table of errors: overall, the baseline, every subset; meV/atom, meV/Å, meV/Å³."""
    columns = [f"{q}_{m}" for q in UNITS for m in ("mae", "rmse") if f"{q}_{m}" in tables["overall"]]
    head = [
        "frames",
        *(f"{c.rsplit('_', 1)[0].replace('_', ' ')} {c.rsplit('_', 1)[1].upper()}" for c in columns),
    ]
    units = ["", *(UNITS[c.rsplit("_", 1)[0]] for c in columns)]
    head = [f"{h}, {u}" if u else h for h, u in zip(head, units, strict=True)]
    rows = [("all", tables["overall"]), *tables["subsets"].items()]
    if "baseline" in tables:
        rows.insert(1, ("baseline: element means, no forces", tables["baseline"]["overall"]))
    return [head, *([name, *(f"{1e3 * t[c]:.3f}" if c in t else "–" for c in columns)] for name, t in rows)]


def text_table(rows: Sequence[Sequence[str]]) -> str:
    """Format rows of words as aligned lines."""
    widths = [max(len(r[i]) for r in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(w.ljust(widths[0]) if i == 0 else w.rjust(widths[i]) for i, w in enumerate(r)) for r in rows
    )


def write_report(
    path: Path,
    title: str,
    evaluations: Mapping[str, Evaluation],
    images: Sequence[Path],
    facts: Mapping[str, Any],
) -> None:
    """Write one HTML file with tables, embedded figures and facts about the run.

    Parameters
    ----------
    path : Path
        File to write.
    title : str
        Heading.
    evaluations : mapping
        Tables of errors by name.
    images : sequence of Path
        PNG files.
    facts : mapping
        Sections: a mapping of plain values is a table, anything else is folded YAML.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for name, evaluation in evaluations.items():
        parts.append(f"<h2>Errors: {html.escape(name)}</h2>{_html_table(error_rows(evaluation.tables))}")
    if images:
        parts.append("<h2>Figures</h2>")
    for image in images:
        data = base64.b64encode(image.read_bytes()).decode()
        parts.append(f'<p><img alt="{html.escape(image.stem)}" src="data:image/png;base64,{data}"></p>')
    for name, value in facts.items():
        parts.append(_section(name, value))
    body = "\n".join(parts)
    page = f"<!doctype html><html lang=en><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    path.write_text(f"{page}\n{body}\n</html>\n")


def _section(name: str, value: Any) -> str:
    """Return a table of plain values, or folded YAML of anything else."""
    if isinstance(value, Mapping) and not any(isinstance(v, Mapping | list | tuple) for v in value.values()):
        return f"<h2>{html.escape(name)}</h2>{_html_table([['', ''], *([k, _plain(v)] for k, v in value.items())])}"
    plain = json.loads(json.dumps(value, default=str))
    text = html.escape(yaml.safe_dump(plain, sort_keys=False, default_flow_style=None, width=100))
    return f"<h2>{html.escape(name)}</h2><details><summary>show</summary><pre>{text}</pre></details>"


def _plain(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _html_table(rows: Sequence[Sequence[str]]) -> str:
    def line(tag: str, cells: Sequence[str]) -> str:
        words = (html.escape(c) for c in cells)
        if tag == "th":
            words = (re.sub(r" (MAE|RMSE), ", r"<br>\1, ", w) for w in words)  # two short lines
        return "<tr>" + "".join(f"<{tag}>{w}</{tag}>" for w in words) + "</tr>"

    return "<table>" + line("th", rows[0]) + "".join(line("td", r) for r in rows[1:]) + "</table>"
