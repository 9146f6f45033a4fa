"""Packaged models and checkpoints of nequip-allegro as Allegro models (entry point "mlip.importers")."""

from __future__ import annotations

import os

from allegro_model.importers._checkpoint import view_of
from allegro_model.importers._mapping import allegro_of
from allegro_model.importers._pickle import Record, TorchArchive
from allegro_model.importers._view import ModuleView
from allegro_model.model import Allegro

_PACKAGE, _CHECKPOINT = "model/eager_model.pkl", "data.pkl"


def matches(path: str | os.PathLike[str]) -> bool:
    """Return whether a path is named like a packaged model or checkpoint of nequip."""
    return str(path).endswith((".nequip.zip", ".ckpt"))


def load(path: str | os.PathLike[str], model_key: str = "sole_model") -> Allegro:
    """Read a packaged model (``.nequip.zip``) or checkpoint (``.ckpt``) of nequip-allegro.

    Nothing of the file is executed, and nequip is not needed.

    Raises
    ------
    FileNotFoundError, ValueError
        If there is no such file, it is damaged or holds another model, or something in it has no counterpart.
    """
    archive = TorchArchive(path)
    try:
        if _PACKAGE in archive:
            return allegro_of(_packaged(archive, model_key))
        if _CHECKPOINT in archive:
            return allegro_of(view_of(archive.load(_CHECKPOINT), model_key, archive.path))
    except (AttributeError, KeyError, IndexError, TypeError) as e:
        raise archive.damaged(f"unknown layout: {type(e).__name__}: {e}") from e
    raise archive.damaged(f"neither {_PACKAGE} nor {_CHECKPOINT} is in it")


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
