"""The model of a run: new, fine-tuned, or that of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

import localgraph
from mlip_train.config.schema import TrainConfig
from mlip_train.data.frames import FrameTable
from mlip_train.data.sources import Source, elements_in
from mlip_train.data.statistics import Statistics
from mlip_train.training.finetune import start_model, with_elements
from mlip_train.training.refit import refit_energies


class Start(NamedTuple):
    """What is known of a model before its training frames are.

    Attributes
    ----------
    model : EdgeModel or None
        None where it is new.
    type_names, cutoffs : list of str, Tensor (T, T)
        Its own.
    refit : bool
        Whether energies may be fitted to the frames: in fine-tuning, not where a checkpoint is continued.
    """

    model: Any
    type_names: list[str]
    cutoffs: Tensor
    refit: bool = False


def begin_model(
    config: TrainConfig, continued: Mapping[str, Any] | None, training: Sequence[Source]
) -> Start:
    """Load the model to fine-tune or to continue, or find the types and cutoffs of a new one.

    Parameters
    ----------
    config : TrainConfig
        Of the run.
    continued : mapping, optional
        Name and configuration of the model of a checkpoint.
    training : sequence of Source
        Its elements are the types of a new model whose configuration names none.

    Raises
    ------
    FileNotFoundError, ValueError
        For a model to start from that is not there or other than the configuration says, a name that is not
        registered, and a new model without a cutoff.
    """
    if continued is not None:
        start = localgraph.model_class(continued["name"]).from_config(continued["config"])
    elif config.model.start_from is not None:
        start = start_model(config.model)
        if config.model.add_elements:
            start = with_elements(start, config.model.add_elements, config.seed)
    else:
        plain = dict(config.model.config)
        if "type_names" not in plain:
            plain["type_names"] = list(elements_in(training))
        if "cutoff" not in plain:
            raise ValueError("model.config.cutoff must be a length in Å, got none")
        try:
            cls = localgraph.model_class(config.model.name)
        except ValueError as e:
            raise ValueError(f"model.{e}") from None
        return Start(None, list(plain["type_names"]), cls.cutoffs_of(plain))
    return Start(start, list(start.type_names), start.cutoffs, refit=continued is None)


def finish_model(
    start: Start, config: TrainConfig, statistics: Statistics, table: FrameTable, rows: NDArray[np.int64]
) -> Any:
    """Build a new model from the statistics, or fit the energies of one to fine-tune; frozen parameters are marked.

    Parameters
    ----------
    start : Start
        Of :func:`begin_model`.
    config : TrainConfig
        Of the run.
    statistics : Statistics
        Of the training frames.
    table, rows : FrameTable, (F,) int64
        The training frames.
    """
    model = _new(config, start.type_names, statistics) if start.model is None else start.model
    freeze(model, config.model.freeze)
    if start.refit:
        refit_energies(model, config, table, rows)
    return model


def _new(config: TrainConfig, names: Sequence[str], statistics: Statistics) -> Any:
    scale = {"force_rms": statistics.force_rms, "energy_std": statistics.energy_std, "none": 1.0}
    filled = {
        "type_names": list(names),
        "avg_num_neighbors": statistics.avg_num_neighbors,
        "energy_shifts": statistics.energy_shifts.tolist(),
        "energy_scales": scale[config.statistics.energy_scales] or 1.0,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        return localgraph.model_class(config.model.name).from_config({**filled, **config.model.config})


def freeze(model: nn.Module, prefixes: Sequence[str]) -> None:
    """Exclude parameters whose names begin with one of the prefixes from training.

    Raises
    ------
    ValueError
        For a prefix that no parameter has.
    """
    for prefix in prefixes:
        matching = [p for n, p in model.named_parameters() if n.startswith(prefix)]
        if not matching:
            names = sorted({n.split(".")[0] for n, _ in model.named_parameters()})
            raise ValueError(
                f"model.freeze must be a prefix of a parameter name ({names} ...), got {prefix!r}"
            )
        for p in matching:
            p.requires_grad_(False)
