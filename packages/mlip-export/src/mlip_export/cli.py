"""The command mlip-export."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlip_export import __version__

EPILOG = """examples:
  mlip-export compile model.safetensors -o model.pt2
  mlip-export info model.pt2
  mlip-export lammps build

exit status: 0 success, 2 error (one line on standard error), 130 interrupted
"""
EXAMPLES = {
    "compile": """\
examples:
  mlip-export compile model.safetensors                     writes model.pt2
  mlip-export compile model.safetensors --dtype float32 -o fast.pt2
  mlip-export compile model.safetensors --isa avx2          for a cluster of different processors
  mlip-export compile nequip.net:mir-group/Allegro-OAM-L:0.1          downloads it once""",
    "fetch": """\
examples:
  mlip-export fetch                                         lists the names
  mlip-export fetch nequip.net:mir-group/Allegro-OAM-L:0.1
  mlip-export fetch nequip.net:mir-group/Allegro-OAM-L:0.1 --mirror https://models.example.org""",
    "info": """\
examples:
  mlip-export info model.pt2
  mlip-export info model.pt2 --json""",
    "check": """\
examples:
  mlip-export check model.pt2
  mlip-export check model.pt2 --model model.safetensors""",
    "bench": """\
examples:
  mlip-export bench model.pt2 water.xyz --threads 1 2""",
    "select": """\
examples:
  mlip-export select run.traj --models a.pt2 b.pt2 -n 50 -o selected.xyz
  mlip-export select run.xyz --models a.pt2 b.pt2 -n 20 --at-least 0.1 --every 10 -o selected.xyz""",
    "lammps": """\
examples:
  mlip-export lammps build                                  once per version of torch and LAMMPS
  mlip-export lammps status
  mlip-export lammps input model.pt2 data.water             prints mass, pair_style and pair_coeff
  mlip-export lammps input model.pt2 data.water --elements O H""",
}


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
    commands = parser.add_subparsers(dest="command", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], None] | None, text: str
    ) -> argparse.ArgumentParser:
        p = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=EXAMPLES[name],
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        p.set_defaults(run=run)
        return p

    p = add(
        "compile",
        _compile,
        "Compile a model file into an exported model, compared with eager before writing.",
    )
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
    p = add("fetch", _fetch, "Download a published model into the cache, once, and print where it is.")
    p.add_argument("name", nargs="?", help="name of the model; without one, list the names")
    p.add_argument("--cache", help="folder of the files (default: $MLIP_CACHE, or mlip in the user's cache)")
    p.add_argument(
        "--mirror", action="append", default=[], help="URL of a folder that has the file too, tried first"
    )
    p = add("info", _info, "Print the metadata of an exported model; none of its code runs.")
    p.add_argument("model", help="exported model (.pt2)")
    p.add_argument("--json", action="store_true", help="print all metadata as JSON")
    p = add("check", _check, "Check that an exported model runs here, and compare it with its model file.")
    p.add_argument("exported", help="exported model (.pt2)")
    p.add_argument("--model", help="model file to compare with")
    p = add("bench", _bench, "Time energy and forces of an exported model on a structure.")
    p.add_argument("model", help="exported model (.pt2)")
    p.add_argument("structure", help="any file that ASE reads")
    p.add_argument(
        "--repeats", type=int, default=10, help="evaluations; the best time is reported (default: 10)"
    )
    p.add_argument("--threads", type=int, nargs="*", help="thread counts to try (default: the current one)")
    p = add("select", _select, "Choose frames to label: large spread of a committee, far from one another.")
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
    _add_lammps(add("lammps", None, "Build the LAMMPS plugin, or print lines of an input."))
    return parser


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
    parser.set_defaults(run=_lammps)


def _compile(options: argparse.Namespace) -> None:
    from mlip_export._compile import compile
    from mlip_export._describe import describe

    output = options.output or _default_output(options.model)
    metadata = compile(
        options.model,
        output,
        device=options.device,
        dtype=options.dtype,
        isa=options.isa,
        precision=options.precision,
    )
    print(f"wrote {output}")
    print(describe(metadata))


def _default_output(model: str) -> Path:
    """Return the name of the exported model: that of the model file, or of a published model in this folder."""
    from localgraph import is_published_name

    if is_published_name(model):
        return Path(f"{model.rpartition('/')[2].replace(':', '-')}.pt2")
    return Path(model).with_suffix(".pt2")


def _fetch(options: argparse.Namespace) -> None:
    from localgraph import fetch, published

    known = published()
    if options.name is None:
        for entry in known.values():
            print(f"{entry.name}\n    {entry.file}, license {entry.license}, {entry.source}")
        return
    path = fetch(options.name, cache=options.cache, mirrors=options.mirror)
    print(f"license {known[options.name].license}, {known[options.name].source}\n{path}")


def _info(options: argparse.Namespace) -> None:
    import json
    from dataclasses import asdict

    from mlip_export._describe import describe
    from mlip_export.model_file import read_metadata

    metadata = read_metadata(options.model)
    print(json.dumps(asdict(metadata), indent=1) if options.json else describe(metadata))


def _check(options: argparse.Namespace) -> None:
    from mlip_export._check import check

    print(check(options.exported, options.model))


def _bench(options: argparse.Namespace) -> None:
    from mlip_export._bench import bench

    print(bench(options.model, options.structure, options.repeats, options.threads))


def _select(options: argparse.Namespace) -> None:
    import ase.io

    from mlip_export._select import read_frames, select

    found = select(
        options.trajectory, options.models, options.count, at_least=options.at_least, every=options.every
    )
    spread_of = dict(zip(found.frames, found.spreads, strict=True))
    chosen = []
    for index, atoms in read_frames(options.trajectory):
        if index in spread_of:
            atoms.calc = None  # labels of the run are not those of the reference method
            atoms.info.update(frame=index, force_spread=spread_of[index])
            chosen.append(atoms)
    ase.io.write(options.output, chosen)
    print(
        f"wrote {len(chosen)} frames to {options.output} ({options.count} asked for, {found.evaluated} evaluated, "
        f"{found.skipped} skipped for overlapping atoms), force spread {min(found.spreads):.3g} to "
        f"{max(found.spreads):.3g} eV/Å"
    )


def _lammps(options: argparse.Namespace) -> None:
    from mlip_export import lammps

    actions: dict[str, Callable[[], Any]] = {
        "build": lambda: lammps.build(force=options.force),
        "input": lambda: lammps.input_lines(options.model, options.data, options.elements),
        "status": lammps.status,
        "path": lammps.plugin_directory,
        "sources": lammps.sources,
    }
    print(actions[options.action]())


if __name__ == "__main__":
    sys.exit(main())
