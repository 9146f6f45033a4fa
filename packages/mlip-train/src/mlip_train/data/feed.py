"""How batches reach the training device: collated ahead and copied, or gathered from frames that stay there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader

from mlip_train.data.batches import Batch
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.data.resident import Request, Resident, request_loader


class Feed:
    """The batches of the parts of a run.

    Parameters
    ----------
    plans : mapping of str to Plan
        By part.
    workers : int
        Processes that collate ahead.
    resident : bool
        Keep the frames on the device.
    """

    def __init__(self, plans: Mapping[str, Plan], workers: int, resident: bool):
        self.plans, self.workers, self.resident = plans, workers, resident
        self._frames: dict[str, Resident] = {}
        self._loaders: dict[str, DataLoader[Any]] = {}

    def begin(self, device: torch.device, progress: bool) -> None:
        """Put the frames of all parts on the device if they are to stay there, those of one table once.

        Raises
        ------
        ValueError
            If they do not fit.
        """
        made: dict[int, Resident] = {}
        for part, plan in self.plans.items() if self.resident else ():
            if id(plan.table) not in made:
                made[id(plan.table)] = Resident(plan.table, device, self.workers, progress)
            self._frames[part] = made[id(plan.table)]

    def loader(self, part: str, device: torch.device) -> DataLoader[Any]:
        """Return the loader of a part, made once; for a GPU batches are put into page-locked memory."""
        if part not in self._loaders:
            plan = self.plans[part]
            if self.resident:
                self._loaders[part] = request_loader(plan, part)
            else:
                self._loaders[part] = make_loader(plan, self.workers, pin_memory=device.type == "cuda")
        return self._loaders[part]

    def transfer(self, batch: Batch | Request, device: torch.device) -> Batch:
        """Copy a batch, to a GPU without waiting, or gather it there.

        Lightning passes ``non_blocking`` for bare tensors alone.
        """
        if isinstance(batch, Request):
            return self._frames[batch.part].batch(*batch.batch)
        return batch.to(device, non_blocking=device.type == "cuda")
