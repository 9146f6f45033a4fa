"""From YAML text to a configuration: duplicate, unknown and mistyped keys are rejected by dotted path."""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

import yaml

from mlip_train.config.schema import SourceConfig, TrainConfig

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """A safe loader that rejects duplicate keys and reads ``1e-3`` as a number (YAML 1.2)."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    seen: dict[Any, int] = {}
    for key_node, _ in node.value:
        key = loader.construct_object(key_node)
        line = key_node.start_mark.line + 1
        if key in seen:
            raise ValueError(
                f"line {line}: keys must be unique, got {key!r} again (first in line {seen[key]})"
            )
        seen[key] = line
    return {
        loader.construct_object(k, deep=True): loader.construct_object(v, deep=True) for k, v in node.value
    }


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)


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
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values = {}
    for key, value in data.items():
        where = f"{path}.{key}" if path else str(key)
        if key not in names:
            raise ValueError(f"{where} must be one of the keys {sorted(names)}, got the unknown key {key!r}")
        values[key] = _value(hints[key], value, where)
    return cls(**values)


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in arguments:
            return None
        (kind,) = (a for a in arguments if a is not type(None))
        return _value(kind, value, path)
    if origin is Literal:
        if value not in arguments:
            raise ValueError(f"{path} must be one of {list(arguments)}, got {value!r}")
        return value
    if origin is tuple:
        if isinstance(value, str) or not isinstance(value, Sequence):
            raise ValueError(f"{path} must be a list, got {value!r}")
        if arguments[-1] is Ellipsis:
            return tuple(_value(arguments[0], v, f"{path}[{i}]") for i, v in enumerate(value))
        if len(value) != len(arguments):
            raise ValueError(f"{path} must be a list of {len(arguments)}, got {value!r}")
        return tuple(
            _value(k, v, f"{path}[{i}]") for i, (k, v) in enumerate(zip(arguments, value, strict=True))
        )
    if dataclasses.is_dataclass(kind):
        return from_plain(typing.cast(type, kind), value, path)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ValueError(f"{path} must be a mapping, got {value!r}")
        return dict(value)
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
        raise ValueError(f"{path} must be {kind.__name__}, got {value!r}")
    return value


def to_plain(config: Any) -> Any:
    """Plain JSON data of a (nested) dataclass; :func:`from_plain` reads it back."""
    if dataclasses.is_dataclass(config):
        return {f.name: to_plain(getattr(config, f.name)) for f in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {k: to_plain(v) for k, v in config.items()}
    if isinstance(config, (tuple, list)):
        return [to_plain(v) for v in config]
    return config


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
        node[_index(node, last, target) if isinstance(node, list) else last] = parse_yaml(value)
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
    model = dataclasses.replace(config.model, start_from=None if start is None else str(folder / start))
    return dataclasses.replace(config, data=data, model=model)
