"""A training step as one compiled graph: energies, forces, loss and parameter gradients, sizes free."""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._guards import TracingContext, tracing
from torch._inductor.compile_fx import compile_fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv, StatelessSymbolicContext

from localgraph.inductor import mended_scheduler
from mlip_train.batching import Batch
from mlip_train.config import LossConfig
from mlip_train.loss import Prediction, loss_terms, predict
from mlip_train.steps import EagerStep, StepResult, trained_parameters, with_gradients

TRACE_SIZES = (40_009, 1_009, 37)
"""Edges, atoms and frames of the traced example: size hints decide what Inductor runs in parallel."""
TENSORS = len(Batch._fields) - 2
"""Tensors of a batch that enter the graph: all but ``subset`` and ``row``."""


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
        """The whole step as a function of tensors, for tracing."""
        weights, rest, data = self._split(tensors)
        leaves = [w.detach().requires_grad_(True) for w in weights]
        batch = _batch(data[:TENSORS])

        def model(*arguments: Tensor) -> Tensor:
            return functional_call(
                self.model, {**dict(zip(self.trained, leaves, strict=True)), **rest}, arguments
            )

        prediction = predict(model, batch, create_graph=True, with_stress=self.with_stress)
        terms = loss_terms(self.loss, batch, prediction)
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
            return functional_call(
                self.model, {**dict(zip(self.trained, weights, strict=True)), **rest}, arguments
            )

        return tuple(predict(model, batch, with_stress=self.with_stress))

    def _weights(self) -> list[Tensor]:
        state = _state(self.model)
        return [*(state[n].detach() for n in self.trained), *(state[n].detach() for n in self.rest)]

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """See :class:`mlip_train.steps.Step`."""
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


class PaperStep:
    """The way of arXiv 2504.16068: trace energies and forces, then torch.compile with AOTAutograd's backward.

    Recompiles for sizes 0 and 1 and for each graph Dynamo finds it needs; kept to be compared with.
    """

    def __init__(self, model: nn.Module, loss: LossConfig, with_stress: bool = False):
        self.model, self.loss, self.with_stress = model, loss, with_stress
        self.names = tuple(_state(model))
        state = _state(model)
        example = _inputs(example_batch(next(iter(state.values())).device))
        weights = [state[n].detach() for n in self.names]
        with mended_scheduler():
            self._graph, _ = _trace(self._function, weights, example)
        _for_dynamo(self._graph)
        self._run = torch.compile(self._graph, dynamic=True, fullgraph=True)
        self.calls = 0

    def _function(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        n = len(self.names)
        batch = _batch(tensors[n:])
        weights = dict(zip(self.names, tensors[:n], strict=True))

        def model(*arguments: Tensor) -> Tensor:
            return functional_call(self.model, weights, arguments)

        return tuple(predict(model, batch, create_graph=True, with_stress=self.with_stress))

    def __call__(self, batch: Batch, coefficients: Tensor) -> StepResult:
        """See :class:`mlip_train.steps.Step`."""
        self.calls += 1
        state = _state(self.model)
        with mended_scheduler():
            prediction = Prediction(*self._run(*(state[n] for n in self.names), *_inputs(batch)))
        terms = loss_terms(self.loss, batch, prediction)
        detached = Prediction(*(t.detach() for t in prediction))
        return StepResult((coefficients * terms).sum(), terms.detach(), detached)

    def predict(self, batch: Batch) -> Prediction:
        """Predictions of a batch by the eager model: a graph without gradients would be a second compilation."""
        return predict(self.model, batch, with_stress=self.with_stress)


def compile_step(
    model: nn.Module, loss: LossConfig, way: str = "whole", with_stress: bool = False, evaluate: bool = False
) -> EagerStep | PaperStep | CompiledStep:
    """A training step for a model, by name of the way; nothing is compared yet (see :func:`mlip_train.verify.verify`).

    Parameters
    ----------
    model : EdgeModel
        Trained in place; the step reads its parameters and buffers at every call.
    loss : LossConfig
        Error function.
    way : {"eager", "paper", "whole"}
        See :class:`~mlip_train.config.CompileConfig`.
    with_stress, evaluate : bool
        Compute stresses; also compile predictions (``whole``).

    Raises
    ------
    ValueError
        If ``way`` is none of these.
    """
    if way == "eager":
        return EagerStep(model, loss, with_stress)
    if way == "paper":
        return PaperStep(model, loss, with_stress)
    if way == "whole":
        return CompiledStep(model, loss, with_stress, evaluate)
    raise ValueError(f"way: required 'eager', 'paper' or 'whole', got {way!r}")


def compile_function(
    function: Callable[..., Any], weights: Sequence[Tensor], data: Sequence[Tensor]
) -> tuple[Callable[..., Any], int]:
    """Trace ``function(*weights, *data)`` into one graph of primitive operations and compile it.

    The shapes of ``weights`` are fixed; every dimension of ``data`` larger than 9 in the example is free. No guards are
    installed and there is no way back to Python: the compiled function serves every size.

    Returns
    -------
    callable, int
        The compiled function and the number of nodes of its graph.
    """
    with mended_scheduler():
        graph, fakes = _trace(function, weights, data)
        with torch.no_grad(), tracing(TracingContext(fakes[0].fake_mode)):
            run: Any = compile_fx(graph, fakes)
    return run, len(graph.graph.nodes)


def _trace(
    function: Callable[..., Any], weights: Sequence[Tensor], data: Sequence[Tensor]
) -> tuple[torch.fx.GraphModule, list[Any]]:
    mode = FakeTensorMode(shape_env=ShapeEnv(duck_shape=False), allow_non_fake_inputs=True)

    def fake(t: Tensor, free: bool) -> Any:
        kinds = [DimDynamic.DYNAMIC if free and n > 9 else DimDynamic.STATIC for n in t.shape]
        return mode.from_tensor(t.detach(), symbolic_context=StatelessSymbolicContext(dynamic_sizes=kinds))

    fakes = [*(fake(t, False) for t in weights), *(fake(t, True) for t in data)]
    with torch.enable_grad():
        graph = make_fx(function, tracing_mode="symbolic", _allow_non_fake_inputs=True)(*fakes)
    return graph, fakes


def example_batch(device: torch.device | str = "cpu") -> Batch:
    """A batch of the sizes ``TRACE_SIZES`` for tracing; its values are never computed with."""
    e, n, f = TRACE_SIZES
    x: dict[str, Any] = {"dtype": torch.float64, "device": device}
    i: dict[str, Any] = {"dtype": torch.int64, "device": device}
    return Batch(
        edge_vectors=torch.ones(e, 3, **x),
        edge_index=torch.zeros(2, e, **i),
        types=torch.zeros(n, **i),
        frame=torch.zeros(n, **i),
        atoms=torch.ones(f, **x),
        volume=torch.ones(f, **x),
        energy=torch.ones(f, **x),
        forces=torch.ones(n, 3, **x),
        stress=torch.ones(f, 3, 3, **x),
        energy_weight=torch.ones(f, **x),
        force_weight=torch.ones(n, **x),
        stress_weight=torch.ones(f, **x),
        norms=torch.ones(3, **x),
        subset=torch.zeros(f, **i),
        row=torch.zeros(f, **i),
    )


def _inputs(batch: Batch) -> list[Tensor]:
    return list(batch[:TENSORS])


def _batch(tensors: Sequence[Tensor]) -> Batch:
    """The inverse of :func:`_inputs`; ``subset`` and ``row`` are stand-ins that nothing reads."""
    return Batch._make([*tensors, tensors[1][0], tensors[1][0]])


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


def _state(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
