"""Errors for losses and weights that are not finite."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mlip_train.data.batches import Batch
from mlip_train.data.frames import FrameTable
from mlip_train.steps.loss import Prediction

SHOWN = 4


def check_loss(table: FrameTable, batch: Batch, terms: Tensor, prediction: Prediction, where: str) -> None:
    """Require finite terms of the loss.

    Raises
    ------
    FloatingPointError
        Naming frames of the batch.
    """
    if bool(torch.isfinite(terms).all()):
        return
    bad = ~torch.isfinite(prediction.energy)
    bad[batch.frame[~torch.isfinite(prediction.forces).all(1)]] = True
    rows = (batch.row[bad] if bool(bad.any()) else batch.row).tolist()
    names = [table.where(row) for row in rows if row >= 0]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    raise FloatingPointError(
        f"{where}: loss must be finite, got {terms.tolist()} (energy, forces, stress) in a batch with "
        f"{'; '.join(names[:SHOWN])}{more} (atoms too close, or lower optimizer.lr?)"
    )


def check_weights(model: nn.Module, where: str) -> None:
    """Require finite parameters.

    Raises
    ------
    FloatingPointError
        Naming the parameter.
    """
    for name, value in model.named_parameters():
        if not bool(torch.isfinite(value).all()):
            raise FloatingPointError(
                f"{where}: weights must be finite, got others in {name!r} (lower optimizer.lr?)"
            )
