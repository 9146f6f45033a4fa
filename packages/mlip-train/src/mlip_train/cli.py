"""The command line: mlip-train new, fit, check, evaluate and info."""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from jsonargparse import ArgumentParser

import localgraph
from mlip_train import __version__
from mlip_train.config.checks import LABELS, is_spice
from mlip_train.config.data import BatchConfig, SourceConfig
from mlip_train.config.help import Formatter, add_keys, overrides
from mlip_train.config.load import from_plain, load_config, to_plain
from mlip_train.steps.verify import CompileError
from mlip_train.training import checkpoint

EPILOG = """examples:
  mlip-train new data.xyz -o run.yaml
  mlip-train check run.yaml
  mlip-train fit run.yaml optimizer.lr=0.002 -o run2
  mlip-train evaluate run2 test.xyz

exit status: 0 success, 2 error (one line on standard error), 128 + signal if interrupted (Ctrl-C: 130)
"""
EXAMPLES = {
    "new": """\
examples:
  mlip-train new data.xyz                    writes run.yaml, with comments
  mlip-train new data.xyz -o water.yaml""",
    "fit": """\
examples:
  mlip-train fit run.yaml
  mlip-train fit run.yaml optimizer.lr=0.002 --stop.epochs 20 -o run2
  mlip-train fit run.yaml data.train.0.path=other.xyz --dry-run""",
    "check": """\
examples:
  mlip-train check run.yaml
  mlip-train check run.yaml batch.atoms=4000""",
    "evaluate": """\
examples:
  mlip-train evaluate run                    the test data of the run in folder run
  mlip-train evaluate run test.xyz -o errors
  mlip-train evaluate model.safetensors test.xyz""",
    "info": """\
examples:
  mlip-train info run.yaml
  mlip-train info run/model.safetensors
  mlip-train info run/checkpoint.safetensors""",
}


def main(arguments: list[str] | None = None) -> int:
    """Run a command; user errors are one line on stderr with exit status 2, an interrupted run gives 128 + signal."""
    log = logging.getLogger("mlip_train")
    handler = logging.StreamHandler(sys.stderr)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        return _main(arguments)
    finally:
        log.removeHandler(handler)


def _main(arguments: list[str] | None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    given: list[str] = []
    command = next((a for a in arguments if a in EXAMPLES), "")
    try:
        if command in ("fit", "check"):
            given, arguments = overrides(arguments)
        namespace = build_parser().parse_args(_options_last(arguments))
        command = namespace.command
        options = namespace[command]
        {"new": _new, "fit": _fit, "check": _check, "evaluate": _evaluate, "info": _info}[command](
            options, given
        )
    except KeyboardInterrupt as e:
        signum = getattr(e, "signum", signal.SIGINT)
        print(f"mlip-train {command}: {e or 'SIGINT: stopped'}", file=sys.stderr)
        return 128 + signum
    except (ValueError, OSError, ImportError, ArithmeticError, CompileError, argparse.ArgumentError) as e:
        print(f"{' '.join(filter(None, ('mlip-train', command)))}: {e}", file=sys.stderr)
        return 2
    return 0


def _options_last(arguments: list[str]) -> list[str]:
    """Move options behind the positional arguments, for argparse takes no list in two parts."""
    plain: list[str] = []
    options: list[str] = []
    rest = iter(arguments)
    for item in rest:
        if item.startswith("-"):
            options += [item, *itertools.islice(rest, int(item in ("-o", "--output", "--print-completion")))]
        else:
            plain.append(item)
    return plain + options


class _PrintCompletion(argparse.Action):
    """Print the completion script of a shell and exit."""

    def __call__(self, parser: Any, namespace: object, values: Any, option_string: str | None = None) -> None:
        try:
            import shtab
        except ImportError:
            raise argparse.ArgumentError(self, "needs shtab: pip install shtab") from None
        (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
        for command in commands.choices.values():
            for action in command._actions:
                if not action.option_strings or action.dest in ("o", "output", "model.start_from"):
                    action.complete = shtab.FILE
        print(parser.get_completion_script(f"shtab-{values}"))
        raise SystemExit(0)


def build_parser() -> ArgumentParser:
    """Return the parser of the command line."""
    parser = ArgumentParser(
        prog="mlip-train",
        description="Train interatomic potentials: any model registered under entry point mlip.models.",
        epilog=EPILOG,
        formatter_class=Formatter,
        exit_on_error=False,
    )
    parser.add_argument(
        "--version", action="version", version=f"mlip-train {__version__}", help="show version"
    )
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        default=argparse.SUPPRESS,
        help="print the shell's completion script (needs shtab)",
    )
    commands = parser.add_subcommands(dest="command")

    def add(name: str, description: str, usage: str) -> ArgumentParser:
        command = ArgumentParser(
            description=description,
            usage=f"mlip-train {name} {usage}",
            epilog=EXAMPLES[name],
            exit_on_error=False,
        )
        commands.add_subcommand(name, command, help=description)
        return command

    new = add("new", "Look at a file of structures and write a configuration for it.", "DATA [-o RUN.yaml]")
    new.add_argument("data", type=str, help="a file of structures with energies and forces that ASE reads")
    new.add_argument(
        "-o", "--output", type=str, default="run.yaml", help="the file to write", metavar="RUN.yaml"
    )
    fit = add(
        "fit", "Train a model from a YAML configuration.", "RUN.yaml [KEY=VALUE ...] [-o FOLDER] [--dry-run]"
    )
    check = add(
        "check",
        "Check data, elements, labels and memory of a run; train nothing.",
        "RUN.yaml [KEY=VALUE ...]",
    )
    for command in (fit, check):
        command.add_argument("run", type=str, help="the run's YAML file")
    fit.add_argument("-o", type=str, default=None, help="the same as --output", metavar="FOLDER")
    fit.add_argument("--dry-run", action="store_true", help="the same as mlip-train check")
    add_keys(fit)
    evaluate = add("evaluate", "Evaluate a trained model on labeled frames.", "RUN [DATA ...] [-o FOLDER]")
    evaluate.add_argument("run", type=str, help="the run's YAML file, its output folder, or a model file")
    evaluate.add_argument("data", type=str, nargs="*", help="files of frames; by default the run's test data")
    evaluate.add_argument(
        "-o",
        "--output",
        type=str,
        default=None,
        help="where errors and figures go (default: beside the model)",
    )
    info = add("info", "Show a configuration, model file or checkpoint.", "FILE")
    info.add_argument("run", type=str, help="a YAML file, a model file, a checkpoint, or a run's folder")
    return parser


def _new(arguments: Any, _: list[str]) -> None:
    from mlip_train.new import suggest

    text, path = suggest(arguments.data), Path(arguments.output)
    if path.exists():
        raise ValueError(f"output must be a file that does not exist, got {arguments.output!r}")
    path.write_text(text)
    print(f"{text}\n{path}: next, mlip-train check {path}")


def _fit(arguments: Any, given: list[str]) -> None:
    from mlip_train.fit import fit
    from mlip_train.report.html import error_rows, text_table
    from mlip_train.training.trainer import is_first

    given = [*given, *([] if arguments.o is None else [f"output={json.dumps(arguments.o)}"])]
    if arguments.dry_run:
        _check(arguments, given)
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


def _check(arguments: Any, given: list[str]) -> None:
    from mlip_train.fit import dry_run

    print(json.dumps(dry_run(load_config(arguments.run, given)), indent=2))


def _evaluate(arguments: Any, _: list[str]) -> None:
    from mlip_train.data.batches import label_weights
    from mlip_train.data.build import build_table
    from mlip_train.report.evaluate import evaluate
    from mlip_train.report.html import error_rows, errors_by_element, parity, text_table, write_report
    from mlip_train.report.predictions import element_rows, predictions, worst_rows

    path, sources = _model_and_sources(Path(arguments.run))
    if arguments.data:
        sources = ()
    elif not sources:
        raise ValueError("data must be files of frames, or run must have data.test, got neither")
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
    budget = from_plain(BatchConfig, to_plain(batch) | grown)
    with predictions(folder, table) as frames:
        result = evaluate(model, table, shifts, None, budget, each=frames.add)
    (folder / "evaluation.json").write_text(json.dumps(result.tables, indent=2) + "\n")
    images = [folder / "parity.png", folder / "elements.png"]
    parity(result, images[0], path.name)
    errors_by_element(result, images[1], path.name)
    write_report(
        folder / "evaluation.html",
        f"Evaluation of {path.name}",
        {"all": result},
        images,
        {"Files": table.files},
    )
    for rows in (error_rows(result.tables), element_rows(result.tables), worst_rows(frames)):
        print(f"{text_table(rows)}\n")
    print(f"frames: {folder / 'predictions.xyz'}, {folder / 'predictions.csv'}")


def _sources(paths: list[str], data: dict[str, Any]) -> tuple[SourceConfig, ...]:
    """Files to be read as the run read its own: with the keys and scales of its files that ASE reads."""
    read = [
        s for part in ("train", "validation", "test") for s in data.get(part, []) if not is_spice(s["path"])
    ]
    labels = {tuple(s[name] for name in LABELS) for s in read}
    if len(labels) > 1 and not all(is_spice(p) for p in paths):
        raise ValueError(
            f"data must be files of a run with one set of label keys and scales, got {paths} and {list(labels)} "
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


def _info(arguments: Any, _: list[str]) -> None:
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


if __name__ == "__main__":
    raise SystemExit(main())
