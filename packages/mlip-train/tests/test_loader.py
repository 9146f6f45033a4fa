"""Micro-batches: budgets, shares of processes, resumption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ase.io
import numpy as np
import pytest
import torch
from samples import CUTOFFS, table_of

from mlip_train.config import BatchConfig, DataConfig, SourceConfig
from mlip_train.data.build import build_table
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan, assign
from mlip_train.data.split import groups_of, split


@pytest.mark.parametrize(
    "budget", [{"frames": 4}, {"atoms": 20}, {"edges": 120}, {"frames": 5, "edges": 150}]
)
def test_plan_respects_budgets_and_is_a_partition(budget: dict[str, int]) -> None:
    rng = np.random.default_rng(0)
    atoms, edges = rng.integers(3, 10, 101), rng.integers(6, 72, 101)
    batches = assign(atoms, edges, BatchConfig(**budget), np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(101))
    sizes = {"frames": np.ones(101, int), "atoms": atoms, "edges": edges}
    for name, limit in budget.items():
        assert max(int(sizes[name][b].sum()) for b in batches) <= limit
    assert [b.tolist() for b in assign(atoms, edges, BatchConfig(**budget), np.random.default_rng(1))] == [
        b.tolist() for b in batches
    ]


def test_buckets_make_batches_alike() -> None:
    rng = np.random.default_rng(0)
    edges = rng.integers(10, 1000, 400)

    def spread(buckets: int) -> float:
        plans = assign(edges // 10, edges, BatchConfig(frames=8, buckets=buckets), np.random.default_rng(1))
        return float(np.mean([edges[b].std() for b in plans]))

    assert spread(16) < 0.5 * spread(0)


def test_budget_errors_name_the_frame(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    table = table_of(make_frames(6), tmp_path)
    with pytest.raises(ValueError, match=r"batch.edges must hold the largest frame.*frames.xyz, frame"):
        Plan(table, np.arange(6), BatchConfig(edges=2))
    with pytest.raises(ValueError, match=r"batch must set at least one of frames, atoms or edges"):
        Plan(table, np.arange(6), BatchConfig())


@pytest.mark.parametrize(("world", "accumulate"), [(1, 1), (2, 1), (3, 1), (1, 3), (2, 2)])
def test_processes_share_an_epoch(
    make_frames: Callable[..., Any], tmp_path: Path, world: int, accumulate: int
) -> None:
    table = table_of(make_frames(23), tmp_path)
    config = BatchConfig(frames=2, accumulate=accumulate)
    loaders = [Plan(table, np.arange(23), config, seed=5, rank=r, world=world) for r in range(world)]
    parts = [list(make_loader(plan, workers=r % 2)) for r, plan in enumerate(loaders)]
    assert {len(p) for p in parts} == {len(loaders[0])}
    assert len(loaders[0]) % accumulate == 0
    rows = np.concatenate([b.row.numpy() for p in parts for b in p])
    assert sorted(rows[rows >= 0].tolist()) == list(range(23))
    for step in range(0, len(loaders[0]), accumulate):
        together = [b for p in parts for b in p[step : step + accumulate]]
        sums = sum(
            torch.stack([b.energy_weight.sum(), 3 * b.force_weight.sum(), 9 * b.stress_weight.sum()])
            for b in together
        )
        assert all(torch.allclose(b.norms, sums) for b in together)


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_continues_where_it_was(make_frames: Callable[..., Any], tmp_path: Path, workers: int) -> None:
    table = table_of(make_frames(17), tmp_path)
    plan = Plan(table, np.arange(17), BatchConfig(frames=2), seed=3, epoch=2)
    loader = make_loader(plan, workers)
    whole = [b.row.tolist() for b in loader]
    assert len(whole) == len(plan) == plan.total == 9
    plan.begin(3)
    other = [b.row.tolist() for b in loader]
    assert other != whole and sorted(row for rows in other for row in rows) == list(range(17))
    plan.begin(2, position=4)
    assert (len(loader), plan.total) == (5, 9)
    assert [b.row.tolist() for b in loader] == whole[4:]
    plan.begin(2, position=9)  # an epoch that was complete
    assert [b.row.tolist() for b in loader] == whole


def test_workers_collate_the_same_batches(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    table = table_of(make_frames(11, periodic=True), tmp_path)
    plan = Plan(table, np.arange(11), BatchConfig(frames=3, accumulate=2), seed=1)
    for a, b in zip(make_loader(plan), make_loader(plan, workers=1), strict=True):
        assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_workers_report_errors(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    plan = Plan(table_of(make_frames(4), tmp_path), np.arange(4), BatchConfig(frames=2))
    plan.labels = tuple(np.ones(100) for _ in plan.labels)  # type: ignore[assignment]
    plan.batches[1] = np.array([99])
    with pytest.raises(IndexError):
        list(make_loader(plan, workers=1))


def test_epochs_use_shares_of_sources_and_a_limit(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    for name, count in (("a.xyz", 10), ("b.xyz", 20)):
        ase.io.write(tmp_path / name, make_frames(count))
    shares = {"a.xyz": 2.5, "b.xyz": 0.25}
    sources = [SourceConfig(path=str(tmp_path / name), share=share) for name, share in shares.items()]
    table = build_table(sources, ["H", "O"], CUTOFFS, tmp_path / "cache")

    def epoch(number: int, **options: Any) -> list[int]:
        plan = Plan(table, np.arange(30), BatchConfig(frames=4), seed=1, epoch=number, **options)
        return sorted(np.concatenate(plan.batches).tolist())

    first, counts = epoch(0), np.bincount(epoch(0), minlength=30)
    assert set(counts[:10]) == {2, 3} and counts[:10].sum() == 25 and counts[10:].sum() == 5
    assert epoch(0) == first and epoch(1) != first
    assert len(epoch(0, limit=0.5)) == 15 and len(epoch(0, limit=1e-9)) == 1
    assert epoch(0, shuffle=False, limit=0.5) == list(range(30))


def test_frames_held_out_together(make_frames: Callable[..., Any], tmp_path: Path) -> None:
    frames = make_frames(60)
    for i, atoms in enumerate(frames):
        atoms.info["name"] = f"molecule {i % 7}"
    ase.io.write(tmp_path / "a.xyz", frames[:35])
    ase.io.write(tmp_path / "b.xyz", frames[35:])
    sources = [SourceConfig(path=str(tmp_path / name)) for name in ("a.xyz", "b.xyz")]
    table = build_table(sources, ["H", "O"], CUTOFFS, tmp_path / "cache")
    groups = groups_of(table, DataConfig(validation_by="group"))
    assert groups is not None and len(np.unique(groups)) == 7
    blocks = groups_of(table, DataConfig(validation_by="block", validation_block=10))
    assert blocks is not None and np.bincount(blocks).tolist() == [10, 10, 10, 5, 10, 10, 5]
    for numbers in (groups, blocks):
        rows, held = split(60, 0.2, 3, groups=numbers)
        assert sorted([*rows, *held]) == list(range(60)) and 12 <= len(held) <= 21
        assert not set(numbers[rows]) & set(numbers[held])
    assert len(split(60, 0.99, 3, groups=groups)[0]) > 0 and len(split(60, 0.0, 3, groups=groups)[1]) == 0
    assert len(split(60, 0.2, 3, groups=np.zeros(60, np.int64))[1]) == 0
    keep = np.arange(60) == 5
    assert all(5 in split(60, 0.5, seed, keep, groups)[0] for seed in range(6))
