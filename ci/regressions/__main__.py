"""The regression checker.

    python -m ci.regressions counters compare | update [--only TEXT]   # exact; any difference fails
    python -m ci.regressions registers                        # of every Triton kernel, recorded again (an hour)
    python -m ci.regressions ratios RUN.json [AGAIN.json] [--update] [--record FILE]
    python -m ci.regressions keep RUN.json COMMAND            # into benchmarks/results/runs, to be plotted
    python -m ci.regressions page [--output FILE]             # the history of every tracked figure

Exit status: 0, nothing worse; 1, a regression; 3, a ratio that asks for one rerun.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from ci.regressions import counters, page, ratios, runs

REGRESSION, AGAIN = 1, 3


def count(options: argparse.Namespace) -> int:
    """Compare or update the exact counters."""
    if options.what == "update":
        counters.update(options.only)
        return 0
    lines = counters.compare(options.only)
    print("\n".join(lines) or "every counter is as recorded")
    if lines:
        print(f"If this is meant, record it: {counters.UPDATE}")
    return REGRESSION if lines else 0


def record_registers(options: argparse.Namespace) -> int:
    """Record registers and spills of the Triton kernels."""
    from ci.regressions import registers  # imports Triton

    registers.update()
    return 0


def check_ratios(options: argparse.Namespace) -> int:
    """Compare the ratios of one or two runs, or record them."""
    if options.update:
        ratios.update(options.runs, options.record)
        return 0
    verdicts = ratios.compare(options.runs, options.record)
    print("\n".join(map(str, verdicts)))
    if not any(v.level == "fail" for v in verdicts):
        return 0
    return AGAIN if len(options.runs) == 1 else REGRESSION


def main() -> int:
    """Dispatch."""
    parser = argparse.ArgumentParser(
        prog="python -m ci.regressions", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    p = commands.add_parser("counters")
    p.add_argument("what", choices=["compare", "update"])
    p.add_argument("--only", default="", metavar="TEXT", help="groups whose name contains this")
    p.set_defaults(run=count)
    commands.add_parser("registers").set_defaults(run=record_registers)
    p = commands.add_parser("ratios")
    p.add_argument("runs", nargs="+", type=Path)
    p.add_argument("--update", action="store_true")
    p.add_argument("--record", type=Path, default=ratios.RECORD)
    p.set_defaults(run=check_ratios)
    p = commands.add_parser("keep")
    p.add_argument("file", type=Path)
    p.add_argument("command", help="what made it")
    p.set_defaults(run=lambda o: print(runs.keep(o.file, o.command)) or 0)
    p = commands.add_parser("page")
    p.add_argument("--output", type=Path, default=counters.ROOT / "dist" / "figures.html")
    p.set_defaults(run=lambda o: print(page.write(o.output)) or 0)
    options = parser.parse_args()
    return int(options.run(options))


if __name__ == "__main__":
    sys.exit(main())
