"""Configurations of the three model sizes that arXiv 2504.16068 trains on SPICE."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from allegro_model.config import AllegroConfig


def spice_small(elements: Sequence[str], **changes: Any) -> AllegroConfig:
    """Return the small size: l_max 2, two layers, 64 scalar and tensor channels, latent MLPs 2 × 256; cutoff 6 Å.

    Parameters
    ----------
    elements : sequence of str
        Element symbols, in the order of the types.
    **changes
        Any other field of :class:`~allegro_model.AllegroConfig`.
    """
    return _config(elements, changes, l_max=2)


def spice_medium(elements: Sequence[str], **changes: Any) -> AllegroConfig:
    """Return the medium size: :func:`spice_small` with l_max 3."""
    return _config(elements, changes, l_max=3)


def spice_large(elements: Sequence[str], **changes: Any) -> AllegroConfig:
    """Return the large size: l_max 3, three layers, 128 scalar and tensor channels, latent MLPs 3 × 512; cutoff 6 Å."""
    return _config(
        elements,
        changes,
        l_max=3,
        num_layers=3,
        num_scalar_features=128,
        num_tensor_features=128,
        latent_depth=3,
        latent_width=512,
    )


def _config(elements: Sequence[str], changes: dict[str, Any], **size: Any) -> AllegroConfig:
    return AllegroConfig(**{"type_names": elements, "cutoff": 6.0, **size, **changes})
