"""Final evaluation and report of a run."""

from __future__ import annotations

import json
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

import localgraph
from localgraph import EdgeModel
from mlip_train.config.load import to_plain
from mlip_train.config.schema import TrainConfig
from mlip_train.data.frames import FrameTable
from mlip_train.report.evaluate import Evaluation, evaluate
from mlip_train.report.html import errors_by_element, learning_curves, parity, write_report
from mlip_train.training.checkpoint import MODEL
from mlip_train.training.prepare import Prepared

NAMES = {
    "avg_num_neighbors": "neighbors per atom",
    "energy_std": "energy deviation after the energy shifts, eV/atom",
    "force_rms": "force RMS, eV/Å",
}
"""Statistics of the training data as the report names them."""


def write_results(
    config: TrainConfig,
    prepared: Prepared,
    folder: Path,
    history: Sequence[Mapping[str, float]],
    timing: Mapping[str, Any],
    compared: Mapping[str, Any],
    device: torch.device,
) -> dict[str, Evaluation]:
    """Evaluate the model of a run on validation and test data, and write errors.json and, if asked for, the report.

    Parameters
    ----------
    config : TrainConfig
        Of the run.
    prepared : Prepared
        Its data.
    folder : Path
        Its output, with the model.
    history : sequence of mappings
        Rows of metrics.csv.
    timing, compared : mapping
        Facts for the report: about the training, and differences of the compiled step from eager.
    device : torch.device
        Where to evaluate.
    """
    model, _ = localgraph.load_model(folder / MODEL)
    model = model.to(device)
    parts: dict[str, tuple[FrameTable, NDArray[np.int64] | None]] = {}
    if (held := prepared.validation) is not None:
        parts["validation"] = (held.table, held.rows)
    if prepared.test is not None:
        parts["test"] = (prepared.test, None)
    shifts, stress = prepared.statistics.energy_shifts, config.weighted.stress
    evaluations = {
        name: evaluate(model, table, shifts, rows, config.batch, stress, config.data.loaders)
        for name, (table, rows) in parts.items()
    }
    tables = {name: e.tables for name, e in evaluations.items()}
    (folder / "errors.json").write_text(json.dumps(tables, indent=2) + "\n")
    if config.logging.report:
        images = [folder / "learning_curves.png"]
        learning_curves(history, images[0])
        for name, evaluation in evaluations.items():
            images += [folder / f"parity_{name}.png", folder / f"elements_{name}.png"]
            parity(evaluation, images[-2], name)
            errors_by_element(evaluation, images[-1], name)
        facts = _facts(config, prepared, model, timing, compared)
        title = f"Training report: {folder.name} ({config.model.name})"
        write_report(folder / "report.html", title, evaluations, images, facts)
    return evaluations


def _facts(
    config: TrainConfig,
    prepared: Prepared,
    model: EdgeModel,
    timing: Mapping[str, Any],
    compared: Mapping[str, Any],
) -> dict[str, Any]:
    """Sections of the report besides errors and figures."""
    size = {"parameters": sum(p.numel() for p in cast(nn.Module, model).parameters())}
    pace = {"seconds per epoch": f"{timing['seconds of training'] / max(timing['epochs'], 1):.3g}"}
    statistics = prepared.statistics.plain()
    energies = zip(model.type_names, statistics.pop("energy_shifts"), strict=True)
    facts: dict[str, Any] = {
        "Run": size | dict(timing) | pace,
        "Training data": {NAMES.get(key, key): value for key, value in statistics.items()},
        "Energy of each element, eV": {name: f"{energy:.6f}" for name, energy in energies},
        "Configuration": to_plain(config),
        "Environment": environment(),
    }
    return facts | ({"Compiled against eager": compared} if compared else {})


def environment() -> dict[str, str]:
    """Versions and machine, for the report."""
    import lightning

    import mlip_train

    return {
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "lightning": lightning.__version__,
        "mlip-train": mlip_train.__version__,
        "localgraph": localgraph.__version__,
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "threads": str(torch.get_num_threads()),
        "time": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
    }
