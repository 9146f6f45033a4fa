"""Table of the public Allegro models (entry point "mlip.published")."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any


def published() -> dict[str, dict[str, Any]]:
    """Return file, MD5, URLs, license and source of each public model, by the name that nequip.net gives it.

    Examples
    --------
    >>> sorted(published())
    ['nequip.net:mir-group/Allegro-MP-L:0.1', 'nequip.net:mir-group/Allegro-OAM-L:0.1']
    """
    table: dict[str, dict[str, Any]] = json.loads(
        files("allegro_model.importers").joinpath("published.json").read_text("utf-8")
    )
    return table
