"""Packaged models and checkpoints of nequip-allegro as Allegro models (entry point "mlip.importers")."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from allegro_model.importers._checkpoint import view_of
from allegro_model.importers._mapping import allegro_of
from allegro_model.importers._pickle import Record, TorchArchive
from allegro_model.importers._view import ModuleView
from allegro_model.model import Allegro

_PACKAGE, _CHECKPOINT, _TORCHSCRIPT = "model/eager_model.pkl", "data.pkl", "constants.pkl"
_ENDINGS = (".nequip.zip", ".ckpt")
_COMPILED = (".pth", ".nequip.pt2")
_CONFIGURATION = (".yaml", ".yml")
"""Of files that are refused by name: what nequip compiled, and weights and configurations of nequip up to 0.6."""


def matches(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is named like a model file of nequip."""
    return str(path).endswith((*_ENDINGS, *_COMPILED, *_CONFIGURATION))


def load(
    path: str | os.PathLike[str],
    model_key: str = "sole_model",
    elements: Mapping[str, str | None] | None = None,
) -> Allegro:
    """Read a packaged model (``.nequip.zip``) or checkpoint (``.ckpt``) of nequip-allegro.

    Nothing of the file is executed, and nequip is not needed. The arguments are those of
    :func:`allegro_model.nequip.from_nequip`.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged or holds another model, or something in it has no counterpart.
    """
    if str(path).endswith(_CONFIGURATION) and os.path.exists(path):
        raise _refusal(os.fspath(path), "a configuration without weights")
    archive = TorchArchive(path)
    if _TORCHSCRIPT in archive or str(path).endswith(".nequip.pt2"):
        raise _refusal(archive.path, "a model compiled by nequip, whose settings are gone")
    try:
        if _PACKAGE in archive:
            view = _packaged(archive, model_key)
        elif _CHECKPOINT in archive:
            view = _checkpoint(archive, model_key)
        else:
            raise archive.damaged(f"neither {_PACKAGE} nor {_CHECKPOINT} is in it")
        return allegro_of(view, elements, archive.path)
    except (AttributeError, KeyError, IndexError, TypeError) as e:
        raise archive.damaged(f"unknown layout: {type(e).__name__}: {e}") from e


def _refusal(path: str, what: str) -> ValueError:
    return ValueError(
        f"path must be a packaged model (.nequip.zip) or checkpoint (.ckpt) of nequip from 0.7 on, got "
        f"{path!r}, {what}: import the package or checkpoint that it was made from"
    )


def _checkpoint(archive: TorchArchive, model_key: str) -> ModuleView:
    """View the model of a checkpoint."""
    content: Any = archive.load(_CHECKPOINT)
    if isinstance(content, dict) and content and all(isinstance(v, Tensor) for v in content.values()):
        raise _refusal(
            archive.path, "weights without settings, as nequip kept them beside a config.yaml up to 0.6"
        )
    return view_of(content, model_key, archive.path)


def _packaged(archive: TorchArchive, model_key: str) -> ModuleView:
    """View the model of a package."""
    models = archive.load(_PACKAGE)
    root = ModuleView.of(models) if isinstance(models, Record) else ModuleView("nothing")
    if "model" not in root.children:  # a ModuleDict of models by key
        if model_key not in root.children:
            raise ValueError(
                f"model_key must be one of {sorted(root.children)} in {archive.path!r}, got {model_key!r}"
            )
        root = root.children[model_key]
    if "type_names" not in root.attributes:
        root.attributes["type_names"] = _type_names(root)
    return root


def _type_names(root: ModuleView) -> list[str]:
    """Return the names of the types as the oldest layouts keep them."""
    metadata = root.attributes.get("_metadata", root.attributes.get("metadata"))
    if isinstance(metadata, dict) and "type_names" in metadata:
        return str(metadata["type_names"]).split()
    return list(root.child("model.func.per_type_energy_scale_shift").type_names)
