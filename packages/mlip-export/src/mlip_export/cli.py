"""The command mlip-export: compile, inspect, check, bench and lammps."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence

from mlip_export import __version__


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; errors a user can mend are one line on stderr and exit status 1.

    Parameters
    ----------
    arguments : sequence of str, optional
        By default those of the process.

    Returns
    -------
    int
        Exit status.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except (OSError, ValueError, TypeError, RuntimeError, ImportError) as e:
        print(f"mlip-export {options.command}: {e}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mlip-export", description="One package of a potential for every host."
    )
    parser.add_argument("--version", action="version", version=f"mlip-export {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)

    p = commands.add_parser(
        "compile", help="compile a model file into a package, checked before it is written"
    )
    p.add_argument("model", help="model file (safetensors) written by mlip-train or localgraph.save_model")
    p.add_argument("-o", "--output", required=True, help="package to write, ending in .pt2")
    p.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    p.add_argument(
        "--dtype", choices=["float32", "float64"], help="precision of the network (default: the model's)"
    )
    p.add_argument(
        "--isa",
        default="native",
        choices=["native", "avx512", "avx2"],
        help="instruction set (cpu): of this very processor, or one that others run too (torch 2.13)",
    )
    p.set_defaults(run=_compile)

    p = commands.add_parser("inspect", help="print what a package says about itself; runs nothing of it")
    p.add_argument("package")
    p.add_argument("--json", action="store_true", help="the whole record as JSON")
    p.set_defaults(run=_inspect)

    p = commands.add_parser(
        "check", help="say whether a package runs here, and compare it with its model file"
    )
    p.add_argument("package")
    p.add_argument("--model", help="model file to compare with")
    p.set_defaults(run=_check)

    p = commands.add_parser("bench", help="time energy and forces of a package on a structure")
    p.add_argument("package")
    p.add_argument("structure", help="any file that ASE reads")
    p.add_argument("--repeats", type=int, default=10)
    p.add_argument("--threads", type=int, nargs="*", help="thread counts to try (default: the current one)")
    p.set_defaults(run=_bench)

    p = commands.add_parser("lammps", help="build the LAMMPS plugin, or write its lines of an input")
    actions = p.add_subparsers(dest="action", required=True)
    a = actions.add_parser("build", help="compile the plugin unless it exists")
    a.add_argument("--force", action="store_true", help="compile again")
    a.set_defaults(run=_lammps_build)
    a = actions.add_parser("status", help="versions, compiler, mpi.h, and whether the plugin is built")
    a.set_defaults(run=_lammps_status)
    a = actions.add_parser("input", help="print the mass and pair_coeff lines for a data file")
    a.add_argument("model", help="exported model (.pt2)")
    a.add_argument("data", help="LAMMPS data file")
    a.add_argument("--elements", nargs="+", help="element of each atom type (default: from labels or masses)")
    a.set_defaults(run=_lammps_input)
    a = actions.add_parser("path", help="print the folder of the plugin")
    a.set_defaults(run=_lammps_path)
    a = actions.add_parser("sources", help="print the folder of the C++ sources, CMakeLists.txt and examples")
    a.set_defaults(run=_lammps_sources)
    return parser


def _compile(options: argparse.Namespace) -> int:
    from mlip_export.package import compile
    from mlip_export.report import describe

    metadata = compile(
        options.model, options.output, device=options.device, dtype=options.dtype, isa=options.isa
    )
    print(f"wrote {options.output}")
    print(describe(metadata))
    return 0


def _inspect(options: argparse.Namespace) -> int:
    import json
    from dataclasses import asdict

    from mlip_export.metadata import read_metadata
    from mlip_export.report import describe

    metadata = read_metadata(options.package)
    print(json.dumps(asdict(metadata), indent=1) if options.json else describe(metadata))
    return 0


def _check(options: argparse.Namespace) -> int:
    from mlip_export.check import check

    print(check(options.package, options.model))
    return 0


def _bench(options: argparse.Namespace) -> int:
    from mlip_export.bench import bench

    print(bench(options.package, options.structure, options.repeats, options.threads))
    return 0


def _lammps_build(options: argparse.Namespace) -> int:
    from mlip_export.lammps import build

    print(build(force=options.force))
    return 0


def _lammps_status(options: argparse.Namespace) -> int:
    from mlip_export.lammps import status

    print(status())
    return 0


def _lammps_input(options: argparse.Namespace) -> int:
    from mlip_export.lammps import input_lines

    print(input_lines(options.model, options.data, options.elements))
    return 0


def _lammps_path(options: argparse.Namespace) -> int:
    from mlip_export.lammps import plugin_directory

    print(plugin_directory())
    return 0


def _lammps_sources(options: argparse.Namespace) -> int:
    from mlip_export.lammps import sources

    print(sources())
    return 0


if __name__ == "__main__":
    sys.exit(main())
