"""Models of nequip-allegro, from files or live modules, as the equal Allegro."""

from __future__ import annotations

import os
from collections.abc import Mapping

from torch import nn

from allegro_model.importers._files import load, matches
from allegro_model.importers._mapping import allegro_of
from allegro_model.model import Allegro

__all__ = ["from_nequip", "load", "matches"]


def from_nequip(
    source: str | os.PathLike[str] | nn.Module,
    model_key: str = "sole_model",
    elements: Mapping[str, str | None] | None = None,
) -> Allegro:
    """Build the :class:`~allegro_model.Allegro` equal to a model of nequip-allegro.

    Parameters
    ----------
    source : path or module
        A packaged model (``.nequip.zip``) or checkpoint (``.ckpt``), read without nequip and without executing
        anything of the file, or a live ``GraphModel``. Of a checkpoint, the weights that nequip itself evaluates
        with are taken (its moving average, where it kept one).
    model_key : str
        Which model of a file that holds several.
    elements : mapping, optional
        Element symbol of each type whose name is none, ``{"Ow": "O"}``. By default those of the atomic numbers of a
        ZBL potential, else none.

    Returns
    -------
    Allegro
        In the dtype of the source, on the CPU.

    Raises
    ------
    ValueError
        Naming every module, setting and tensor of the source that has no counterpart here.
    FileNotFoundError
        If there is no such file.
    """
    return (
        allegro_of(source, elements) if isinstance(source, nn.Module) else load(source, model_key, elements)
    )
