"""The command line: mlip-train fit, evaluate, inspect."""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

import localgraph
from mlip_train import __version__
from mlip_train.config.checks import LABELS, is_spice
from mlip_train.config.load import from_plain, load_config, to_plain
from mlip_train.config.schema import BatchConfig, SourceConfig
from mlip_train.data.batches import label_weights
from mlip_train.steps.verify import CompileError
from mlip_train.training import checkpoint


def main(arguments: list[str] | None = None) -> int:
    """Run a command; user errors are one line on stderr with exit status 2."""
    parser = _parser()
    namespace = parser.parse_args(_ordered(sys.argv[1:] if arguments is None else arguments))
    command = namespace.command
    try:
        {"fit": _fit, "evaluate": _evaluate, "inspect": _inspect}[command](namespace[command])
    except (ValueError, FileNotFoundError, ImportError, ArithmeticError, CompileError) as e:
        print(f"mlip-train {command}: {e}", file=sys.stderr)
        return 2
    return 0


def _ordered(arguments: list[str]) -> list[str]:
    """Options last, for argparse takes no list in two parts; of ``fit``, ``--optimizer.lr=1e-3`` as an override."""
    plain: list[str] = []
    options: list[str] = []
    rest = iter(arguments)
    for a in rest:
        if plain[:1] == ["fit"] and a.startswith("--") and "=" in a:
            plain.append(a[2:])
        elif a.startswith("-"):
            options += [a, *itertools.islice(rest, int(a == "--output"))]
        else:
            plain.append(a)
    return plain + options


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="mlip-train", description="Train interatomic potentials registered as mlip.models."
    )
    parser.add_argument("--version", action="version", version=f"mlip-train {__version__}")
    commands = parser.add_subcommands(dest="command")
    fit = ArgumentParser(description="Train a model from a YAML configuration.")
    fit.add_argument("run", type=str, help="the run's YAML file")
    fit.add_argument(
        "overrides", type=str, nargs="*", help="KEY=VALUE with a dotted key, e.g. optimizer.lr=1e-3"
    )
    fit.add_argument("--dry-run", action="store_true", help="check data, elements and memory; train nothing")
    commands.add_subcommand("fit", fit)
    evaluate = ArgumentParser(description="Evaluate a trained model on labeled frames.")
    evaluate.add_argument("run", type=str, help="the run's YAML file, its output directory, or a model file")
    evaluate.add_argument("data", type=str, nargs="*", help="files of frames; by default the run's test data")
    evaluate.add_argument(
        "--output", type=str, default=None, help="where errors and figures go (default: beside the model)"
    )
    commands.add_subcommand("evaluate", evaluate)
    inspect = ArgumentParser(description="Show a configuration, model file or checkpoint.")
    inspect.add_argument(
        "run", type=str, help="a YAML file, a model file, a checkpoint, or a run's directory"
    )
    commands.add_subcommand("inspect", inspect)
    return parser


def _fit(arguments: Any) -> None:
    from mlip_train.fit import dry_run, fit
    from mlip_train.report.html import error_rows, text_table

    config = load_config(arguments.run, arguments.overrides)
    if arguments.dry_run:
        print(json.dumps(dry_run(config), indent=2))
        return
    result = fit(config)
    for name, evaluation in result.evaluations.items():
        print(f"\n{name}\n{text_table(error_rows(evaluation.tables))}")
    if result.evaluations:
        print(f"\nmodel: {result.model}\nreport: {result.model.parent / 'report.html'}")


def _evaluate(arguments: Any) -> None:
    from mlip_train.data.build import build_table
    from mlip_train.report.evaluate import evaluate
    from mlip_train.report.html import error_rows, errors_by_element, parity, text_table, write_report

    path, sources = _model_and_sources(Path(arguments.run))
    if arguments.data:
        sources = ()
    elif not sources:
        raise ValueError("data: required files of frames, or a run with data.test, got neither")
    model, metadata = localgraph.load_model(path)
    training = metadata.get("training", {})
    sources = sources or _sources(arguments.data, training.get("config", {}).get("data", {}))
    folder = Path(arguments.output) if arguments.output else path.parent
    folder.mkdir(parents=True, exist_ok=True)
    table = build_table(sources, model.type_names, model.cutoffs, folder / "cache", isolated="keep")
    if not any(label.any() for label in label_weights(table)):
        keys = [{k: getattr(s, k) for k in LABELS} for s in sources]
        raise ValueError(f"data must have frames with labels, got none under {keys} in {list(table.files)}")
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


def _sources(paths: list[str], data: dict[str, Any]) -> tuple[SourceConfig, ...]:
    """Files to be read as the run read its own: with the keys and scales of its files that ASE reads."""
    read = [
        s for part in ("train", "validation", "test") for s in data.get(part, []) if not is_spice(s["path"])
    ]
    labels = {tuple(s[name] for name in LABELS) for s in read}
    if len(labels) > 1 and not all(is_spice(p) for p in paths):
        raise ValueError(
            f"data: required one set of label keys and scales in the run to read {paths} with, got {sorted(labels)} "
            "(evaluate a YAML with data.test instead)"
        )
    options = dict(zip(LABELS, labels.pop(), strict=True)) if len(labels) == 1 else {}
    return tuple(SourceConfig(path=p, **({} if is_spice(p) else options)) for p in paths)


def _model_and_sources(path: Path) -> tuple[Path, tuple[SourceConfig, ...]]:
    if path.suffix in (".yaml", ".yml"):
        config = load_config(path)
        return Path(config.output) / "model.safetensors", config.data.test
    if path.is_dir():
        path = path / "model.safetensors"
    return path, ()


def _inspect(arguments: Any) -> None:
    path = Path(arguments.run)
    if path.suffix in (".yaml", ".yml"):
        print(json.dumps(to_plain(load_config(path)), indent=2))
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
