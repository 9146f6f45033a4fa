"""Everything that a resumed run needs, as plain data and tensors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from mlip_train.training.finite import check_weights
from mlip_train.training.module import TrainingModule
from mlip_train.training.processes import place


def save_state(module: TrainingModule) -> dict[str, Any]:
    """Return the state of a run; call it between optimizer steps, on every process.

    Inside an epoch the errors so far are summed over processes.

    Raises
    ------
    FloatingPointError
        If a weight is not finite.
    """
    module.loss_check.finish()
    check_weights(module.model, f"step {module.steps}")
    return {
        "model": dict(module.model.state_dict()),
        "average": dict(module.average.state_dict()),
        "optimizer": module.trainer.optimizers[0].state_dict(),
        "schedule": module.schedule.state(),
        "softadapt": module.softadapt.state(),
        "errors": module.errors["train"].state(),
        "epoch": module.epoch,
        "position": module.plan.position,
        "steps": module.steps,
        "timer": module.stop.timer.state_dict(),
        "history": module.history,
        "saved_stage": module.saved_stage,
        "random": torch.get_rng_state(),
        "world": place()[0],
    }


def load_state(module: TrainingModule, state: Mapping[str, Any]) -> None:
    """Continue from :func:`save_state`; before the Trainer starts."""
    module.model.load_state_dict(state["model"])
    module.average.load_state_dict(state["average"])
    module.moments = state["optimizer"]
    module.schedule.load(state["schedule"])
    module.softadapt.load(state["softadapt"])
    module.errors["train"].load_state_dict(state["errors"])
    module.stop.timer.load_state_dict(state["timer"])
    module.epoch, module.steps, module.resumed_at = state["epoch"], state["steps"], state["position"]
    module.history, module.saved_stage = list(state["history"]), state["saved_stage"]
    torch.set_rng_state(state["random"])
