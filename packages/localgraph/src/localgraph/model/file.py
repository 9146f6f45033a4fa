"""Model files: safetensors of the weights with name and configuration; files of other programs by importers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, cast

from safetensors.torch import save
from torch import nn

from localgraph.model._files import atomic_write, read_safetensors
from localgraph.model.protocol import EdgeModel
from localgraph.model.published import find_published
from localgraph.model.registry import model_class

IMPORTERS = "mlip.importers"
EXAMPLES = "mlip.examples"
FORMAT = "mlip-model"
FORMAT_VERSION = "1"


def save_model(
    path: str | os.PathLike[str], model: EdgeModel, metadata: Mapping[str, Any] | None = None
) -> None:
    """Write a model file: safetensors of the state, with name, configuration and ``metadata`` as JSON.

    The write is atomic: ``path`` is the whole new file, or as it was.

    Parameters
    ----------
    path : path
        Usually ``*.safetensors``; an existing file is replaced.
    model : EdgeModel
        A module of a registered class.
    metadata : dict, optional
        JSON data about the model, returned by :func:`load_model`.
    """
    header = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "model": model.model_name,
        "config": json.dumps(model.to_config()),
        "metadata": json.dumps(dict(metadata or {})),
    }
    state = {k: v.detach().cpu().contiguous() for k, v in cast(nn.Module, model).state_dict().items()}
    with atomic_write(path) as file:
        file.write(save(state, header))


def load_model(path: str | os.PathLike[str]) -> tuple[Any, dict[str, Any]]:
    """Read a model from a file of :func:`save_model`, a file that an importer knows, an example, or by name.

    Importers are functions of installed packages (entry-point group ``mlip.importers``); allegro-model brings one
    for packaged models and checkpoints of nequip. A bare name such as ``"example"``, where no file has it, is looked
    up among the model files that installed packages ship (entry-point group ``mlip.examples``). The name of a published
    model (``site:group/model:version``) is downloaded by :func:`fetch`, once.

    Returns
    -------
    model : EdgeModel
        With its weights, on the CPU.
    metadata : dict
        As it was saved; of a foreign file, ``{"source": name of the file, "importer": name of the importer}``.

    Raises
    ------
    FileNotFoundError, ValueError
        If the file is missing, damaged or of no known kind, its model is not registered, or its weights have
        another dtype than its configuration says.
    ConnectionError
        If a published model is neither in the cache nor reachable.
    """
    path = find_example(path) or find_published(path) or Path(path)
    importer = find_importer(path)
    if importer is not None:
        name, load = importer
        return load(path), {"source": path.name, "importer": name}
    header, state = read_safetensors(path, {"format": FORMAT, "format_version": FORMAT_VERSION})
    missing = [key for key in ("model", "config", "metadata") if key not in header]
    if missing:
        raise ValueError(f"path must be a model file with {missing} in its header, got {str(path)!r} without")
    model = model_class(header["model"]).from_config(json.loads(header["config"]))
    for name, value in model.state_dict().items():
        if name in state and state[name].dtype != value.dtype:
            raise ValueError(
                f"path must be a model file with {name} in {value.dtype}, as its configuration says, got "
                f"{state[name].dtype} in {str(path)!r}"
            )
    model.load_state_dict(state)
    return model, json.loads(header["metadata"])


def find_importer(path: str | os.PathLike[str]) -> tuple[str, Callable[[Path], Any]] | None:
    """Return the name and function of the importer for an existing foreign file, or None.

    An entry point of the group ``mlip.importers`` is an object with ``matches(path) -> bool``, which looks at the name
    of the file alone, and ``load(path) -> EdgeModel``.
    """
    path = Path(path)
    if not path.is_file() or path.suffix == ".safetensors":
        return None
    for entry in entry_points(group=IMPORTERS):
        importer = entry.load()
        if importer.matches(path):
            return entry.name, importer.load
    return None


def find_example(name: str | os.PathLike[str]) -> Path | None:
    """Return the path of the model file that an installed package ships under ``name``, or None.

    An entry point of the group ``mlip.examples`` is a function without arguments that returns the path. Files come
    first: None for whatever exists, and for whatever names a folder or has a suffix.
    """
    path = Path(name)
    if os.fspath(name) != path.name or path.suffix or path.exists():
        return None
    for entry in entry_points(group=EXAMPLES, name=path.name):
        return Path(entry.load()())
    return None
