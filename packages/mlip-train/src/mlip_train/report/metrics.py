"""Errors summed exactly over batches and processes, by subset and by element."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric

from mlip_train.data.batches import Batch
from mlip_train.steps.loss import Prediction

QUANTITIES = ("energy_per_atom", "forces", "stress")
UNITS = {"energy_per_atom": "meV/atom", "forces": "meV/Å", "stress": "meV/Å³"}


class Errors(Metric):
    """Sums of |x|, x² and counts of errors x, unweighted, in float64, and the terms of the loss.

    torchmetrics keeps the sums and adds them over processes; its own errors know no groups within a batch.

    Parameters
    ----------
    subsets : sequence of str
        Names of the subset numbers in batches.
    elements : sequence of str
        Names of the types.
    """

    full_state_update = False
    by_subset: Tensor
    by_element: Tensor
    terms: Tensor
    norms: Tensor

    def __init__(self, subsets: Sequence[str], elements: Sequence[str]):
        super().__init__(sync_on_compute=False)
        self.subsets, self.elements = tuple(subsets), tuple(elements)
        shapes = {
            "by_subset": (len(self.subsets), len(QUANTITIES), 3),
            "by_element": (len(self.elements), 3),
            "terms": (3,),
            "norms": (3,),
        }
        for name, shape in shapes.items():
            zeros = torch.zeros(shape, dtype=torch.float64)
            self.add_state(name, zeros, dist_reduce_fx="sum", persistent=True)

    def update(
        self, batch: Batch, prediction: Prediction, terms: Tensor | None = None, with_stress: bool = True
    ) -> None:
        """Add the errors of a batch; labels of weight zero (missing ones) do not count, nor stresses not predicted.

        Parameters
        ----------
        batch : Batch
            Labels.
        prediction : Prediction
            Of the batch.
        terms : Tensor, (3,), optional
            Its part of the mean errors of the global batch, see :func:`mlip_train.steps.loss.loss_terms`.
        with_stress : bool
            Whether stresses were predicted.
        """
        de = ((prediction.energy - batch.energy) / batch.atoms)[:, None]
        self._add(0, batch.subset, batch.energy_weight > 0, de)
        df = prediction.forces - batch.forces
        has = batch.force_weight > 0
        self._add(1, batch.subset[batch.frame], has, df)
        if len(self.elements):
            self.by_element.index_add_(0, batch.types, _moments(df, has))
        if with_stress:
            self._add(2, batch.subset, batch.stress_weight > 0, (prediction.stress - batch.stress).flatten(1))
        if terms is not None:
            self.terms += terms.detach() * torch.where(batch.norms > 0, batch.norms, 1.0)
            weights = [batch.energy_weight.sum(), 3 * batch.force_weight.sum(), 9 * batch.stress_weight.sum()]
            self.norms += torch.stack(weights)

    def _add(self, quantity: int, group: Tensor, has: Tensor, difference: Tensor) -> None:
        self.by_subset[:, quantity].index_add_(0, group, _moments(difference, has))

    def compute(self) -> Tensor:
        """Return :meth:`means`."""
        return self.means()

    def means(self) -> Tensor:
        """Return the mean terms of the loss, (3,); 0 where no frame had the label.

        Inside ``sync_context``, where ``compute`` would put the sums of this process back.
        """
        return self.terms / torch.where(self.norms > 0, self.norms, 1.0)

    def state(self) -> dict[str, Tensor]:
        """Return the sums over all processes, to be restored by ``load_state_dict`` on one of them."""
        with self.sync_context():
            return {name: value.clone() for name, value in self.state_dict().items()}

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


def _moments(difference: Tensor, has: Tensor) -> Tensor:
    """Return Σ|x|, Σx² and the count of each row; zeros where there is no label.

    A selection of rows by a mask would read their number from the device, and wait for it.
    """
    d = torch.where(has[:, None], difference.detach().to(torch.float64), 0.0)
    return torch.stack([d.abs().sum(1), (d * d).sum(1), d.shape[1] * has.to(d.dtype)], 1)


def _named(sums: Tensor) -> dict[str, float]:
    out = {}
    for name, (absolute, square, count) in zip(QUANTITIES, sums.cpu().tolist(), strict=True):
        if count:
            out[f"{name}_mae"] = absolute / count
            out[f"{name}_rmse"] = (square / count) ** 0.5
    return out
