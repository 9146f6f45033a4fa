"""Command-line help generated from the schema: every key with its text and default."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings

from mlip_train.config.data import SourceConfig
from mlip_train.config.schema import TrainConfig
from mlip_train.config.training import StageConfig

ROOTS = tuple(f.name for f in dataclasses.fields(TrainConfig))
LISTS = {
    "Each item of data.train, data.validation and data.test": SourceConfig,
    "Each item of stages": StageConfig,
}


class Formatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keeps line breaks of descriptions and leaves out options that load a section from a file of its own."""

    def add_argument(self, action: argparse.Action) -> None:
        """Add an argument to the section, unless it takes the path of a file or shows another help."""
        if not (action.metavar == "CONFIG" and "." not in action.dest and action.type is None) and not any(
            option.endswith(".help") for option in action.option_strings
        ):
            super().add_argument(action)


def add_keys(parser: ArgumentParser) -> None:
    """Add every key of a run's YAML file to a parser, and the keys of items of lists to its epilog."""
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    parser.add_class_arguments(TrainConfig, None)
    for title, cls in LISTS.items():
        items = ArgumentParser(add_help=False, formatter_class=Formatter, usage=argparse.SUPPRESS)
        items.add_class_arguments(cls, None)
        parser.epilog = f"{parser.epilog or ''}\n\n{title}:\n{_body(items)}"


def _body(parser: ArgumentParser) -> str:
    """Return the arguments in a parser's help, as keys instead of options."""
    lines = [line for line in parser.format_help().splitlines() if line.startswith("  ")]
    return "\n".join(line.replace("  --", "  ", 1) for line in lines)


def overrides(arguments: list[str]) -> tuple[list[str], list[str]]:
    """Split arguments into overrides ``KEY=VALUE`` and the rest; ``--KEY VALUE`` and ``--KEY=VALUE`` are overrides too.

    Raises
    ------
    ValueError
        For an option of the schema without a value.
    """
    found: list[str] = []
    rest: list[str] = []
    items: Any = iter(arguments)
    for item in items:
        key, sign, _ = item.removeprefix("--").partition("=")
        if item.startswith("--") and key.split(".")[0] in ROOTS:
            value = None if sign else next(items, None)
            if not sign and value is None:
                raise ValueError(f"{item} must be followed by a value, got none")
            found.append(item.removeprefix("--") if sign else f"{key}={value}")
        elif sign and not item.startswith("-"):
            found.append(item)
        else:
            rest.append(item)
    return found, rest
