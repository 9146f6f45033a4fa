"""Evaluation of a model file on files of labeled frames: errors, predictions, figures, report."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

import localgraph
from mlip_train.config.checks import LABELS, is_spice
from mlip_train.config.data import PARTS, BatchConfig, SourceConfig
from mlip_train.config.load import from_plain, to_plain
from mlip_train.data.build import build_table
from mlip_train.data.frames import FrameTable
from mlip_train.report.evaluate import Evaluation, evaluate
from mlip_train.report.html import error_rows, errors_by_element, parity, text_table, write_report
from mlip_train.report.predictions import element_rows, predictions, worst_rows


def evaluate_file(path: Path, data: Sequence[str] | Sequence[SourceConfig], folder: Path) -> str:
    """Evaluate a model file, write errors, predictions, figures and a report into ``folder``, and return its tables.

    Parameters
    ----------
    path : Path
        Model file; where a run of this package wrote it, the run's label keys, batches and element means are used.
    data : sequence of str or of SourceConfig
        Paths of files, or files with label keys of their own.
    folder : Path
        For the results, and for the cache of the frames.

    Raises
    ------
    ValueError
        If no frame has a label, and for paths whose label keys the run leaves open.
    """
    model, metadata = localgraph.load_model(path)
    training = metadata.get("training", {})
    run = training.get("config", {})
    sources = [s if isinstance(s, SourceConfig) else _as_read(s, run.get("data", {})) for s in data]
    folder.mkdir(parents=True, exist_ok=True)
    table = build_table(sources, model.type_names, model.cutoffs, folder / "cache", isolated="keep")
    if not any(label.any() for label in table.label_weights):
        keys = [{k: getattr(s, k) for k in LABELS} for s in sources]
        raise ValueError(f"data must have frames with labels, got none under {keys} in {list(table.files)}")
    shifts = np.asarray(training.get("statistics", {}).get("energy_shifts", np.zeros(len(model.type_names))))
    batch = from_plain(BatchConfig, run.get("batch", {"frames": 8}))
    with predictions(folder, table) as frames:
        result = evaluate(model, table, shifts, None, _holding_every_frame(batch, table), each=frames.add)
    _write(result, path, table.files, folder)
    tables = (error_rows(result.tables), element_rows(result.tables), worst_rows(frames))
    text = "".join(f"{text_table(rows)}\n\n" for rows in tables)
    return f"{text}frames: {folder / 'predictions.xyz'}, {folder / 'predictions.csv'}"


def _as_read(path: str, data: dict[str, Any]) -> SourceConfig:
    """Return a file to be read as the run read its own: with the keys and scales of its files that ASE reads."""
    if is_spice(path):
        return SourceConfig(path=path)
    parts = (data.get(part, []) for part in PARTS)
    labels = {tuple(s[name] for name in LABELS) for part in parts for s in part if not is_spice(s["path"])}
    if len(labels) > 1:
        raise ValueError(
            f"data must be files of a run with one set of label keys and scales, got {path!r} and {list(labels)} "
            "(evaluate a YAML with data.test instead)"
        )
    return SourceConfig(path=path, **(dict(zip(LABELS, labels.pop(), strict=True)) if labels else {}))


def _holding_every_frame(batch: BatchConfig, table: FrameTable) -> BatchConfig:
    """Return the budgets of a batch, raised where the largest frame is above them."""
    largest = {"frames": 1, "atoms": int(table.atom_counts.max()), "edges": int(table.edge_counts.max())}
    plain = to_plain(batch)
    grown = {k: max(v, largest[k]) for k, v in plain.items() if k in largest and v is not None}
    return from_plain(BatchConfig, plain | grown)


def _write(result: Evaluation, path: Path, files: Sequence[str], folder: Path) -> None:
    """Write evaluation.json, figures and evaluation.html."""
    (folder / "evaluation.json").write_text(json.dumps(result.tables, indent=2) + "\n")
    images = [folder / "parity.png", folder / "elements.png"]
    parity(result, images[0], path.name)
    errors_by_element(result, images[1], path.name)
    title = f"Evaluation of {path.name}"
    write_report(folder / "evaluation.html", title, {"all": result}, images, {"Files": files})
