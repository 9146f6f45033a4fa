"""Command line of mlip-train: the parser and its error handling."""

from __future__ import annotations

import argparse
import itertools
import logging
import signal
import sys
from typing import Any, NamedTuple

from jsonargparse import ArgumentParser

from mlip_train import __version__, commands
from mlip_train.config.help import Formatter, add_keys, overrides
from mlip_train.steps.errors import CompileError

EPILOG = """examples:
  mlip-train new data.xyz -o run.yaml
  mlip-train check run.yaml
  mlip-train fit run.yaml optimizer.lr=0.002 -o run2
  mlip-train evaluate run2 test.xyz

exit status: 0 success, 2 error (one line on standard error), 128 + signal if interrupted (Ctrl-C: 130)
"""


class Command(NamedTuple):
    """Texts of the help of a command."""

    description: str
    usage: str
    examples: str


COMMANDS = {
    "new": Command(
        "Look at a file of structures and write a configuration for it.",
        "DATA [-o RUN.yaml]",
        """\
  mlip-train new data.xyz                    writes run.yaml, with comments
  mlip-train new data.xyz -o water.yaml""",
    ),
    "fit": Command(
        "Train a model from a YAML configuration.",
        "RUN.yaml [KEY=VALUE ...] [-o FOLDER] [--dry-run]",
        """\
  mlip-train fit run.yaml
  mlip-train fit run.yaml optimizer.lr=0.002 --stop.epochs 20 -o run2
  mlip-train fit run.yaml data.train.0.path=other.xyz --dry-run""",
    ),
    "check": Command(
        "Check data, elements, labels and memory of a run; train nothing.",
        "RUN.yaml [KEY=VALUE ...]",
        """\
  mlip-train check run.yaml
  mlip-train check run.yaml batch.atoms=4000""",
    ),
    "evaluate": Command(
        "Evaluate a trained model on labeled frames.",
        "RUN [DATA ...] [-o FOLDER]",
        """\
  mlip-train evaluate run                    the test data of the run in folder run
  mlip-train evaluate run test.xyz -o errors
  mlip-train evaluate model.safetensors test.xyz""",
    ),
    "info": Command(
        "Show a configuration, model file or checkpoint.",
        "FILE",
        """\
  mlip-train info run.yaml
  mlip-train info run/model.safetensors
  mlip-train info run/checkpoint.safetensors""",
    ),
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
    command = next((a for a in arguments if a in COMMANDS), "")
    try:
        if command in ("fit", "check"):
            given, arguments = overrides(arguments)
        namespace = build_parser().parse_args(_options_last(arguments))
        command = namespace.command
        options = namespace[command]
        getattr(commands, command)(options, given)
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
    added = parser.add_subcommands(dest="command")
    parsers = {}
    for name, (description, usage, examples) in COMMANDS.items():
        parsers[name] = ArgumentParser(
            description=description,
            usage=f"mlip-train {name} {usage}",
            epilog=f"examples:\n{examples}",
            exit_on_error=False,
        )
        added.add_subcommand(name, parsers[name], help=description)
    new, fit, check, evaluate, info = parsers.values()
    new.add_argument("data", type=str, help="a file of structures with energies and forces that ASE reads")
    new.add_argument(
        "-o", "--output", type=str, default="run.yaml", help="the file to write", metavar="RUN.yaml"
    )
    for command in (fit, check):
        command.add_argument("run", type=str, help="the run's YAML file")
    fit.add_argument("-o", type=str, default=None, help="the same as --output", metavar="FOLDER")
    fit.add_argument("--dry-run", action="store_true", help="the same as mlip-train check")
    add_keys(fit)
    evaluate.add_argument("run", type=str, help="the run's YAML file, its output folder, or a model file")
    evaluate.add_argument("data", type=str, nargs="*", help="files of frames; by default the run's test data")
    output = "where errors and figures go (default: beside the model)"
    evaluate.add_argument("-o", "--output", type=str, default=None, help=output)
    info.add_argument("run", type=str, help="a YAML file, a model file, a checkpoint, or a run's folder")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
