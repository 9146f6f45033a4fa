"""Result of a training step, the eager step, and autograd around gradients computed elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mlip_train.config.training import LossConfig
from mlip_train.data.batches import Batch
from mlip_train.steps.loss import Prediction, loss_terms, predict


class StepResult(NamedTuple):
    """Loss and predictions of a batch; ``loss.backward()`` gives the gradients of the trained parameters.

    Attributes
    ----------
    loss : Tensor, () float64
        Σ coefficients · terms.
    terms : Tensor, (3,) float64
        Mean errors of energy, forces and stress (this batch's part of the global batch's).
    prediction : Prediction
        Detached.
    """

    loss: Tensor
    terms: Tensor
    prediction: Prediction


class Step(Protocol):
    """Anything that computes a step, whichever way."""

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """Loss (with gradients) of a batch for the weights (3,) of energy, forces and stress."""
        ...

    def predict(self, batch: Batch) -> Prediction:
        """Predictions of a batch with the weights as they are, for validation."""
        ...


class EagerStep:
    """A step as PyTorch runs it: the reference of the compiled ones.

    Parameters
    ----------
    model : EdgeModel
        Trained in place.
    loss : LossConfig
        Error function; its weights are not read (they come with each call).
    with_stress : bool
        Compute stresses.
    """

    def __init__(self, model: Any, loss: LossConfig, with_stress: bool = False):
        self.model, self.loss, self.with_stress = model, loss, with_stress

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """See :class:`Step`."""
        prediction = predict(self.model, batch, create_graph=True, with_stress=self.with_stress)
        terms = loss_terms(self.loss, batch, prediction, self.model.type_names)
        detached = Prediction(*(t.detach() for t in prediction))
        return StepResult((coefficients * terms).sum(), terms.detach(), detached)

    def predict(self, batch: Batch) -> Prediction:
        """See :class:`Step`."""
        return predict(self.model, batch, with_stress=self.with_stress)


def trained_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters that require gradients, by name, in the module's order."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


class _WithGradients(torch.autograd.Function):
    """The identity on a loss whose gradients are known already."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.gradients = tensors[:count]
        return loss.clone()

    @staticmethod
    def backward(ctx: Any, factor: Tensor) -> tuple[Tensor | None, ...]:
        gradients, ctx.gradients = ctx.gradients, ()
        n = len(gradients)
        return (None, None, *(None for _ in range(n)), *(g * factor.to(g.dtype) for g in gradients))


def with_gradients(loss: Tensor, parameters: Sequence[Tensor], gradients: Sequence[Tensor]) -> Tensor:
    """Return a loss whose ``backward()`` accumulates the given gradients times the incoming gradient.

    Parameters
    ----------
    loss : Tensor, ()
        Value.
    parameters, gradients : sequences of Tensor
        Of equal length and shapes.

    Examples
    --------
    >>> p = torch.ones(2, requires_grad=True)
    >>> (with_gradients(torch.tensor(3.0), [p], [torch.tensor([1.0, 2.0])]) / 2).backward()
    >>> p.grad
    tensor([0.5000, 1.0000])
    """
    apply: Any = _WithGradients.apply  # untyped
    result: Tensor = apply(loss.detach(), len(gradients), *gradients, *parameters)
    return result
