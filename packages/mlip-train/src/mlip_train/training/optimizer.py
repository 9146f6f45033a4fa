"""Optimizers by name: Muon beside AdamW, AdamW alone, and schedule-free AdamW."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from mlip_train.config.training import OptimizerConfig


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """Build the configured optimizer of the parameters that require gradients, with weight decay on matrices only.

    Raises
    ------
    ImportError
        If the optimizer is in none of the installed packages.
    ValueError
        For a prefix in ``config.adamw`` that matches no parameter.
    """
    named = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if config.name == "muon":
        return _muon(named, config)
    options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps}
    if config.name == "schedulefree":
        try:
            from schedulefree import AdamWScheduleFree
        except ImportError as e:
            raise ImportError(
                "optimizer.name must name an installed optimizer (pip install schedulefree), got 'schedulefree': "
                f"{e}"
            ) from None
        made: torch.optim.Optimizer = AdamWScheduleFree(_groups(named.values(), config), **options)
        return made
    return torch.optim.AdamW(_groups(named.values(), config), **options, amsgrad=config.amsgrad, fused=True)


def _groups(parameters: Any, config: OptimizerConfig) -> list[dict[str, Any]]:
    trained = list(parameters)
    return [
        {"params": [p for p in trained if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trained if p.ndim < 2], "weight_decay": 0.0},
    ]


def _muon(named: dict[str, nn.Parameter], config: OptimizerConfig) -> torch.optim.Optimizer:
    """Muon for matrices, AdamW for the rest and for the prefixes of ``config.adamw``."""
    for prefix in config.adamw:
        if not any(name.startswith(prefix) for name in named):
            names = sorted({name.split(".")[0] for name in named})
            raise ValueError(
                f"optimizer.adamw must be a prefix of a trained parameter's name ({names} ...), got {prefix!r}"
            )
    matrices = {n: p for n, p in named.items() if p.ndim == 2 and not n.startswith(config.adamw)}
    rest = [p for n, p in named.items() if n not in matrices]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        made.append(
            torch.optim.Muon(
                list(matrices.values()),
                lr=config.lr,
                weight_decay=config.weight_decay,
                momentum=config.momentum,
                adjust_lr_fn="match_rms_adamw",
            )
        )
    if rest:
        options: dict[str, Any] = {"lr": config.lr, "betas": config.betas, "eps": config.eps, "fused": True}
        made.append(torch.optim.AdamW(_groups(rest, config), **options))
    return Joined(made)


class Joined(torch.optim.Optimizer):
    """Several optimizers of different parameters as one: Lightning's automatic optimization takes a single one."""

    def __init__(self, optimizers: Sequence[torch.optim.Optimizer]):
        self.optimizers = list(optimizers)
        super().__init__([g for o in self.optimizers for g in o.param_groups], {})

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Evaluate the closure once, then step all."""
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        for optimizer in self.optimizers:
            optimizer.step()
        return result

    def state_dict(self) -> dict[str, Any]:
        """Return the states of all."""
        return {"optimizers": [o.state_dict() for o in self.optimizers]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the states of all."""
        for optimizer, state in zip(self.optimizers, state_dict["optimizers"], strict=True):
            optimizer.load_state_dict(state)
        self.param_groups = [g for o in self.optimizers for g in o.param_groups]


OPTIONS = ("betas", "eps", "weight_decay", "momentum")
"""Options of groups that may change when a run is continued; the learning rate is set at every step."""


def load_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Restore an optimizer's state, with the options that it was built with."""
    options = [{k: g[k] for k in OPTIONS if k in g} for g in optimizer.param_groups]
    optimizer.load_state_dict(state)
    for group, own in zip(optimizer.param_groups, options, strict=True):
        group.update(own)


@torch.no_grad()
def read_average(model: nn.Module, optimizer: torch.optim.Optimizer, average: AveragedModel) -> None:
    """Copy schedule-free's average x of the weights, x = y + (1 − 1/β₁)(z − y), into ``average``.

    ``optimizer.eval()`` and ``train()`` would exchange them in place, and not to the last bit.
    """
    found: dict[nn.Parameter, Tensor] = {}
    for group in optimizer.param_groups:
        for p in group["params"]:
            z = optimizer.state[p].get("z", p)
            found[p] = p.lerp(z, 1.0 - 1.0 / group["betas"][0])
    for p, a in zip(model.parameters(), average.module.parameters(), strict=True):
        a.copy_(found.get(p, p))
