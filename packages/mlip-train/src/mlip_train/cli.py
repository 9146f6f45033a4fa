"""The command line: mlip-train fit, evaluate, inspect."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

import localgraph
from mlip_train import checkpoint
from mlip_train.config import BatchConfig, SourceConfig
from mlip_train.settings import from_plain, load, to_plain
from mlip_train.verify import CompileError


def main(arguments: list[str] | None = None) -> int:
    """Run a command; errors a user can mend are one line on stderr and exit status 2."""
    parser = _parser()
    namespace = parser.parse_args(_plain(sys.argv[1:] if arguments is None else arguments))
    command = namespace.command
    try:
        {"fit": _fit, "evaluate": _evaluate, "inspect": _inspect}[command](namespace[command])
    except (ValueError, FileNotFoundError, ImportError, ArithmeticError, CompileError) as e:
        print(f"mlip-train {command}: {e}", file=sys.stderr)
        return 2
    return 0


def _plain(arguments: list[str]) -> list[str]:
    """``--optimizer.lr=1e-3`` is accepted for ``optimizer.lr=1e-3``."""
    own = ("--output=", "--subset=")
    return [a[2:] if a.startswith("--") and "=" in a and not a.startswith(own) else a for a in arguments]


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mlip-train", description="Train interatomic potentials registered as mlip.models."
    )
    commands = parser.add_subcommands(dest="command")
    fit = ArgumentParser(description="Train as a YAML file says.")
    fit.add_argument("run", type=str, help="the run's YAML file")
    fit.add_argument(
        "overrides", type=str, nargs="*", help="KEY=VALUE with a dotted key, e.g. optimizer.lr=1e-3"
    )
    fit.add_argument("--dry-run", action="store_true", help="check data, elements and memory; train nothing")
    commands.add_subcommand("fit", fit)
    evaluate = ArgumentParser(description="Errors of a trained model on labelled frames.")
    evaluate.add_argument("run", type=str, help="the run's YAML file, its output directory, or a model file")
    evaluate.add_argument("data", type=str, nargs="*", help="files of frames; by default the run's test data")
    evaluate.add_argument(
        "--output", type=str, default=None, help="where errors and figures go (default: beside the model)"
    )
    commands.add_subcommand("evaluate", evaluate)
    inspect = ArgumentParser(description="What a configuration, model file or checkpoint holds.")
    inspect.add_argument(
        "run", type=str, help="a YAML file, a model file, a checkpoint, or a run's directory"
    )
    commands.add_subcommand("inspect", inspect)
    return parser


def _fit(arguments: Any) -> None:
    from mlip_train.fit import dry_run, fit
    from mlip_train.report import error_rows, text_table

    config = load(arguments.run, arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(dry_run(config), indent=2))
        return
    result = fit(config)
    for name, evaluation in result.evaluations.items():
        print(f"\n{name}\n{text_table(error_rows(evaluation.tables))}")
    if result.evaluations:
        print(f"\nmodel: {result.model}\nreport: {result.model.parent / 'report.html'}")


def _evaluate(arguments: Any) -> None:
    from mlip_train.evaluate import evaluate
    from mlip_train.report import error_rows, errors_by_element, parity, text_table, write_report
    from mlip_train.table import build_table

    path, sources = _model_and_sources(Path(arguments.run))
    if arguments.data:
        sources = tuple(SourceConfig(path=p) for p in arguments.data)
    if not sources:
        raise ValueError("data: required files of frames, or a run with data.test, got neither")
    model, metadata = localgraph.load_model(path)
    folder = Path(arguments.output) if arguments.output else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    table = build_table(sources, model.type_names, model.cutoffs, folder / "cache", isolated="keep")
    training = metadata.get("training", {})
    shifts = np.asarray(training.get("statistics", {}).get("energy_shifts", np.zeros(len(model.type_names))))
    batch = from_plain(BatchConfig, training.get("config", {}).get("batch", {"frames": 8}))
    largest = {"frames": 1, "atoms": int(table.atom_counts.max()), "edges": int(table.edge_counts.max())}
    grown = {k: max(v, largest[k]) for k, v in to_plain(batch).items() if k in largest and v is not None}
    result = evaluate(model, table, shifts, None, from_plain(BatchConfig, to_plain(batch) | grown))
    (folder / "evaluation.json").write_text(json.dumps(result.tables, indent=2) + "\n")
    images = [folder / "parity.png", folder / "elements.png"]
    parity(result, images[0], path.name)
    errors_by_element(result, images[1])
    write_report(
        folder / "evaluation.html",
        f"Evaluation of {path.name}",
        {"all": result},
        images,
        {"Files": table.files},
    )
    print(text_table(error_rows(result.tables)))


def _model_and_sources(path: Path) -> tuple[Path, tuple[SourceConfig, ...]]:
    if path.suffix in (".yaml", ".yml"):
        config = load(path)
        return Path(config.output) / "model.safetensors", config.data.test
    if path.is_dir():
        path = path / "model.safetensors"
    return path, ()


def _inspect(arguments: Any) -> None:
    path = Path(arguments.run)
    if path.suffix in (".yaml", ".yml"):
        print(json.dumps(to_plain(load(path)), indent=2))
        return
    if path.is_dir():
        path = path / "model.safetensors"
    try:
        model, metadata = localgraph.load_model(path)
    except ValueError:
        state = checkpoint.load(path)
        keys = ("epoch", "consumed", "steps", "seconds", "world", "schedule")
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


if __name__ == "__main__":
    raise SystemExit(main())
