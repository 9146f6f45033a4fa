"""Training step compiled as one graph: energies, forces, loss and parameter gradients with dynamic sizes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from localgraph import EdgeModel
from mlip_train.config.training import LossConfig
from mlip_train.data.batches import Batch
from mlip_train.steps.eager import EagerStep, StepResult, trained_parameters, with_gradients
from mlip_train.steps.forces import ForcesStep
from mlip_train.steps.loss import Prediction, loss_terms, predict
from mlip_train.steps.trace import TENSORS, _batch, _inputs, _state, compile_function, example_batch


class CompiledStep:
    """A step whose loss and gradients come from one Inductor graph, made before the first batch and never again.

    Attributes
    ----------
    graphs : int
        Graphs compiled: 1 (2 with ``evaluate``).
    calls : int
        Batches run through it.
    nodes : int
        Operations in the traced step graph.
    """

    def __init__(self, model: nn.Module, loss: LossConfig, with_stress: bool = False, evaluate: bool = False):
        self.model, self.loss, self.with_stress = model, loss, with_stress
        self.type_names = tuple(cast(EdgeModel, model).type_names)
        self.graphs = self.calls = self.nodes = 0
        self.trained = tuple(trained_parameters(model))
        state = _state(model)
        self.rest = tuple(n for n in state if n not in self.trained)
        example = [
            *_inputs(example_batch(next(iter(state.values())).device)),
            torch.ones(3, dtype=torch.float64),
        ]
        weights = [*(state[n] for n in self.trained), *(state[n] for n in self.rest)]
        example[-1] = example[-1].to(example[0].device)
        self._run = self._compile(self._step, weights, example)
        self._predict = self._compile(self._prediction, weights, example[:-1]) if evaluate else None

    def _compile(
        self, function: Callable[..., Any], weights: Sequence[Tensor], data: Sequence[Tensor]
    ) -> Callable[..., Any]:
        run, nodes = compile_function(function, weights, data)
        self.graphs += 1
        self.nodes = max(self.nodes, nodes)
        return run

    def _split(self, tensors: Sequence[Tensor]) -> tuple[list[Tensor], dict[str, Tensor], Sequence[Tensor]]:
        n, m = len(self.trained), len(self.trained) + len(self.rest)
        return list(tensors[:n]), dict(zip(self.rest, tensors[n:m], strict=True)), tensors[m:]

    def _step(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Compute the whole step as a function of tensors, for tracing."""
        weights, rest, data = self._split(tensors)
        leaves = [w.detach().requires_grad_(True) for w in weights]
        batch = _batch(data[:TENSORS])

        def model(*arguments: Tensor) -> Tensor:
            energies: Tensor = functional_call(
                self.model, {**dict(zip(self.trained, leaves, strict=True)), **rest}, arguments
            )
            return energies

        prediction = predict(model, batch, create_graph=True, with_stress=self.with_stress)
        terms = loss_terms(self.loss, batch, prediction, self.type_names)
        loss = (data[TENSORS] * terms).sum()
        gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
        return (
            loss.detach(),
            terms.detach(),
            *(p.detach() for p in prediction),
            *(g.detach() for g in gradients),
        )

    def _prediction(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Energies, forces and stresses as a function of tensors, for tracing."""
        weights, rest, data = self._split(tensors)
        batch = _batch(data[:TENSORS])

        def model(*arguments: Tensor) -> Tensor:
            energies: Tensor = functional_call(
                self.model, {**dict(zip(self.trained, weights, strict=True)), **rest}, arguments
            )
            return energies

        return tuple(predict(model, batch, with_stress=self.with_stress))

    def _weights(self) -> list[Tensor]:
        state = _state(self.model)
        return [*(state[n].detach() for n in self.trained), *(state[n].detach() for n in self.rest)]

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """See :class:`mlip_train.steps.eager.Step`."""
        self.calls += 1
        out = self._run(*self._weights(), *_inputs(batch), coefficients)
        loss, terms, energy, forces, stress = out[:5]
        parameters = list(trained_parameters(self.model).values())
        return StepResult(
            with_gradients(loss, parameters, out[5:]), terms, Prediction(energy, forces, stress)
        )

    def predict(self, batch: Batch) -> Prediction:
        """Predictions of a batch, by the compiled energy and force graph where there is one."""
        if self._predict is None:
            return predict(self.model, batch, with_stress=self.with_stress)
        return Prediction(*self._predict(*self._weights(), *_inputs(batch)))


def compile_step(
    model: nn.Module, loss: LossConfig, mode: str = "full", with_stress: bool = False, evaluate: bool = False
) -> EagerStep | ForcesStep | CompiledStep:
    """Build the training step of a mode, without verifying it (see :func:`mlip_train.steps.verify.verify`).

    Parameters
    ----------
    model : EdgeModel
        Trained in place; the step reads its parameters and buffers at every call.
    loss : LossConfig
        Error function.
    mode : {"eager", "forces", "full"}
        See :class:`~mlip_train.config.CompileConfig`.
    with_stress, evaluate : bool
        Compute stresses; also compile predictions (``full``).

    Raises
    ------
    ValueError
        If ``mode`` is none of these.
    """
    if mode == "eager":
        return EagerStep(model, loss, with_stress)
    if mode == "forces":
        return ForcesStep(model, loss, with_stress)
    if mode == "full":
        return CompiledStep(model, loss, with_stress, evaluate)
    raise ValueError(f"mode must be 'eager', 'forces' or 'full', got {mode!r}")
