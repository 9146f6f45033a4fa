"""A model given more elements than it was trained on: what it has learned stays, rows for the new ones are added."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

PER_TYPE = ("avg_num_neighbors", "energy_shifts", "energy_scales")
"""Keys of a model's configuration that hold one number for all types, or one for each."""


def with_elements(model: Any, added: Sequence[str], seed: int = 0) -> Any:
    """Add elements to a model; energies of structures without them are unchanged.

    Parameters
    ----------
    model : EdgeModel
        Its configuration has ``type_names``. In every tensor that depends on the number of types T, the sizes that do
        are equal to T: embeddings (T, ...), tables per type (T,) and per pair (T, T, ...).
    added : sequence of str
        Element symbols that the model does not have.
    seed : int
        Of the initial weights of the new rows. Their constants (``PER_TYPE``) are the mean over the old elements.

    Raises
    ------
    ValueError
        For an element that the model has already, or a tensor whose sizes do not follow the rule above.
    """
    old = tuple(model.type_names)
    if repeated := [name for name in added if name in old or list(added).count(name) > 1]:
        raise ValueError(
            f"model.add_elements must be elements other than {list(old)}, each once, got {repeated}"
        )
    plain = dict(model.to_config()) | {"type_names": [*old, *added]}
    plain |= {key: _longer(plain[key], added) for key in PER_TYPE if key in plain}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        larger = type(model).from_config(plain)
    before = model.state_dict()
    larger.load_state_dict(
        {name: _placed(name, before[name], value, len(old)) for name, value in larger.state_dict().items()}
    )
    return larger


def _longer(value: Any, added: Sequence[str]) -> Any:
    if isinstance(value, Mapping):
        return dict(value) | dict.fromkeys(added, sum(value.values()) / len(value))
    if isinstance(value, Sequence):
        return [*value, *[sum(value) / len(value)] * len(added)]
    return value


def _placed(name: str, old: Tensor, new: Tensor, types: int) -> Tensor:
    """Copy ``old`` into the rows of ``new`` that belong to the old types."""
    grown = [a != b for a, b in zip(old.shape, new.shape, strict=False)]
    if old.ndim != new.ndim or any(g and n != types for g, n in zip(grown, old.shape, strict=True)):
        raise ValueError(
            f"model.add_elements: required sizes of {name!r} that are the number of types ({types}) where they grow, "
            f"got {tuple(old.shape)} and {tuple(new.shape)}"
        )
    placed = new.clone()
    placed[tuple(slice(0, n) for n in old.shape)] = old
    return placed
