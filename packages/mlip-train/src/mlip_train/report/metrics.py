"""Errors summed exactly over batches and processes, by subset and by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mlip_train.data.batches import Batch
from mlip_train.steps.loss import Prediction

QUANTITIES = ("energy_per_atom", "forces", "stress")
UNITS = {"energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


class Metrics:
    """Sums of |x|, x² and counts of errors x, unweighted, in float64.

    Parameters
    ----------
    subsets : sequence of str
        Names of the subset numbers in batches.
    elements : sequence of str
        Names of the types.
    """

    def __init__(self, subsets: Sequence[str], elements: Sequence[str]):
        self.subsets, self.elements = tuple(subsets), tuple(elements)
        self.by_subset = torch.zeros(len(self.subsets), len(QUANTITIES), 3, dtype=torch.float64)
        self.by_element = torch.zeros(len(self.elements), 3, dtype=torch.float64)
        self.terms = torch.zeros(3, dtype=torch.float64)

    def update(self, batch: Batch, prediction: Prediction, with_stress: bool = True) -> None:
        """Add the errors of a batch; labels of weight zero (missing ones) do not count, nor stresses not predicted."""
        device = batch.atoms.device
        self.by_subset, self.by_element = self.by_subset.to(device), self.by_element.to(device)
        de = ((prediction.energy - batch.energy) / batch.atoms)[:, None]
        self._add(0, batch.subset, batch.energy_weight > 0, de)
        df = prediction.forces - batch.forces
        has = batch.force_weight > 0
        self._add(1, batch.subset[batch.frame], has, df)
        if len(self.elements):
            self.by_element.index_add_(0, batch.types[has], _moments(df[has]))
        if with_stress:
            self._add(2, batch.subset, batch.stress_weight > 0, (prediction.stress - batch.stress).flatten(1))

    def _add(self, quantity: int, group: Tensor, has: Tensor, difference: Tensor) -> None:
        self.by_subset[:, quantity].index_add_(0, group[has], _moments(difference[has]))

    def state(self) -> Tensor:
        """Everything summed, as one flat tensor that may be added over processes."""
        return torch.cat([self.by_subset.flatten(), self.by_element.flatten()])

    def load(self, state: Tensor) -> None:
        """Restore from :meth:`state`."""
        a, b = state.split([self.by_subset.numel(), self.by_element.numel()])
        self.by_subset, self.by_element = a.reshape(self.by_subset.shape), b.reshape(self.by_element.shape)

    def reset(self) -> None:
        """Start again from zero."""
        self.by_subset = torch.zeros_like(self.by_subset)
        self.by_element = torch.zeros_like(self.by_element)

    def summary(self) -> dict[str, float]:
        """Overall errors: ``energy_per_atom_mae``, ``..._rmse`` and so on, eV, eV/Å, eV/Å³; absent labels left out."""
        return _named(self.by_subset.sum(0))

    def tables(self) -> dict[str, Any]:
        """Errors overall, per subset and per element (forces), as plain data."""
        elements = {}
        for name, row in zip(self.elements, self.by_element.cpu(), strict=True):
            if row[2] > 0:
                elements[name] = {"mae": float(row[0] / row[2]), "rmse": float((row[1] / row[2]).sqrt())}
        return {
            "overall": self.summary(),
            "subsets": {n: t for n, s in zip(self.subsets, self.by_subset, strict=True) if (t := _named(s))},
            "forces_by_element": elements,
        }


def _moments(difference: Tensor) -> Tensor:
    d = difference.detach().to(torch.float64)
    count = torch.full((d.shape[0],), float(d.shape[1]), dtype=torch.float64, device=d.device)
    return torch.stack([d.abs().sum(1), (d * d).sum(1), count], 1)


def _named(sums: Tensor) -> dict[str, float]:
    out = {}
    for name, (absolute, square, count) in zip(QUANTITIES, sums.cpu().tolist(), strict=True):
        if count:
            out[f"{name}_mae"] = absolute / count
            out[f"{name}_rmse"] = (square / count) ** 0.5
    return out
