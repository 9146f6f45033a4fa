"""Loss, predictions, metrics, and compiled steps against the eager one."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from samples import WEIGHTS, model_of

from mlip_train.config import BatchConfig, CompileConfig, LossConfig
from mlip_train.data.batches import Batch, collate
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.steps import verify
from mlip_train.steps.compiled import CompiledStep, compile_step
from mlip_train.steps.eager import EagerStep
from mlip_train.steps.loss import predict
from mlip_train.steps.verify import CompileError, compare, verified_step, with_isolated_atom


def kinds_of(table: FrameTable) -> dict[str, Batch]:
    one = collate(table, np.array([9]))
    single = with_isolated_atom(one)
    empty = single._replace(
        **{f: getattr(single, f)[-1:] for f in Batch._fields if f not in ("edges", "shifts", "norms")},
        edges=torch.zeros(2, 0, dtype=torch.int32),
        shifts=torch.zeros(0, 3, dtype=torch.int16),
    )
    return {
        "mixed": collate(table, np.arange(16)),
        "small": collate(table, np.array([1, 12])),
        "one": one,
        "isolated atom": single,
        "only a isolated atom": empty._replace(frame=torch.zeros(1, dtype=torch.int64)),
    }


@pytest.mark.slow
def test_whole_step_equals_eager_on_every_kind_of_batch(toy: Any, table: FrameTable) -> None:
    strata = {0.0: 0.1, 0.3: 0.02}
    loss = LossConfig(kind="huber", delta=0.1, force_deltas=strata, element_weights={"H": 0.5})
    model = model_of(toy)
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    step, _ = verified_step(
        model, loss, CompileConfig(mode="full", evaluate=True), kinds_of(table), WEIGHTS, with_stress=True
    )
    assert isinstance(step, CompiledStep)
    eager = EagerStep(model, loss, with_stress=True)
    for kind, batch in kinds_of(table).items():
        d = compare(step, eager, model, batch, WEIGHTS)
        assert max(d) < 1e-12, (kind, d)
        a, b = step.predict(batch), predict(model, batch)
        assert all(torch.allclose(x, y, atol=1e-12) for x, y in zip(a, b, strict=True))
    with torch.no_grad():
        model.pair.mul_(1.7)  # the graph reads the weights at every call
    assert max(compare(step, eager, model, kinds_of(table)["mixed"], WEIGHTS)) < 1e-12
    for epoch in range(3):
        for batch in make_loader(Plan(table, np.arange(16), BatchConfig(edges=200), epoch=epoch)):
            step(batch, WEIGHTS)
    assert step.graphs == 2
    assert step.calls > 20
    counters = torch._dynamo.utils.counters
    assert not counters["graph_break"]
    assert counters["stats"]["unique_graphs"] == 0  # Dynamo saw no frame: nothing can recompile


@pytest.mark.slow
def test_paper_way_equals_eager(toy: Any, table: FrameTable) -> None:
    model = model_of(toy)
    step = compile_step(model, LossConfig(), "forces")
    d = compare(step, EagerStep(model, LossConfig()), model, collate(table, np.arange(16)), WEIGHTS)
    assert max(d) < 1e-12


def test_no_silent_fallback(toy: Any, table: FrameTable, monkeypatch: pytest.MonkeyPatch) -> None:
    model, kinds = model_of(toy), kinds_of(table)

    def broken(*_: Any) -> Any:
        raise RuntimeError("no compiler here")

    monkeypatch.setattr("mlip_train.steps.compiled.compile_function", broken)
    with pytest.raises(CompileError, match=r"compile.mode 'full': RuntimeError: no compiler here"):
        verified_step(model, LossConfig(), CompileConfig(mode="full"), kinds, WEIGHTS)
    with pytest.warns(
        UserWarning, match=r"training runs eager: compile.mode 'full' failed: RuntimeError: no compiler"
    ):
        step, _ = verified_step(
            model, LossConfig(), CompileConfig(mode="full", fallback="warn"), kinds, WEIGHTS
        )
    assert isinstance(step, EagerStep)


def test_wrong_numbers_are_refused(toy: Any, table: FrameTable) -> None:
    model = model_of(toy)
    other = model_of(toy, energy_scales=1.0001)
    with pytest.raises(
        CompileError,
        match=r"compiled step must agree with eager to 1e-06 on every batch, got on a batch of kind",
    ):
        verify.verify(
            EagerStep(other, LossConfig()),
            EagerStep(model, LossConfig()),
            model,
            kinds_of(table),
            WEIGHTS,
            1e-6,
        )


def test_steps_are_compared_in_full_precision(toy: Any, table: FrameTable) -> None:
    """TF32 would round the two differently; training then has it again."""
    model, seen = model_of(toy), []

    class Watched(EagerStep):
        def __call__(self, *given: Any) -> Any:
            seen.append(torch.get_float32_matmul_precision())
            return super().__call__(*given)

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high")
    try:
        for other, tolerance in ((model, 1e-12), (model_of(toy, energy_scales=1.1), 1e-6)):
            with nullcontext() if other is model else pytest.raises(CompileError):
                steps = Watched(other, LossConfig()), Watched(model, LossConfig())
                verify.verify(*steps, model, kinds_of(table), WEIGHTS, tolerance)
            assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(before)
    assert len(seen) > 2 and set(seen) == {"highest"}


def test_unknown_way(toy: Any) -> None:
    with pytest.raises(ValueError, match=r"mode must be 'eager', 'forces' or 'full', got 'jit'"):
        compile_step(model_of(toy), LossConfig(), "jit")


def test_default_tolerances(toy: Any) -> None:
    double, single = model_of(toy), model_of(toy, dtype="float32")
    assert [verify.tolerance_for(m, CompileConfig()) for m in (double, single)] == [1e-9, 2e-3]
    single.config["mlp_dtype"] = "bfloat16"
    assert verify.tolerance_for(single, CompileConfig()) == 0.25
    assert verify.tolerance_for(single, CompileConfig(tolerance=0.01)) == 0.01
