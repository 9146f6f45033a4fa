"""Errors for losses and weights that are not finite."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from mlip_train.data.batches import Batch
from mlip_train.data.frames import FrameTable
from mlip_train.steps.loss import Prediction

SHOWN = 4


class _Loss(NamedTuple):
    """A loss whose terms are on their way to the host."""

    batch: Batch
    terms: Tensor
    prediction: Prediction
    where: str
    copied: torch.cuda.Event | None


class LossCheck:
    """Requires finite terms of the loss.

    On a GPU the terms of a step are copied to the host behind its kernels and read while the next step is computed, so
    that the queue never runs empty; on a CPU they are read at once.

    Parameters
    ----------
    table : FrameTable
        For messages.
    """

    def __init__(self, table: FrameTable):
        self.table = table
        self.last: _Loss | None = None

    def add(self, batch: Batch, terms: Tensor, prediction: Prediction, where: str) -> None:
        """Check the step before, and begin to check this one.

        Raises
        ------
        FloatingPointError
            See :meth:`finish`.
        """
        self.finish()
        copied = None
        if terms.is_cuda:
            kept = torch.empty(terms.shape, dtype=terms.dtype, pin_memory=True)
            kept.copy_(terms, non_blocking=True)
            copied = torch.cuda.Event()  # type: ignore[no-untyped-call]
            copied.record()
            terms = kept
        self.last = _Loss(batch, terms, prediction, where, copied)
        if copied is None:
            self.finish()

    def finish(self) -> None:
        """Wait for the terms of the last step and check them; before anything is written.

        Raises
        ------
        FloatingPointError
            Naming frames of the batch.
        """
        last, self.last = self.last, None
        if last is None:
            return
        if last.copied is not None:
            last.copied.synchronize()
        if not np.isfinite(last.terms.cpu().numpy()).all():
            raise _not_finite(self.table, last)


def _not_finite(table: FrameTable, last: _Loss) -> FloatingPointError:
    batch, prediction = last.batch, last.prediction
    bad = ~torch.isfinite(prediction.energy)
    bad[batch.frame[~torch.isfinite(prediction.forces).all(1)]] = True
    rows = (batch.row[bad] if bool(bad.any()) else batch.row).tolist()
    names = [table.where(row) for row in rows if row >= 0]
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return FloatingPointError(
        f"{last.where}: loss must be finite, got {last.terms.tolist()} (energy, forces, stress) in a batch with "
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
