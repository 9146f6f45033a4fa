"""Batches on the device: transfers, frames that stay there, and steps that the host never waits for."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from samples import model_of, table_of
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from mlip_train import TrainConfig, dry_run, fit, from_plain
from mlip_train.config import BatchConfig, LossConfig
from mlip_train.data import feed, resident
from mlip_train.data.batches import Batch, collate
from mlip_train.data.frames import FrameTable
from mlip_train.data.plan import Plan
from mlip_train.data.resident import Resident, bytes_of, check_memory, request_loader
from mlip_train.steps.eager import EagerStep
from mlip_train.training.module import TrainingModule

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:lightning", "ignore:.*LeafSpec.*")
CPU = torch.device("cpu")


def module_of(toy: Any, table: FrameTable, **changes: Any) -> TrainingModule:
    plain = {"loss": {"stress": 1.0}, "logging": {"progress": False}, "batch": {"frames": 5}} | changes
    config = from_plain(TrainConfig, plain)
    plan = Plan(table, np.arange(len(table)), config.batch)
    model = model_of(toy)
    return TrainingModule(model, config, plan, plan, EagerStep(model, LossConfig(), with_stress=True))


@pytest.mark.parametrize("cached", [False, True])
def test_a_gather_is_what_is_collated(make_frames: Callable[..., Any], tmp_path: Path, cached: bool) -> None:
    frames = [*make_frames(8, periodic=True), *make_frames(8, seed=1)]
    table = table_of(frames, tmp_path, keep_edges=cached)
    held = Resident(table, CPU, workers=1)
    plan = Plan(table, np.arange(16), BatchConfig(frames=3, accumulate=4), seed=2)  # with fillers
    seen = 0
    for request in request_loader(plan, "train"):
        found, expected = held.batch(*request.batch), collate(table, *request.batch)
        for name, a, b in zip(Batch._fields, found, expected, strict=True):
            assert a.dtype == b.dtype and torch.equal(a, b), name
        seen += len(request.batch.rows)
    assert seen > 16


def test_frames_of_several_chunks_and_their_bytes(
    make_frames: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = table_of(make_frames(11, periodic=True), tmp_path)
    monkeypatch.setattr(resident, "CHUNK", 4)
    held, rows = Resident(table, CPU), np.array([10, 0, 7])
    for a, b in zip(held.batch(rows, np.ones(3)), collate(table, rows, np.ones(3)), strict=True):
        assert torch.equal(a, b)
    tensors = [*held._columns.values(), *held._starts, *held._counts]
    assert sum(t.nbytes for t in tensors) == bytes_of(table)


def test_frames_that_do_not_fit_are_refused(table: FrameTable, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = bytes_of(table)
    monkeypatch.setattr(resident, "free_memory", lambda device: int(needed / 0.6) + 2)
    check_memory(table, CPU)
    monkeypatch.setattr(resident, "free_memory", lambda device: int(needed / 0.6) - 2)
    with pytest.raises(
        ValueError, match=r"data.resident must be false .* 60% of the free memory of cpu .* 16 frames"
    ):
        Resident(table, CPU)


def test_resident_frames_train_to_the_same_numbers(toy: Any, plain_run: dict[str, Any]) -> None:
    rows = []
    for kept in (False, True):
        plain = copy.deepcopy(plain_run) | {"output": f"{plain_run['output']}{kept}"}
        plain["data"]["resident"] = kept
        plain["batch"]["accumulate"] = 2
        plain["logging"]["report"] = False
        history = fit(from_plain(TrainConfig, plain)).history
        rows.append([{k: v for k, v in row.items() if k != "seconds"} for row in history])
    assert rows[0] == rows[1]
    assert dry_run(from_plain(TrainConfig, plain_run))["frames with data.resident, MiB"] == 0


def test_batches_travel_from_pinned_memory_without_waiting(
    toy: Any, table: FrameTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lightning would pass ``non_blocking`` for bare tensors only."""
    module, batch, seen = module_of(toy, table), collate(table, np.arange(3)), []

    def to(self: Batch, device: Any, **options: Any) -> Batch:
        seen.append((torch.device(device).type, options))
        return self

    monkeypatch.setattr(Batch, "to", to)
    for device in ("cuda:0", "cpu"):
        assert module._apply_batch_transfer_handler(batch, torch.device(device)) is batch
    assert seen == [("cuda", {"non_blocking": True}), ("cpu", {"non_blocking": False})]
    pinned = []
    monkeypatch.setattr(feed, "make_loader", lambda *_, pin_memory: pinned.append(pin_memory))
    for part, device in (("train", "cuda:0"), ("validation", "cpu")):
        monkeypatch.setattr(TrainingModule, "device", torch.device(device))
        module.val_dataloader() if part == "validation" else module.train_dataloader()
    assert pinned == [True, False]
    monkeypatch.setattr(Tensor, "pin_memory", lambda self, *_: self + 1)
    kept = torch.utils.data._utils.pin_memory.pin_memory(batch)
    assert isinstance(kept, Batch) and all(torch.equal(a, b + 1) for a, b in zip(kept, batch, strict=True))


def test_a_step_reads_nothing_from_the_device(
    toy: Any, table: FrameTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the device ``meta`` tensors have no values: whatever reads one, or a size that depends on one, fails."""
    with pytest.raises((RuntimeError, NotImplementedError)):
        bool(torch.ones((), device="meta"))
    module = module_of(toy, table).to("meta")
    module.errors["train"].to("meta")
    held = Resident(table, torch.device("meta"))
    checked: list[str] = []
    monkeypatch.setattr(module.loss_check, "add", lambda *given: checked.append(given[-1]))
    for filler in (False, True):
        batch = held.batch(np.array([3, 9, 1]), np.ones(3), filler)
        assert batch.positions.is_meta and module.weights.is_meta
        module.training_step(batch, 0).backward()
        torch.nn.utils.clip_grad_norm_(module.model.parameters(), 1.0)
        module.average.update_parameters(module.model)
    assert len(checked) == 2
    assert all(p.grad is not None for p in module.model.parameters())


class Reads(TorchDispatchMode):
    """Counts operators that return a value, or a number of rows, of the device to the host."""

    def __init__(self) -> None:
        super().__init__()
        self.operators, self.found = 0, []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket._qualified_op_name
        masked = name == "aten::index" and any(t is not None and t.dtype == torch.bool for t in args[1])
        reads = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique")
        self.operators += 1
        if masked or name.removeprefix("aten::").rstrip("2_") in reads:
            self.found.append(name)
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "changes", [{}, {"ema": 0.0}, {"swa": 0}, {"optimizer": {"name": "adamw", "clip": 1.0, "amsgrad": True}}]
)
def test_whole_epochs_read_nothing(
    toy: Any, plain_run: dict[str, Any], monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any]
) -> None:
    """Including gather, clipping, optimizer, average and what Lightning does, from the first to the last batch."""
    reads: list[Reads] = []

    def start(self: TrainingModule, *given: Any) -> None:
        if not self.plan.position:
            reads.append(Reads())
            reads[-1].__enter__()
        begin(self, *given)

    def step(self: TrainingModule, *given: Any) -> None:
        end(self, *given)
        if self.plan.position == self.plan.total:
            reads[-1].__exit__(None, None, None)

    begin, end = TrainingModule.on_train_batch_start, TrainingModule.optimizer_step
    monkeypatch.setattr(TrainingModule, "on_train_batch_start", start)
    monkeypatch.setattr(TrainingModule, "optimizer_step", step)
    plain = copy.deepcopy(plain_run) | changes | {"loss": {"stress": 0.0}}
    plain["data"] |= {"resident": True, "validation_fraction": 0.0}
    plain["logging"]["report"] = False
    fit(from_plain(TrainConfig, json.loads(json.dumps(plain))))
    assert len(reads) == 2 and min(r.operators for r in reads) > 100
    assert [r.found for r in reads] == [[], []]
    with Reads() as some:
        (torch.ones(3)[torch.ones(3) > 0]).sum().item()
    assert some.found == ["aten::index", "aten::_local_scalar_dense"]
