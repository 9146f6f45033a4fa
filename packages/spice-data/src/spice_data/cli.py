"""Command line of spice-data: the parser and its error handling."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from spice_data import __version__, commands
from spice_data.download import RetryPolicy
from spice_data.units import ENERGY, LENGTH, STRESS

FILE = "SPICE file, store, file that ASE reads, or 'example'"
EXAMPLES = """examples:
  spice-data download 2.0.1 -o data
  spice-data info example
  spice-data convert example -o neutral.store --neutral --no-isolated-atoms 6
  spice-data convert a.xyz b.xyz -o ours.store --energy-key REF_energy --forces-key REF_forces
  spice-data split neutral.store -o split.json --by molecule
  spice-data check neutral.store

'example' is a small SPICE file that ships with the package.
exit status: 0 success, 2 error (one line on standard error), 130 interrupted
"""


class _PrintCompletion(argparse.Action):
    """Print the completion script of a shell and exit."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: object,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        try:
            import shtab
        except ImportError:
            raise argparse.ArgumentError(self, "needs shtab: pip install shtab") from None
        parsers = [parser]
        for p in parsers:
            for action in p._actions:
                if isinstance(action, argparse._SubParsersAction):
                    parsers += action.choices.values()
                elif action.nargs != 0 and not action.choices:
                    action.complete = shtab.FILE  # type: ignore[attr-defined]
        print(shtab.complete(parser, values))
        parser.exit()


def _add(
    sub: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, example: str
) -> argparse.ArgumentParser:
    parser = sub.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"examples:\n  spice-data {name} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quiet", action="store_true", default=argparse.SUPPRESS, help="no progress bars")
    return parser


def _add_filters(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("filters of a SPICE file, applied in this order")
    group.add_argument(
        "--subset", action="append", metavar="PATTERN", help="keep subsets, e.g. 'SPICE Dipeptides*'"
    )
    group.add_argument("--elements", nargs="+", metavar="SYMBOL", help="keep molecules made only of these")
    group.add_argument("--neutral", action="store_true", help="keep molecules of total charge zero")
    group.add_argument("--neutral-atoms", action="store_true", help="keep molecules without any charged atom")
    group.add_argument(
        "--max-force",
        type=float,
        metavar="FORCE",
        help="drop frames with a force component above this, eV/Å",
    )
    group.add_argument(
        "--no-isolated-atoms",
        type=float,
        metavar="RADIUS",
        help="drop frames with an atom that has no neighbor within RADIUS Å",
    )


def _add_labels(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("labels of files that ASE reads")
    for name in ("energy", "forces", "stress", "virial"):
        group.add_argument(f"--{name}-key", metavar="KEY", default=name, help=f"by default {name!r}")
    group.add_argument("--energy-unit", choices=ENERGY, default="eV")
    group.add_argument("--length-unit", choices=LENGTH, default="angstrom")
    group.add_argument("--stress-unit", choices=STRESS, default="eV/angstrom^3")
    group.add_argument("--partial-labels", action="store_true", help="allow frames without energy or forces")
    group.add_argument("--format", help="ASE's name of the file format")
    group.add_argument("--index", default=":", metavar="START:STOP:STEP", help="frames of each file to read")
    group.add_argument("--workers", type=int, default=0, help="processes that parse extended XYZ")


def _add_download(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _add(sub, "download", "download a released file; continue an interrupted download", "2.0.1 -o data")
    p.add_argument("release", nargs="?", default="2.0.1", help="see --list")
    p.add_argument("-o", "--output", type=Path, default=Path("."), metavar="FOLDER", help="existing folder")
    p.add_argument("--list", action="store_true", help="list the releases")
    p.add_argument("--mirror", action="append", default=[], metavar="URL", help="try this URL first")
    p.add_argument("--proxy", help="proxy URL; by default the environment's")
    p.add_argument("--timeout", type=float, default=RetryPolicy().timeout, help="seconds without a byte")
    p.add_argument(
        "--attempts", type=int, default=RetryPolicy().attempts, help="attempts without progress per mirror"
    )
    p.add_argument("--wait", action="store_true", help="wait for a process that downloads the same file")
    p.set_defaults(run=commands.download_release)


def _add_convert(sub: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    p = _add(
        sub, "convert", "convert files to a store, or a store to extended XYZ", "a.xyz b.xyz -o ours.store"
    )
    p.add_argument(
        "source", nargs="+", help="SPICE file, 'example', selection (.json), files ASE reads, or a store"
    )
    p.add_argument("-o", "--output", type=Path, required=True, help="store, or .xyz for a store's frames")
    p.add_argument("--overwrite", action="store_true", help="replace an existing file")
    p.add_argument("--wait", action="store_true", help="wait for a process that writes the same store")
    _add_filters(p)
    _add_labels(p)
    p.set_defaults(run=commands.convert_files)


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="spice-data",
        description="Download, check, filter, convert and split data for training interatomic potentials.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"spice-data {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        help="print the shell's completion script (needs shtab)",
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    sub = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")

    _add_download(sub)

    p = _add(sub, "info", "print the contents of a file or a store", "example")
    p.add_argument("file", help=FILE)
    _add_labels(p)
    p.set_defaults(run=commands.info)

    p = _add(
        sub, "check", "check every group or frame of a file, or the checksums of a store", "neutral.store"
    )
    p.add_argument("file", help=FILE)
    p.add_argument("--no-md5", action="store_true", help="skip size and md5 of a released file")
    _add_labels(p)
    p.set_defaults(run=commands.check)

    p = _add(sub, "select", "apply filters and print what each removed", "example --neutral -o neutral.json")
    p.add_argument("file", help="SPICE file or 'example'")
    p.add_argument("-o", "--output", type=Path, help="selection file (JSON)")
    _add_filters(p)
    p.set_defaults(run=commands.select_frames)

    _add_convert(sub)

    p = _add(
        sub, "split", "divide a store's frames into train, val and test", "a.store -o split.json --seed 1"
    )
    p.add_argument("store", type=Path)
    p.add_argument("-o", "--output", type=Path, required=True, help="split file (JSON)")
    p.add_argument("--ratios", default="90:5:5", help="by default 90:5:5")
    p.add_argument("--by", choices=("frame", "molecule"), default="frame")
    p.add_argument("--seed", type=int, default=0)
    p.set_defaults(run=commands.split_store)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status; user errors are one line on standard error and status 2."""
    a = build_parser().parse_args(arguments)
    bars: list[commands.ProgressBar] = []

    def bar(label: str, unit: str) -> commands.ProgressBar:
        bars.append(commands.ProgressBar(label, unit, a.quiet))
        return bars[-1]

    error, status = "", 0
    try:
        a.run(a, bar)
    except (ValueError, OSError, ImportError) as e:
        error, status = str(e), 2
    except KeyboardInterrupt:
        error, status = "interrupted; the same command continues", 130
    for shown in bars:
        shown.close()
    if error:
        print(f"spice-data {a.command}: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
