"""From YAML text to a configuration: duplicate, unknown and mistyped keys are rejected by dotted path."""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from mlip_train.config.data import SourceConfig
from mlip_train.config.ranges import check_ranges
from mlip_train.config.schema import TrainConfig

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys and reads ``1e-3`` as a number (YAML 1.2)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode):
            raise ValueError(f"line {line}: key must be a word or a number, got a list or mapping")
        key = loader.construct_object(key_node)
        if key in seen:
            raise ValueError(
                f"line {line}: keys must be unique, got {key!r} again (first in line {seen[key]})"
            )
        seen[key] = line
    loader.flatten_mapping(node)  # merge keys
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_constructor("tag:yaml.org,2002:merge", lambda loader, node: node.value)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


def parse_yaml(text: str) -> Any:
    """Plain data from YAML text.

    Raises
    ------
    ValueError
        On malformed YAML and on a key that appears twice in one mapping, with its line.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except yaml.YAMLError as e:
        raise ValueError(f"YAML must be well-formed: {e}") from None


def from_plain(cls: type[T], data: Any, path: str = "") -> T:
    """Build a dataclass (nested ones too) from plain data.

    Parameters
    ----------
    cls : type
        A dataclass whose fields are annotated with plain types, literals, tuples and dataclasses.
    data : mapping
        As read from YAML or JSON.
    path : str
        Dotted path of ``data``, for errors.

    Raises
    ------
    ValueError
        Naming the dotted path, what was required and what was received.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"{path or cls.__name__} must be a mapping, got {data!r}")
    hints = typing.get_type_hints(cls)
    values: dict[str, Any] = {}
    plain: dict[str, Any] = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in hints:
            raise ValueError(
                f"{where} must be one of the keys {sorted(hints)}, got the unknown key {key!r}"
                f"{nearest(str(key), hints)}"
            )
        kind, arguments = hints[key], typing.get_args(hints[key])
        if dataclasses.is_dataclass(kind):
            values[key] = from_plain(typing.cast(type, kind), value, where)
        elif arguments and dataclasses.is_dataclass(arguments[0]):
            if isinstance(value, str) or not isinstance(value, Sequence):
                raise ValueError(f"{where} must be a list, got {value!r}")
            paths = arguments[0] is SourceConfig  # which may be given alone
            items = enumerate({"path": v} if paths and isinstance(v, str) else v for v in value)
            values[key] = tuple(
                from_plain(typing.cast(type, arguments[0]), v, f"{where}[{i}]") for i, v in items
            )
        else:
            plain[key] = value
    config = cls(**values, **_parsed(cls, plain, path))
    check_ranges(config, path)
    return config


def nearest(word: str, words: Iterable[str]) -> str:
    """Name the most similar of some words, as the end of an error; empty where none is similar."""
    found = difflib.get_close_matches(word, list(words), 1)
    return f" (did you mean {found[0]!r}?)" if found else ""


@functools.cache
def _parser(cls: type) -> ArgumentParser:
    """Return a parser of the fields of a dataclass that hold no dataclasses."""
    parser = ArgumentParser(exit_on_error=False)
    hints = typing.get_type_hints(cls)
    nested = {
        name
        for name, kind in hints.items()
        if any(dataclasses.is_dataclass(k) for k in (kind, *typing.get_args(kind)))
    }
    parser.add_class_arguments(cls, None, skip=nested)
    return parser


def _parsed(cls: type, plain: dict[str, Any], path: str) -> dict[str, Any]:
    """Values checked and converted by jsonargparse; its errors name neither items of lists nor keys that exist."""
    hints = typing.get_type_hints(cls)
    parsed: dict[str, Any] = {}
    for key, value in plain.items():
        if typing.get_origin(hints[key]) is dict and isinstance(value, Mapping):
            parsed[key] = _numbered(hints[key], value, f"{path}.{key}" if path else key)
            continue
        try:
            found = _parser(cls).parse_object({key: value}, defaults=False)[key]
        except (ArgumentError, TypeError):
            found = None
        null = value is None and type(None) in typing.get_args(hints[key])
        if isinstance(value, str) != isinstance(found, str) or (found is None and not null):
            where = f"{path}.{key}" if path else key
            raise ValueError(f"{where} must be {_described(hints[key])}, got {value!r}")
        parsed[key] = found
    return parsed


def _numbered(kind: Any, value: Mapping[Any, Any], path: str) -> dict[Any, Any]:
    """Copy a mapping, numbers checked and converted; jsonargparse would parse the strings inside again."""
    result: dict[Any, Any] = {}
    for key, item in value.items():
        pair = []
        for what, part, wanted in zip(("keys", "values"), (key, item), typing.get_args(kind), strict=True):
            if wanted is float:
                number = _number(part)
                if number is None:
                    raise ValueError(f"{path}.{key} must have {what} that are numbers, got {part!r}")
                part = number
            pair.append(part)
        result[pair[0]] = pair[1]
    if len(result) < len(value):
        raise ValueError(f"{path} must have keys that are different numbers, got {list(value)}")
    return result


def _number(value: Any) -> float | None:
    """Return a number, also one that JSON made the text of a key; None for anything else."""
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None


def _described(kind: Any) -> str:
    """Return an annotation in words."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Literal:
        return f"one of {list(arguments)}"
    if origin is tuple:
        if arguments[-1] is Ellipsis:
            return f"a list of items that are {_described(arguments[0])}"
        return f"a list of {len(arguments)} items that are {_described(arguments[0])}"
    if origin is dict:
        return "a mapping"
    if arguments:
        return " or ".join("null" if a is type(None) else _described(a) for a in arguments)
    return str(kind.__name__)


def to_plain(config: Any) -> Any:
    """Plain JSON data of a (nested) dataclass; :func:`from_plain` reads it back."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {k: to_plain(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_plain(v) for v in config]
    return config


def leaves(value: Any, path: str = "") -> dict[str, Any]:
    """Return what plain data holds at the ends, by dotted path; lists of other than mappings are one value."""
    if isinstance(value, dict):
        parts = {f"{path}.{k}" if path else str(k): v for k, v in value.items()}
    elif isinstance(value, list) and any(isinstance(v, dict) for v in value):
        parts = {f"{path}[{i}]": v for i, v in enumerate(value)}
    else:
        return {path: value}
    return {name: leaf for where, v in parts.items() for name, leaf in leaves(v, where).items()}


def override(data: dict[str, Any], assignments: Sequence[str]) -> dict[str, Any]:
    """Apply ``a.b.c=value`` assignments (values are YAML) to plain data; lists by number (``data.train.0.path=x``).

    Raises
    ------
    ValueError
        For an assignment without a key, or one that leads nowhere.
    """
    for text in assignments:
        target, sign, value = text.partition("=")
        if not sign or not target:
            raise ValueError(f"override must be KEY=VALUE with a dotted key, got {text!r}")
        *parents, last = target.split(".")
        node: Any = data
        for name in parents:
            node = node[_index(node, name, target)] if isinstance(node, list) else node.setdefault(name, {})
            if not isinstance(node, (dict, list)):
                raise ValueError(
                    f"override must lead to a mapping or a list at {name!r} in {target!r}, got {node!r}"
                )
        same = last if isinstance(node, list) else next((k for k in node if str(k) == last), last)
        node[_index(node, last, target) if isinstance(node, list) else same] = parse_yaml(value)
    return data


def _index(node: list[Any], name: str, target: str) -> int:
    if not name.isdigit() or int(name) >= len(node):
        raise ValueError(f"override must name an item number below {len(node)} in {target!r}, got {name!r}")
    return int(name)


def load_config(path: str | Path, assignments: Sequence[str] = ()) -> TrainConfig:
    """Read a run's YAML file. Relative data and model paths are made relative to the file; ``output`` is not.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        Naming the file, the line or dotted path, what was required and what was received.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"run must be an existing YAML file, got {str(path)!r}")
    try:
        data = parse_yaml(path.read_text())
        if not isinstance(data, dict):
            raise ValueError(f"top level must be a mapping, got {type(data).__name__}")
        config = from_plain(TrainConfig, override(data, assignments))
    except ValueError as e:
        raise ValueError(f"{path}: {e}") from None
    return _relative_to(config, path.parent)


def _relative_to(config: TrainConfig, folder: Path) -> TrainConfig:
    def moved(sources: tuple[SourceConfig, ...]) -> tuple[SourceConfig, ...]:
        return tuple(
            dataclasses.replace(
                s, path=str(folder / s.path), split=None if s.split is None else str(folder / s.split)
            )
            for s in sources
        )

    d = config.data
    data = dataclasses.replace(d, train=moved(d.train), validation=moved(d.validation), test=moved(d.test))
    start = config.model.start_from
    if start is not None:
        from localgraph import is_published_name  # imports torch, for which --help must not wait

        start = start if is_published_name(start) else str(folder / start)
    model = dataclasses.replace(config.model, start_from=start)
    return dataclasses.replace(config, data=data, model=model)
