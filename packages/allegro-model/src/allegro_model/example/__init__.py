"""Small pretrained potential for trying and teaching; CARD.md beside it states its data, errors and limits."""

from __future__ import annotations

from pathlib import Path


def example_potential() -> Path:
    """Return the path of the shipped potential: a model file for H, C, N, O, F, P, S and Cl, trained on GFN2-xTB.

    For trying and teaching, not for research: ``CARD.md`` beside it says why.
    ``localgraph.load_model("example")`` and ``mlip-export compile example -o example.pt2`` find it by name.

    Examples
    --------
    >>> example_potential().name
    'example.safetensors'
    """
    return Path(__file__).with_name("example.safetensors")
