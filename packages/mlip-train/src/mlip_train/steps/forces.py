"""Training step with only energies and forces compiled, as in arXiv 2504.16068."""

from __future__ import annotations

import functools
import operator
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from localgraph import EdgeModel, inductor_workaround
from mlip_train.config.training import LossConfig
from mlip_train.data.batches import Batch
from mlip_train.steps.eager import StepResult
from mlip_train.steps.loss import Prediction, loss_terms, predict
from mlip_train.steps.trace import _batch, _inputs, _state, _trace, example_batch


class ForcesStep:
    """The way of arXiv 2504.16068: trace energies and forces, then torch.compile with AOTAutograd's backward.

    Recompiles for sizes 0 and 1 and for each graph Dynamo finds it needs; kept to be compared with.
    """

    def __init__(self, model: nn.Module, loss: LossConfig, with_stress: bool = False):
        self.model, self.loss, self.with_stress = model, loss, with_stress
        self.type_names = tuple(cast(EdgeModel, model).type_names)
        self.names = tuple(_state(model))
        state = _state(model)
        example = _inputs(example_batch(next(iter(state.values())).device))
        weights = [state[n].detach() for n in self.names]
        with inductor_workaround():
            self._graph, _ = _trace(self._function, weights, example)
        _for_dynamo(self._graph)
        self._run = torch.compile(self._graph, dynamic=True, fullgraph=True)
        self.calls = 0

    def _function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        n = len(self.names)
        batch = _batch(tensors[n:])
        weights = dict(zip(self.names, tensors[:n], strict=True))

        def model(*arguments: Tensor) -> Tensor:
            energies: Tensor = functional_call(self.model, weights, arguments)
            return energies

        return tuple(predict(model, batch, create_graph=True, with_stress=self.with_stress))

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """See :class:`mlip_train.steps.eager.Step`."""
        self.calls += 1
        state = _state(self.model)
        with inductor_workaround():
            prediction = Prediction(*self._run(*(state[n] for n in self.names), *_inputs(batch)))
        terms = loss_terms(self.loss, batch, prediction, self.type_names)
        detached = Prediction(*(t.detach() for t in prediction))
        return StepResult((coefficients * terms).sum(), terms.detach(), detached)

    def predict(self, batch: Batch) -> Prediction:
        """Predictions of a batch by the eager model: a graph without gradients would be a second compilation."""
        return predict(self.model, batch, with_stress=self.with_stress)


def _for_dynamo(graph: torch.fx.GraphModule) -> None:
    """Make a traced graph one that Dynamo reads and differentiates.

    The detach nodes that tracing a derivative leaves on saved results go, for a second derivative must pass them; and
    ``sym_numel``, which Dynamo refuses, becomes a product of sizes.
    """
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if node.target is aten.detach.default:
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
        elif node.target is aten.sym_numel.default:
            (tensor,) = node.args
            with graph.graph.inserting_before(node):
                sizes = [
                    graph.graph.call_function(aten.sym_size.int, (tensor, d))
                    for d in range(tensor.meta["val"].ndim)
                ]
                product = functools.reduce(
                    lambda a, b: graph.graph.call_function(operator.mul, (a, b)), sizes
                )
            node.replace_all_uses_with(product)
            graph.graph.erase_node(node)
    graph.recompile()
