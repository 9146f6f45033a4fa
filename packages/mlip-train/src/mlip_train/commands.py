"""The commands of ``mlip-train``: new, fit, check, evaluate, info. Each imports what it needs when it runs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mlip_train.config.load import load_config, to_plain


def new(arguments: Any, _: list[str]) -> None:
    """Write a configuration for a file of structures."""
    from mlip_train.new import suggest

    text, path = suggest(arguments.data), Path(arguments.output)
    if path.exists():
        raise ValueError(f"output must be a file that does not exist, got {arguments.output!r}")
    path.write_text(text)
    print(f"{text}\n{path}: next, mlip-train check {path}")


def fit(arguments: Any, given: list[str]) -> None:
    """Train, and print errors and where the model is."""
    import localgraph
    from mlip_train._fit import fit
    from mlip_train.report.html import error_rows, text_table
    from mlip_train.training.processes import is_first

    given = [*given, *([] if arguments.o is None else [f"output={json.dumps(arguments.o)}"])]
    if arguments.dry_run:
        check(arguments, given)
        return
    config = load_config(arguments.run, given)
    result = fit(config)
    for name, evaluation in result.evaluations.items():
        print(f"\n{name}\n{text_table(error_rows(evaluation.tables))}")
    if is_first(config.hardware):
        _, metadata = localgraph.load_model(result.model)
        best = metadata["training"]["best"]
        print(f"\nmodel: {result.model} (best of stage {best['stage']}: epoch {best['epoch']})")
        if config.logging.report:
            print(f"report: {result.model.parent / 'report.html'}")


def check(arguments: Any, given: list[str]) -> None:
    """Check a run without training."""
    from mlip_train._fit import dry_run

    print(json.dumps(dry_run(load_config(arguments.run, given)), indent=2))


def evaluate(arguments: Any, _: list[str]) -> None:
    """Evaluate a model file on labeled frames."""
    from mlip_train.report.files import evaluate_file

    run = Path(arguments.run)
    tested = load_config(run) if run.suffix in (".yaml", ".yml") else None
    path = _model(run if tested is None else Path(tested.output))
    sources = () if tested is None else tested.data.test
    if not arguments.data and not sources:
        raise ValueError("data must be files of frames, or run must have data.test, got neither")
    folder = Path(arguments.output) if arguments.output else path.parent
    print(evaluate_file(path, arguments.data or sources, folder))


def _model(path: Path) -> Path:
    """Return the model file in the folder of a run, or the file itself."""
    from mlip_train.training.checkpoint import MODEL

    return path / MODEL if path.is_dir() else path


def info(arguments: Any, _: list[str]) -> None:
    """Print a configuration, or the contents of a model file or checkpoint."""
    path = Path(arguments.run)
    if path.suffix in (".yaml", ".yml"):
        print(json.dumps(to_plain(load_config(path)), indent=2))
        return
    import localgraph
    from mlip_train.training import checkpoint

    path = _model(path)
    try:
        model, metadata = localgraph.load_model(path)
    except ValueError:
        state = checkpoint.load(path)
        keys = ("epoch", "position", "steps", "timer", "world", "schedule")
        print(
            json.dumps(
                {k: state[k] for k in keys} | {"last epoch": (state["history"] or [None])[-1]}, indent=2
            )
        )
        return
    config = model.to_config()
    parameters = sum(p.numel() for p in model.parameters())
    print(
        json.dumps(
            {"model": model.model_name, "parameters": parameters, "config": config} | metadata, indent=2
        )
    )
