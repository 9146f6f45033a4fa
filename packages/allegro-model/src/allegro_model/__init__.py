"""The Allegro interatomic potential, parameter-compatible with nequip-allegro."""

from allegro_model import nequip, presets
from allegro_model.config import AllegroConfig
from allegro_model.example import example_potential
from allegro_model.fold import FoldedAllegro
from allegro_model.model import Allegro
from allegro_model.pair import LennardJones

__version__ = "0.1.0"

__all__ = [
    "Allegro",
    "AllegroConfig",
    "FoldedAllegro",
    "LennardJones",
    "example_potential",
    "nequip",
    "presets",
]
