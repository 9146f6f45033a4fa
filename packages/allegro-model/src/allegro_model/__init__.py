"""The Allegro interatomic potential, parameter-compatible with nequip-allegro."""

from allegro_model import nequip, presets
from allegro_model.config import AllegroConfig
from allegro_model.model import Allegro, FoldedAllegro

__version__ = "0.1.0"

__all__ = [
    "Allegro",
    "AllegroConfig",
    "FoldedAllegro",
    "nequip",
    "presets",
]
