"""Fine-tuning: the start model, and elements added to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import localgraph
from mlip_train.config.load import to_plain
from mlip_train.config.schema import ModelConfig
from mlip_train.training.checkpoint import MODEL

PER_TYPE = ("avg_num_neighbors", "energy_shifts", "energy_scales")
"""Keys of a model's configuration that hold one number for all types, or one for each."""


def start_model(config: ModelConfig) -> Any:
    """Load the model to start from; a name or keys given beside it must be its own.

    Raises
    ------
    FileNotFoundError, ValueError
        Naming the key.
    """
    path = Path(str(config.start_from))
    path = path / MODEL if path.is_dir() else path
    if not path.is_file() and not localgraph.is_published_name(path):
        raise FileNotFoundError(
            f"model.start_from must be an existing model file or the name of a published model, "
            f"got {config.start_from!r}"
        )
    start, _ = localgraph.load_model(path)
    if config.name not in (ModelConfig().name, start.model_name):
        raise ValueError(
            f"model.name must be that of model.start_from ({start.model_name!r}), got {config.name!r}"
        )
    own = start.to_config()
    for key, value in config.config.items():
        if key not in own or to_plain(own[key]) != value:
            raise ValueError(
                f"model.config.{key} must be that of model.start_from ({own.get(key)!r}), got {value!r}"
            )
    return start


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
            f"model.add_elements must be used with a model whose sizes grow from the number of types ({types}), got "
            f"{tuple(old.shape)} and {tuple(new.shape)} for {name!r}"
        )
    placed = new.clone()
    placed[tuple(slice(0, n) for n in old.shape)] = old
    return placed
