"""Command line of mlip-export: the parser and its error handling."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from typing import Any

from mlip_export import __version__, commands

EPILOG = """examples:
  mlip-export compile model.safetensors -o model.pt2
  mlip-export info model.pt2
  mlip-export lammps build

exit status: 0 success, 2 error (one line on standard error), 130 interrupted
"""
COMMANDS = {
    "compile": (
        "Compile a model file into an exported model, compared with eager before writing.",
        """\
  mlip-export compile model.safetensors                     writes model.pt2
  mlip-export compile model.safetensors --dtype float32 -o fast.pt2
  mlip-export compile model.safetensors --isa avx2          for a cluster of different processors
  mlip-export compile nequip.net:mir-group/Allegro-OAM-L:0.1          downloads it once""",
    ),
    "fetch": (
        "Download a published model into the cache, once, and print where it is.",
        """\
  mlip-export fetch                                         lists the names
  mlip-export fetch nequip.net:mir-group/Allegro-OAM-L:0.1
  mlip-export fetch nequip.net:mir-group/Allegro-OAM-L:0.1 --mirror https://models.example.org""",
    ),
    "info": (
        "Print the metadata of an exported model; none of its code runs.",
        """\
  mlip-export info model.pt2
  mlip-export info model.pt2 --json""",
    ),
    "check": (
        "Check that an exported model runs here, and compare it with its model file.",
        """\
  mlip-export check model.pt2
  mlip-export check model.pt2 --model model.safetensors""",
    ),
    "bench": (
        "Time energy and forces of an exported model on a structure.",
        """\
  mlip-export bench model.pt2 water.xyz --threads 1 2""",
    ),
    "select": (
        "Choose frames to label: large spread of a committee, far from one another.",
        """\
  mlip-export select run.traj --models a.pt2 b.pt2 -n 50 -o selected.xyz
  mlip-export select run.xyz --models a.pt2 b.pt2 -n 20 --at-least 0.1 --every 10 -o selected.xyz""",
    ),
    "lammps": (
        "Build the LAMMPS plugin, or print lines of an input.",
        """\
  mlip-export lammps build                                  once per version of torch and LAMMPS
  mlip-export lammps status
  mlip-export lammps input model.pt2 data.water             prints mass, pair_style and pair_coeff
  mlip-export lammps input model.pt2 data.water --elements O H""",
    ),
}
"""Purpose and examples."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command and return the exit status; user errors are one line on standard error and status 2."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = build_parser().parse_args(arguments)
    try:
        options.run(options)
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as e:
        print(f"mlip-export {options.command}: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"mlip-export {options.command}: interrupted", file=sys.stderr)
        return 130
    return 0


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


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="mlip-export",
        description="Export a potential to one compiled file that runs in ASE, LAMMPS, OpenMM and torch-sim.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"mlip-export {__version__}")
    parser.add_argument(
        "--print-completion",
        action=_PrintCompletion,
        choices=("bash", "zsh"),
        help="print the shell's completion script (needs shtab)",
    )
    sub = parser.add_subparsers(dest="command", required=True)
    _add_compile(_add(sub, "compile", commands.compile))
    _add_fetch(_add(sub, "fetch", commands.fetch))
    p = _add(sub, "info", commands.info)
    p.add_argument("model", help="exported model (.pt2)")
    p.add_argument("--json", action="store_true", help="print all metadata as JSON")
    p = _add(sub, "check", commands.check)
    p.add_argument("exported", help="exported model (.pt2)")
    p.add_argument("--model", help="model file to compare with")
    p = _add(sub, "bench", commands.bench)
    p.add_argument("model", help="exported model (.pt2)")
    p.add_argument("structure", help="any file that ASE reads")
    p.add_argument(
        "--repeats", type=int, default=10, help="evaluations; the best time is reported (default: 10)"
    )
    p.add_argument("--threads", type=int, nargs="*", help="thread counts to try (default: the current one)")
    _add_select(_add(sub, "select", commands.select))
    _add_lammps(_add(sub, "lammps", commands.lammps))
    return parser


def _add(
    sub: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    run: Callable[[argparse.Namespace], None],
) -> argparse.ArgumentParser:
    text, examples = COMMANDS[name]
    parser = sub.add_parser(
        name,
        help=text,
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)
    return parser


def _add_compile(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "model",
        help="model file (safetensors) written by mlip-train or localgraph.save_model, a file that an importer "
        "reads, or the name of a published model",
    )
    p.add_argument(
        "-o", "--output", help="file to write, ending in .pt2 (default: the model's name with .pt2)"
    )
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument(
        "--dtype", choices=["float32", "float64"], help="dtype of weights and features (default: the model's)"
    )
    p.add_argument(
        "--isa",
        default="native",
        choices=["native", "avx512", "avx2"],
        help="native: this CPU; avx2/avx512: portable to CPUs that have it (torch 2.13)",
    )
    p.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "tf32", "bf16"],
        help="operand precision of float32 matrix multiplications: float32, tf32 (CUDA) or bf16 (CPU with "
        "AVX-512 BF16/AMX)",
    )
    p.add_argument(
        "--fused",
        action="store_true",
        help="one kernel per layer whose hidden layers stay on chip (CUDA with --precision tf32)",
    )
    p.add_argument(
        "--two-body-table",
        type=float,
        nargs="?",
        const=1e-7,
        metavar="ERROR",
        help="tabulate what depends on an edge's length and types alone, with a force error of at most ERROR, 1e-9 to "
        "1e-6 eV/Å (1e-7 without a number); faster for models with narrow layers",
    )
    p.add_argument(
        "--chained",
        default="no",
        choices=["no", "yes", "measured"],
        help="one kernel per pair of hidden layers (CUDA): no (default), yes, or measured, if the program is faster so",
    )


def _add_fetch(p: argparse.ArgumentParser) -> None:
    p.add_argument("name", nargs="?", help="name of the model; without one, list the names")
    p.add_argument("--cache", help="folder of the files (default: $MLIP_CACHE, or mlip in the user's cache)")
    p.add_argument(
        "--mirror", action="append", default=[], help="URL of a folder that has the file too, tried first"
    )


def _add_select(p: argparse.ArgumentParser) -> None:
    p.add_argument("trajectory", help="file of frames that ASE reads")
    p.add_argument(
        "--models", nargs="+", required=True, help="exported models of the committee, at least two"
    )
    p.add_argument("-n", "--count", type=int, required=True, help="largest number of frames")
    p.add_argument("--at-least", type=float, default=0.0, help="smallest force spread of a frame, eV/Å")
    p.add_argument("--every", type=int, default=1, help="use every Nth frame (default: 1)")
    p.add_argument(
        "-o", "--output", required=True, help="file of the chosen frames, in a format that ASE writes"
    )


def _add_lammps(parser: argparse.ArgumentParser) -> None:
    actions = parser.add_subparsers(dest="action", required=True)
    build = actions.add_parser("build", help="compile the plugin unless it exists")
    build.add_argument("--force", action="store_true", help="compile again")
    lines = actions.add_parser(
        "input", help="print the mass, pair_style and pair_coeff lines for a data file"
    )
    lines.add_argument("model", help="exported model (.pt2)")
    lines.add_argument("data", help="LAMMPS data file")
    lines.add_argument("--elements", nargs="+", help="element of each atom type (default: by label or mass)")
    for name, text in (
        ("status", "print versions, compiler, mpi.h, and whether the plugin is built"),
        ("path", "print the folder of the plugin"),
        ("sources", "print the folder of the C++ sources, CMakeLists.txt and examples"),
    ):
        actions.add_parser(name, help=text)


if __name__ == "__main__":
    sys.exit(main())
