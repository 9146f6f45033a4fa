"""Loss and predictions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from samples import CUTOFFS, WEIGHTS, model_of, table_of

from mlip_train.config import BatchConfig, LossConfig, SourceConfig, StageConfig, TrainConfig
from mlip_train.data import batches as batching
from mlip_train.data.batches import collate
from mlip_train.data.build import build_table
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.steps import verify
from mlip_train.steps.eager import EagerStep
from mlip_train.steps.loss import coefficients, error, loss_terms, predict, stratified_huber


def test_forces_and_stress_are_derivatives(toy: Any, make_frames: Callable[..., Any], tmp_path: Path) -> None:
    model, h = model_of(toy), 1e-3
    atoms = make_frames(1, periodic=True)[0]

    def moved(change: Callable[[Any], None]) -> Any:
        copy = atoms.copy()
        copy.info["energy"] = 0.0
        change(copy)
        return copy

    def displaced(a: int, k: int, d: float) -> Any:
        return moved(lambda c: c.positions.__setitem__((a, k), c.positions[a, k] + d))

    def strained(i: int, j: int, d: float) -> Any:
        strain = np.eye(3)
        strain[i, j] += 0.5 * d
        strain[j, i] += 0.5 * d
        return moved(lambda c: c.set_cell(c.cell.array @ strain, scale_atoms=True))

    pairs = [(displaced(1, k, h), displaced(1, k, -h)) for k in range(3)]
    pairs += [(strained(i, j, h), strained(i, j, -h)) for i, j in ((0, 0), (1, 2))]
    frames = [moved(lambda c: None), *(f for pair in pairs for f in pair)]
    ase.io.write(tmp_path / "moved.xyz", frames)
    table = build_table(
        [SourceConfig(path=str(tmp_path / "moved.xyz"))], ["H", "O"], CUTOFFS, tmp_path / "c2"
    )
    out = predict(model, collate(table, np.arange(len(frames))))
    slopes = [(float(out.energy[1 + 2 * i] - out.energy[2 + 2 * i])) / (2 * h) for i in range(5)]
    assert np.allclose(out.forces[1].numpy(), [-s for s in slopes[:3]], atol=1e-4)
    volume = atoms.get_volume()
    assert out.stress[0, 0, 0] * volume == pytest.approx(slopes[3], abs=1e-4)
    assert out.stress[0, 1, 2] * volume == pytest.approx(slopes[4], abs=1e-4)


@pytest.mark.parametrize("kind", ["mse", "mae", "huber"])
def test_loss_is_the_weighted_mean(toy: Any, table: FrameTable, kind: str) -> None:
    table.arrays["weight"] = np.linspace(0.5, 2.0, len(table))
    batch = collate(table, np.arange(len(table)))
    out = predict(model_of(toy), batch)
    terms = loss_terms(LossConfig(kind=kind, delta=0.3), batch, out)  # type: ignore[arg-type]

    def f(x: np.ndarray) -> np.ndarray:
        size = np.abs(x)
        huber = np.where(size < 0.3, 0.5 * x**2, 0.3 * (size - 0.15))
        return {"mse": x**2, "mae": size, "huber": huber}[kind]

    w = np.asarray(table.arrays["weight"])
    de = (out.energy - batch.energy).numpy() / table.atom_counts
    assert float(terms[0]) == pytest.approx((w * f(de)).sum() / w.sum())
    wa = np.repeat(w, table.atom_counts)[:, None]
    df = (out.forces - batch.forces).numpy()
    assert float(terms[1]) == pytest.approx((wa * f(df)).sum() / (3 * wa.sum()))
    has = np.isfinite(table.arrays["stress_max"])
    ds = (out.stress - batch.stress).numpy()[has]
    assert has.sum() == 8
    assert float(terms[2]) == pytest.approx((w[has, None, None] * f(ds)).sum() / (9 * w[has].sum()))


def test_terms_have_kinds_and_deltas_of_their_own(toy: Any, table: FrameTable) -> None:
    batch = collate(table, np.arange(len(table)))
    out = predict(model_of(toy), batch)
    mixed = LossConfig(energy_kind="mae", kind="huber", delta=0.3, stress_delta=1e-3)
    whole = [
        loss_terms(LossConfig(kind=kind, delta=delta), batch, out)
        for kind, delta in (("mae", 1.0), ("huber", 0.3), ("huber", 1e-3))
    ]
    expected = torch.stack([whole[i][i] for i in range(3)])
    assert torch.equal(loss_terms(mixed, batch, out), expected)


@pytest.mark.parametrize("deltas", [{0.0: 0.05, 0.4: 0.2, 1.0: 0.01}, {0.4: 0.2}, {2.0: 0.1, 0.1: 0.05}])
def test_stratified_huber_takes_delta_from_the_label(toy: Any, table: FrameTable, deltas: Any) -> None:
    batch = collate(table, np.arange(len(table)))
    out = predict(model_of(toy), batch)
    term = loss_terms(LossConfig(kind="huber", force_deltas=deltas), batch, out)[1]
    total = 0.0
    for label, force in zip(batch.forces.numpy(), out.forces.numpy(), strict=True):
        below = [bound for bound in deltas if bound <= np.linalg.norm(label)]
        delta = deltas[max(below)] if below else np.inf
        for x in np.abs(force - label):
            total += 0.5 * x**2 if x < delta else delta * (x - 0.5 * delta)
    assert float(term) == pytest.approx(total / (3 * len(batch.types)), rel=1e-12)


def test_gradients_of_unbounded_strata_are_finite() -> None:
    x = torch.tensor([[0.0, 3.0, -1e6]], dtype=torch.float64, requires_grad=True)
    stratified_huber({9.0: 0.1}, x, torch.ones(1, 3, dtype=torch.float64)).sum().backward()
    assert torch.equal(x.grad, x.detach())


def test_force_errors_of_elements_have_factors(toy: Any, table: FrameTable) -> None:
    batch = collate(table, np.arange(len(table)))
    out, names = predict(model_of(toy), batch), ("H", "O")
    terms = {
        h: loss_terms(LossConfig(element_weights={"H": h}), batch, out, names)[1] for h in (0.0, 1.0, 3.0)
    }
    squares = ((out.forces - batch.forces) ** 2).sum(1)
    oxygen = squares[batch.types == 1].sum() / (3 * len(batch.types))
    assert float(terms[0.0]) == pytest.approx(float(oxygen), rel=1e-12)
    assert float(terms[3.0] - terms[1.0]) == pytest.approx(2 * float(terms[1.0] - oxygen), rel=1e-12)
    with pytest.raises(
        ValueError, match=r"loss.element_weights must name elements of the model, \['H', 'O'\], got 'C'"
    ):
        loss_terms(LossConfig(element_weights={"C": 1.0}), batch, out, names)


def test_huber_is_smooth_where_it_turns() -> None:
    x = torch.tensor([0.3 - 1e-9, 0.3 + 1e-9, -5.0], dtype=torch.float64)
    values = error("huber", 0.3, x)
    assert abs(values[0] - values[1]) < 1e-8
    assert values[2] == pytest.approx(0.3 * (5.0 - 0.15))


def test_parts_of_a_global_batch_add_up(toy: Any, table: FrameTable) -> None:
    model, loss = model_of(toy), LossConfig(stress=1.0)
    step = EagerStep(model, loss, with_stress=True)
    whole, reference = verify.gradients(step, model, collate(table, np.arange(16)), WEIGHTS)
    loader = make_loader(Plan(table, np.arange(16), BatchConfig(frames=3, accumulate=7)))
    parts = [verify.gradients(step, model, b, WEIGHTS) for b in loader]
    assert len(parts) == 7
    assert float(sum(r.loss.detach() for r, _ in parts)) == pytest.approx(
        float(whole.loss.detach()), rel=1e-12
    )
    for i, g in enumerate(reference):
        assert torch.allclose(sum(p[i] for _, p in parts), g, rtol=1e-11, atol=1e-13)


def test_missing_labels_do_not_count(toy: Any, make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(16)
    del frames[3].calc.results["forces"], frames[5].calc.results["energy"]
    table = table_of(frames, tmp_path)
    batch = collate(table, np.arange(16))
    terms = loss_terms(LossConfig(), batch, predict(model_of(toy), batch))
    assert torch.isfinite(terms).all()
    assert float(batch.norms[1]) == 3 * (table.atom_counts.sum() - table.atom_counts[3])
    assert float(batch.norms[0]) == 15


def test_stages() -> None:
    loss, stages = LossConfig(energy=1, forces=100), (StageConfig(epoch=10, energy=101, forces=1, ramp=4),)
    assert coefficients(loss, stages, 9) == (1, 100, 0)
    assert coefficients(loss, stages, 10) == (26, 75.25, 0)
    assert coefficients(loss, stages, 50) == (101, 1, 0)
    config = TrainConfig(loss=LossConfig(energy=0), stages=(StageConfig(stress=1.0),))
    assert config.weighted == (False, True, True)


def test_filler_weighs_nothing(toy: Any, table: FrameTable) -> None:
    batch = batching.collate(table, np.array([2]), filler=True)
    result = EagerStep(model_of(toy), LossConfig(), True)(batch, WEIGHTS)
    assert float(result.loss.detach()) == 0.0
    assert batch.row.tolist() == [-1]
