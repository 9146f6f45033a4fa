"""The training step on a GPU: compiled against eager, and against the CPU.

``MLIP_TRAIN_GPU_TESTS_ON=cpu`` runs what needs no GPU on the CPU, to check the tests themselves.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from samples import WEIGHTS, model_of

from mlip_train import TrainConfig, from_plain
from mlip_train.config import BatchConfig, CompileConfig, LossConfig
from mlip_train.data.batches import collate
from mlip_train.data.frames import FrameTable
from mlip_train.data.loader import make_loader
from mlip_train.data.plan import Plan
from mlip_train.data.resident import Resident
from mlip_train.steps.eager import EagerStep
from mlip_train.steps.verify import gradients, verified_step
from mlip_train.training.module import TrainingModule

DEVICE = os.environ.get("MLIP_TRAIN_GPU_TESTS_ON", "cuda")
HERE = DEVICE == "cpu" or torch.cuda.is_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not HERE, reason="no CUDA device")]


def test_the_eager_step_is_that_of_the_cpu(toy: Any, table: FrameTable) -> None:
    batch, found = collate(table, np.arange(16)), []
    for device in ("cpu", DEVICE):
        model = model_of(toy).to(device)
        result, grads = gradients(EagerStep(model, LossConfig()), model, batch.to(device), WEIGHTS.to(device))
        found.append([result.loss.detach().cpu(), *(g.cpu() for g in grads)])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(b, a, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_the_whole_step_is_verified_whatever_the_precision(table: FrameTable, precision: str) -> None:
    """``high`` is TF32, under which the compiled and the eager step would differ by a thousandth and more."""
    allegro = pytest.importorskip("allegro_model")
    torch.manual_seed(3)
    options = dict(latent_width=32, latent_depth=1, num_tensor_features=16, avg_num_neighbors=10.0)
    config = allegro.AllegroConfig(type_names=["H", "O"], cutoff=4.0, dtype="float32", **options)
    model = allegro.Allegro(config).to(DEVICE)
    batch, weights = collate(table, np.arange(16)).to(DEVICE), WEIGHTS.to(DEVICE)
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(precision)
    try:
        step, found = verified_step(
            model, LossConfig(), CompileConfig(mode="full"), {"batch": batch}, weights
        )
        assert max(found["batch"][:2]) < 2e-4
        loss = step(batch, weights).loss
        expected = EagerStep(model, LossConfig())(batch, weights).loss
        assert loss.device.type == DEVICE
        torch.testing.assert_close(loss, expected, rtol=1e-2, atol=0)
    finally:
        torch.set_float32_matmul_precision(before)


def test_resident_frames_are_those_that_are_collated(table: FrameTable) -> None:
    held, rows = Resident(table, torch.device(DEVICE)), np.array([12, 3, 9])
    for a, b in zip(held.batch(rows, np.ones(3)), collate(table, rows, np.ones(3)), strict=True):
        assert a.device.type == DEVICE and torch.equal(a.cpu(), b)


def test_steps_wait_for_nothing(toy: Any, table: FrameTable) -> None:
    """CUDA reports every wait of the host as an error; a loss that is not finite is reported one step late."""
    config = from_plain(TrainConfig, {"logging": {"progress": False}, "batch": {"frames": 4}})
    model, plan = model_of(toy), Plan(table, np.arange(16), config.batch)
    module = TrainingModule(model, config, plan, None, EagerStep(model, LossConfig())).to(DEVICE)
    module.errors["train"].to(DEVICE)
    held, optimizer = Resident(table, torch.device(DEVICE)), module.configure_optimizers()
    for repeat in range(3):
        if repeat == 1 and DEVICE == "cuda":  # the first step loads kernels and copies weights of the loss
            torch.cuda.set_sync_debug_mode("error")
        try:
            module.training_step(held.batch(np.array([repeat, 9]), np.ones(3)), repeat).backward()
            torch.nn.utils.clip_grad_norm_(module.model.parameters(), 1.0)
            optimizer.step()
            module.average.update_parameters(module.model)
        finally:
            if DEVICE == "cuda":
                torch.cuda.set_sync_debug_mode("default")
    module.loss_check.finish()


@pytest.mark.skipif(DEVICE == "cpu", reason="of CUDA alone")
def test_batches_travel_from_pinned_memory(table: FrameTable) -> None:
    plan = Plan(table, np.arange(16), BatchConfig(frames=4))
    for workers in (0, 1):
        for batch in make_loader(plan, workers, pin_memory=True):
            assert all(t.is_pinned() for t in batch)


@pytest.mark.skipif(DEVICE == "cpu", reason="of CUDA alone")
def test_nccl_of_one_process(tmp_path: Any) -> None:
    """Sums and broadcasts of the dtypes that training exchanges."""
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path / 'store'}", rank=0, world_size=1
    )
    try:
        for dtype in (torch.float32, torch.float64, torch.int64):
            values = torch.arange(5, device="cuda").to(dtype)
            torch.distributed.all_reduce(values)
            torch.distributed.broadcast(values, 0)
            assert values.tolist() == [0, 1, 2, 3, 4]
    finally:
        torch.distributed.destroy_process_group()
